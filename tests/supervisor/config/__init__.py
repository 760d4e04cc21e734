"""Tests of supervisor/config."""
