"""Tests of the metadata server."""
