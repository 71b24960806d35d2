"""Tests of filefly/catalog."""
