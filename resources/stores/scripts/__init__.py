"""The Lua scripts: one file each beside this one, one atomic step each, on keys of one hash tag.

Each file says at its head what its KEYS and ARGV are and what it returns. A file whose name begins with "_" is no script: its
functions are put before the scripts named in `PRELUDES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

_FOLDER = Path(__file__).parent
PRELUDES = {
    "_contact": ("contact_find", "contact_find_or_create", "contact_write"),
    "_deadletters": ("deadletter_put", "deadletter_take"),
    "_statistics": ("journal_accept", "statistics_outbound", "statistics_rate"),
}


@frozen
class Script:
    """A Lua script, called by its digest."""

    name: str
    text: str
    digest: str

    def call(self, keys: Sequence[str], *args: Any) -> tuple[Any, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


@cache
def _all() -> dict[str, Script]:
    scripts = {}
    preludes = {
        name: (_FOLDER / f"{prelude}.lua").read_text("utf-8") for prelude, names in PRELUDES.items() for name in names
    }
    for file in sorted(_FOLDER.glob("[!_]*.lua")):
        text = preludes.get(file.stem, "") + file.read_text("utf-8")
        scripts[file.stem] = Script(file.stem, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324
    return scripts


def all_scripts() -> list[Script]:
    """Every script there is."""
    return list(_all().values())


def script(name: str) -> Script:
    """The script in `name`.lua."""
    return _all()[name]


def in_full(command: Sequence[Any]) -> tuple[Any, ...]:
    """An EVALSHA as the EVAL that a server understands which does not know the script."""
    return ("EVAL", by_digest(command[1]).text, *command[2:])


def by_digest(digest: str) -> Script:
    """The script that has this SHA-1, as EVALSHA names it."""
    return next(one for one in _all().values() if one.digest == digest)
