"""Ports: listening sockets, connections counted and bounded, HTTP/1.1."""
