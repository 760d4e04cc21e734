"""`python -m supervisor`, and the `jsbox` command."""

import sys

if sys.argv[1:2] == ["serve"]:
    from . import early

    early.watch()  # before the imports, which take a while

from .cli import main  # see above

if __name__ == "__main__":
    main()
