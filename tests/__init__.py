"""Tests; the folders mirror `filefly/`."""
