"""Contact search: one search process (`process`), kept alive and asked by `client`."""

from .client import Search, open_search

__all__ = ["Search", "open_search"]
