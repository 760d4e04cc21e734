"""Tests of supervisor/admin."""
