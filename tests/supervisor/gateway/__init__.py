"""Tests of supervisor/gateway."""
