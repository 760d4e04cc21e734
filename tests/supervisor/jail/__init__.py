"""Tests of supervisor/jail."""
