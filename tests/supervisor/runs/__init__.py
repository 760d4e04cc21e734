"""Tests of supervisor/runs."""
