"""The strict converter from TOML values to the attrs classes of `model`.

A config file must say what it means: every type is taken exactly, and keys that a class does not
have are errors.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Literal, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from resources.fence import cause_of
from resources.strict import WrongType, exact_converter, exactly

from .accounts import Account
from .locate import Path
from .model import (
    CHANNEL_SIDES,
    App,
    Channel,
    Cluster,
    Gateway,
    Http,
    Isolation,
    Journal,
    Limits,
    Listen,
    NodeSettings,
    Pool,
    RedisServer,
    SearchSettings,
)
from .observing import Failing, Log, LogOutput, Metrics, Otel, Trace
from .tokens import AdminToken, parse_tokens
from .units import (
    Address,
    Count,
    CountryCode,
    Duration,
    Natural,
    Nice,
    Percent,
    Size,
    Urls,
    parse_address,
    parse_count,
    parse_country_code,
    parse_duration,
    parse_natural,
    parse_nice,
    parse_percent,
    parse_size,
    parse_urls,
    shorten,
    show,
)

SECTIONS: dict[str, type] = {
    "pool": Pool,
    "limits": Limits,
    "http": Http,
    "log": Log,
    "metrics": Metrics,
    "failing": Failing,
    "trace": Trace,
}
"""Tables of [defaults] that an app may override key by key."""
PIECES: dict[str, type] = {
    "listen": Listen,
    "gateway": Gateway,
    "redis": RedisServer,
    "cluster": Cluster,
    "node": NodeSettings,
    "isolation": Isolation,
    "search": SearchSettings,
    "journal": Journal,
    "log": LogOutput,
    "otel": Otel,
}
"""Tables for the whole host."""
TABLES: dict[str, type] = {"accounts": Account, "apps": App, "channels": Channel}
"""Tables of named tables."""
KEY_MAX = 100  # characters; for a longer unknown key no similar one is looked for
HIDDEN = {"name", "source", "source_map"}  # fields set by the loader, not the file


def unknown_key(key: str, known: tuple[str, ...]) -> str:
    """The error text for a key that the table does not have."""
    close = difflib.get_close_matches(key, known, n=1) if len(key) <= KEY_MAX else []
    hint = f"did you mean `{close[0]}`?" if close else "known: " + ", ".join(known)
    return f"unknown key `{shorten(key)}`; {hint}"


def leaves(group: BaseException, path: Path) -> Iterator[tuple[Path, str]]:
    """Each error in a cattrs error group, with the path of its value."""
    if isinstance(group, cattrs.BaseValidationError):
        for error in group.exceptions:
            notes = getattr(error, "__notes__", ())
            yield from leaves(error, (*path, *_places(notes)))
    elif isinstance(group, cattrs.ForbiddenExtraKeysError):
        known = tuple(a.name for a in attrs.fields(group.cl) if a.name not in HIDDEN)
        for key in sorted(group.extra_fields):
            yield (*path, key), unknown_key(key, known)
    elif isinstance(group, KeyError) and group.args:
        yield (
            path[:-1] if path and path[-1] == group.args[0] else path,
            f"the key `{group.args[0]}` is missing",
        )
    elif isinstance(group, WrongType):
        yield path, f"{group}, got {show(group.value)}"
    elif isinstance(group, ValueError):
        yield path, str(group)
    else:
        yield path, f"cannot be used: {cause_of(group)}"


def _places(notes: Iterable[Any]) -> Path:
    """The key or index that cattrs noted on an error, if any."""
    for note in notes:
        if isinstance(note, cattrs.AttributeValidationNote):
            return (note.name,)
        if isinstance(note, cattrs.IterableValidationNote):
            return (note.index,)
    return ()


def _one_of(value: Any, kind: Any) -> Any:
    allowed = get_args(kind)
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"expected {' or '.join(show(item) for item in allowed)}, got {show(value)}")


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"expected a list of strings, got {show(value)}")


def read_mappings(converter: cattrs.Converter) -> None:
    """Have a converter read Mapping[str, X] as it reads X. A copy must be told again: it keeps what
    the original reads them with.
    """
    hook = partial(_mapping_hook, converter)
    converter.register_structure_hook_factory(partial(_has_origin, Mapping), hook)


def _mapping_hook(converter: cattrs.Converter, kind: Any) -> Any:
    inner = get_args(kind)[1]

    def structure(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table, got {show(value)}")  # noqa: TRY004  # as all hooks
        errors, result = [], {}
        for key, item in value.items():
            try:
                result[key] = converter.structure(item, inner)
            except Exception as error:  # noqa: BLE001  # any failure is a problem of that key
                error.__notes__ = [cattrs.AttributeValidationNote("", key, inner)]
                errors.append(error)
        if errors:
            raise cattrs.ClassValidationError("", errors, dict)
        return result

    return structure


def _optional_address(value: Any) -> Address | None:
    return None if value == "" else parse_address(value)


def _converter() -> cattrs.Converter:
    converter = exact_converter((str, bool, int), forbid_extra_keys=True)
    converter.register_structure_hook_func(partial(_has_origin, Literal), _one_of)
    read_mappings(converter)
    parsers: dict[Any, Any] = {
        Duration: parse_duration,
        Size: parse_size,
        Count: parse_count,
        Natural: parse_natural,
        Nice: parse_nice,
        Percent: parse_percent,
        CountryCode: parse_country_code,
        Natural | None: parse_natural,
        Urls: parse_urls,
        Address: parse_address,
        Address | None: _optional_address,
        FilePath: _path,
        FilePath | None: _optional_path,
        tuple[str, ...]: _strings,
        tuple[AdminToken, ...]: parse_tokens,
        str | None: _string,
    }
    for kind, parse in parsers.items():
        converter.register_structure_hook_func(partial(operator.eq, kind), partial(_parsed, parse))
    for kind in (*PIECES.values(), *SECTIONS.values(), *TABLES.values(), *CHANNEL_SIDES.values()):
        converter.register_structure_hook(
            kind, make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)
        )
    return converter


def _has_origin(origin: Any, kind: Any) -> bool:
    return get_origin(kind) is origin


def _path(value: Any) -> FilePath:
    if isinstance(value, FilePath):
        return value
    raise ValueError(f"expected a path, got {show(value)}")


def _optional_path(value: Any) -> FilePath | None:
    return None if value is None else _path(value)


def _string(value: Any) -> str:
    return str(exactly(value, str))


def _parsed(parse: Any, value: Any, _: Any) -> Any:
    return parse(value)


CONVERTER = _converter()
