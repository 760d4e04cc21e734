"""`python -m supervisor`, and the `jsbox` command."""

from .cli import main

if __name__ == "__main__":
    main()
