"""Tests of supervisor/tools."""
