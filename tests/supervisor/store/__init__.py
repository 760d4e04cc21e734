"""Tests of supervisor/store."""
