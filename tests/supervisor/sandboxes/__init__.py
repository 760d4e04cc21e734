"""Tests of supervisor/sandboxes."""
