"""The jsbox supervisor; CONTRIBUTING.md shows its folders, and a message's way through them."""

__version__ = "0.1.0"
