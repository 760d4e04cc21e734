"""The exporting process begins here: protected before anything slow is imported, since headers in
its environment are secrets.
"""

from __future__ import annotations

from resources.kernel import protect


def main() -> None:
    """Work until the standard input ends."""
    protect()
    from .sending import work  # a second or more

    work()


if __name__ == "__main__":
    main()
