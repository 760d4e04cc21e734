"""Tests of supervisor/host."""
