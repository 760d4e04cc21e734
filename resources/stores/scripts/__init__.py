"""The Lua scripts: one file each, one atomic step each, on keys of one hash tag.

The head of each file lists its KEYS and ARGV and what it returns. A file whose name begins with "_"
is not a script: its functions are put before the scripts named in `PRELUDES`.

A script is not rolled back if one of its commands is refused. So each script checks what may be
refused before its first write (_checks.lua).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from attrs import frozen

_FOLDER = Path(__file__).parent
PRELUDES = {
    "_checks": (
        "contact_find",
        "contact_find_or_create",
        "contact_write",
        "contacts_changed",
        "deadletter_put",
        "deadletter_take",
        "journal_accept",
        "kv_count",
        "kv_delete",
        "kv_incr",
        "kv_set",
        "outbox_move",
        "outbox_post",
        "outbox_raise",
        "outbox_send",
        "outbox_strike",
        "statistics_outbound",
        "statistics_rate",
    ),
    "_contact": ("contact_find", "contact_find_or_create", "contact_write"),
    "_deadletters": ("deadletter_put", "deadletter_take"),
    "_kv": ("kv_set", "kv_incr", "kv_delete"),
    "_statistics": ("journal_accept", "statistics_outbound", "statistics_rate"),
}
FENCED = frozenset({
    "contact_find_or_create", "contact_write", "group_create", "group_update", "journal_end",
    "kv_delete", "kv_incr", "kv_set", "optout_clear", "optout_set",
})  # fmt: skip
"""Scripts that a run writes with. Each has a second form, which writes only while the server that
runs it owns the partition (_fence.lua)."""
UNMOVED = frozenset({
    "contact_find", "contact_find_or_create", "contact_write", "contacts_changed", "group_create",
    "group_list", "group_update", "outbox_send", "recording_put", "statistics_outbound",
    "statistics_rate",
})  # fmt: skip
"""Scripts that touch more keys than they can name beforehand. Before a script begins, a cluster
checks only the keys that it names; in a slot that is being moved, the others may be gone already,
and the script would fail in the middle. So these scripts name one more key, which never exists:
for a slot that is being moved, the cluster then refuses the whole call (TRYAGAIN).
"""


@frozen
class Script:
    """A Lua script, called by its digest."""

    name: str
    text: str
    digest: str
    fenced_digest: str = ""  # of its second form, if it is in `FENCED`

    def call(self, keys: Sequence[str], *args: Any) -> tuple[Any, ...]:
        """The command that runs it."""
        keys = self._all_keys(keys)
        return ("EVALSHA", self.digest, len(keys), *keys, *args)

    def call_fenced(
        self, keys: Sequence[str], args: Sequence[Any], key: str, owner: bytes
    ) -> tuple[Any, ...]:
        """As `call`, if `key` names `owner`; else it is refused as FENCED."""
        keys = self._all_keys(keys)
        return ("EVALSHA", self.fenced_digest, len(keys) + 1, *keys, key, *args, owner)

    def _all_keys(self, keys: Sequence[str]) -> Sequence[str]:
        if self.name not in UNMOVED:
            return keys
        return (*keys, f"{keys[0][: keys[0].index('}') + 1]}:unmoved")


@cache
def _all() -> dict[str, Script]:
    scripts = {}
    preludes = defaultdict[str, str](str)
    for prelude, names in PRELUDES.items():
        for name in names:
            preludes[name] += _read(prelude)
    preludes["outbox_send"] += f"local function post()\n{_read('outbox_post')}end\n"
    for file in sorted(_FOLDER.glob("[!_]*.lua")):
        name = file.stem
        text = preludes[name] + _read(name)
        fenced = ""
        if name in FENCED:
            second = _read("_fence") + text
            fenced = _digest(second)
            scripts[f"{name}, fenced"] = Script(name, second, fenced)
        scripts[name] = Script(name, text, _digest(text), fenced)
    return scripts


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text("utf-8")


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # as Redis names scripts


def all_scripts() -> list[Script]:
    """All scripts, in all their forms."""
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
    """Turn an EVALSHA into an EVAL, for a server that does not know the script."""
    return ("EVAL", by_digest(command[1]).text, *command[2:])


def by_digest(digest: str) -> Script:
    """The script with this SHA-1, as EVALSHA names it."""
    return next(one for one in _all().values() if one.digest == digest)
