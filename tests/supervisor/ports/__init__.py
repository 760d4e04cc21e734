"""Tests of supervisor/ports."""
