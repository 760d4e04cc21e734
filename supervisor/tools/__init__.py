"""Offline work behind a command."""
