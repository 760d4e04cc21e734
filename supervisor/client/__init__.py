"""Clients of the gateway. They know nothing of the server."""
