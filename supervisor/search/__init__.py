"""The search process, kept alive (`running`), and the questions to it (`client`)."""

from .client import Search, open_search

__all__ = ["Search", "open_search"]
