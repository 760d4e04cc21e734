"""Channels of type http: Junebug's HTTP API, from the side of an application."""
