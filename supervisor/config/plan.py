"""What a reload changes, and when each change takes effect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .model import App, Config
from .units import Address

RESTART = ("data_dir", "listen", "gateway", "redis", "cluster", "node", "isolation")
SEARCH_LIVE = ("search.timeout", "search.while_building")
PER_PROCESS = {
    ("account",), ("javascript",), ("source",), ("source_map",), ("modules",), ("modules_dir",),
    ("timezone",), ("globals",),
    ("limits", "heap"), ("limits", "memory"), ("limits", "stack"), ("limits", "jit"),
    ("limits", "open_files"), ("limits", "boot"), ("pool", "messages_in_flight"),
}  # fmt: skip
SHOWN: Mapping[tuple[str, ...], str] = {
    ("source",): "javascript (its text)",
    ("source_map",): "javascript (its source map)",
}


PLAIN = {
    "account", "app", "country_code", "javascript", "level", "mode", "timezone", "transport_type",
    "type",
}  # settings whose texts are no secrets  # fmt: skip
VALUE_MAX = 200  # characters


@attrs.frozen
class Change:
    """A setting that a reload would change.

    Attributes:
        when: live, next_process or restart (see `plan`).
        before: Its value; None if it is not shown, or there is none.
        after: Likewise.
    """

    name: str
    when: str
    before: str | None
    after: str | None


def plan(old: Config, new: Config) -> dict[str, list[str]]:
    """List the changed settings by when they take effect.

    `live`: with the next run. `next_process`: in processes started from now on; older ones end when
    they are idle. `restart`: when the supervisor is restarted.
    """
    changes: dict[str, list[str]] = {"live": [], "next_process": [], "restart": []}
    tokens = "listen.admin_tokens"
    for name in RESTART:
        changes["restart"] += _differences(getattr(old, name), getattr(new, name), (name,))
    if tokens in changes["restart"] and old.listen != until_restart(old, new).listen:
        changes["restart"].remove(tokens)
        changes["live"].append(tokens)
    for name in _differences(old.search, new.search, ("search",)):
        changes["live" if name in SEARCH_LIVE else "next_process"].append(name)
    for kind in ("journal", "log", "otel", "accounts", "channels"):
        changes["live"] += _differences(getattr(old, kind), getattr(new, kind), (kind,))
    for name in sorted({*old.apps, *new.apps}):
        before, after = old.apps.get(name), new.apps.get(name)
        if before is None or after is None:
            changes["live"].append(f"apps.{name} ({'removed' if after is None else 'new'})")
            continue
        for path in _app_differences(before, after):
            bucket = "next_process" if path in PER_PROCESS else "live"
            shown = SHOWN.get(path) or ".".join(path)
            changes[bucket].append(f"apps.{name}.{shown}")
    return changes


def until_restart(old: Config, new: Config) -> Config:
    """The new config, with what needs a restart as it was. Admin tokens change at once, unless
    that would leave a port that other hosts can reach without any.
    """
    kept = {name: getattr(old, name) for name in RESTART}
    tokens = new.listen.admin_tokens
    if tokens or old.listen.admin.is_loopback:
        kept["listen"] = attrs.evolve(old.listen, admin_tokens=tokens)
    return attrs.evolve(new, **kept)


def changes(old: Config, new: Config) -> list[Change]:
    """The same as `plan`, each setting with its values, as far as they can hold no secret."""
    found = []
    for when, names in plan(old, new).items():
        for name in names:
            # what follows the path says that the value is not all: a text, a whole app
            before, after = (
                (None, None)
                if " " in name
                else (_shown(name, _value(old, name)), _shown(name, _value(new, name)))
            )
            found.append(Change(name, when, before, after))
    return found


def _value(config: Config, path: str) -> Any:
    """What a dotted path leads to; None if it leads nowhere. Names of apps may have dots."""
    found: Any = config
    left = path
    while left and found is not None:
        keys = found if isinstance(found, Mapping) else [a.name for a in attrs.fields(type(found))]
        fitting = [key for key in keys if left == key or left.startswith(f"{key}.")]
        if not fitting:
            return None
        key = max(fitting, key=len)
        found = found[key] if isinstance(found, Mapping) else getattr(found, key)
        left = left[len(key) + 1 :]
        if left and not (isinstance(found, Mapping) or attrs.has(type(found))):
            return None
    return found


def _shown(path: str, value: Any) -> str | None:
    """A value for a person; None if there is none, or if it may hold a secret or is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Address):
        return str(value)
    is_plain = path.rpartition(".")[2] in PLAIN and isinstance(value, str | Path)
    return str(value)[:VALUE_MAX] if is_plain else None


def _app_differences(old: App, new: App) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for a in attrs.fields(App):
        before, after = getattr(old, a.name), getattr(new, a.name)
        if before == after:
            continue
        if attrs.has(type(before)) and attrs.has(type(after)):
            found += [
                (a.name, b.name)
                for b in attrs.fields(type(before))
                if getattr(before, b.name) != getattr(after, b.name)
            ]
        else:
            found.append((a.name,))
    return found


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> list[str]:
    if old == new:
        return []
    if attrs.has(type(old)) and type(old) is type(new) and not isinstance(old, Address):
        return [
            name
            for a in attrs.fields(type(old))
            for name in _differences(getattr(old, a.name), getattr(new, a.name), (*path, a.name))
        ]
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            name for key in keys for name in _differences(old.get(key), new.get(key), (*path, key))
        ]
    return [".".join(path)]
