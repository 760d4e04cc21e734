"""The Lua scripts: one file each beside this one, one atomic step each, on keys of one hash tag.

Each file says at its head what its KEYS and ARGV are and what it returns. A file whose name begins
with "_" is no script: its functions are put before the scripts named in `PRELUDES`.
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
    "_kv": ("kv_set", "kv_incr", "kv_delete"),
    "_statistics": ("journal_accept", "statistics_outbound", "statistics_rate"),
}
UNMOVED = frozenset({
    "contact_find", "contact_find_or_create", "contact_write", "contacts_changed", "group_create", "group_list",
    "group_update", "recording_put", "statistics_outbound", "statistics_rate",
})  # fmt: skip
"""Scripts that touch more keys than they can name ahead. A cluster looks at the named ones only before it begins: in a slot
that is being moved to another node the others may be gone already, and the script would fail in the middle. So these name one
more key, which never exists: of a slot on the move such a command is refused as a whole (TRYAGAIN), and it costs nothing else.
"""


@frozen
class Script:
    """A Lua script, called by its digest."""

    name: str
    text: str
    digest: str

    def call(self, keys: Sequence[str], *args: Any) -> tuple[Any, ...]:
        """The command that runs it."""
        if self.name in UNMOVED:
            keys = (*keys, f"{keys[0][: keys[0].index('}') + 1]}:unmoved")
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


@cache
def _all() -> dict[str, Script]:
    scripts = {}
    preludes = {
        name: (_FOLDER / f"{prelude}.lua").read_text("utf-8")
        for prelude, names in PRELUDES.items()
        for name in names
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


def is_known(command: Sequence[Any]) -> bool:
    """Whether a command calls one of our scripts by its digest."""
    return (
        len(command) > 1
        and command[0] == "EVALSHA"
        and any(one.digest == command[1] for one in _all().values())
    )


def in_full(command: Sequence[Any]) -> tuple[Any, ...]:
    """An EVALSHA as the EVAL that a server understands which does not know the script."""
    return ("EVAL", by_digest(command[1]).text, *command[2:])


def by_digest(digest: str) -> Script:
    """The script that has this SHA-1, as EVALSHA names it."""
    return next(one for one in _all().values() if one.digest == digest)
