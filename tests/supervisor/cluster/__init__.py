"""Tests of the servers that share the work."""
