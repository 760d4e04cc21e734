"""Tests of supervisor/search."""
