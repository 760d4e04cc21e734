"""Load a config file into a `Config`, or report every error in it at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

import cattrs
from attrs import define, evolve, field, fields

from resources.fence import cause_of

from .accounts import Account
from .bounds import DEPTH_MAX, path_too_deep
from .checks import check, name_problem
from .convert import CONVERTER, PIECES, SECTIONS, TABLES, leaves, unknown_key
from .document import InvalidConfig, Problem, one_line, read_toml
from .files import FILE_MAX, Unreadable, read_text
from .json_values import not_json
from .locate import Path
from .model import CHANNEL_SIDES, App, Breakage, Channel, Config
from .source_maps import source_map_of
from .units import shorten, show
from .variables import Variables

VERSION = 1
TOP_LEVEL = ("version", "data_dir", *PIECES, "defaults", *TABLES)
CONFIG_MAX = 4 << 20  # bytes of the file itself; a larger one could take minutes to parse
PROBLEMS_MAX = 1000  # reported at once
OF_NODE = "node:"  # a prefix of Node's own modules, with or without which they are the same

T = TypeVar("T")


class _Enough(Exception):
    """There are more problems than anyone reads."""


def load(file: FilePath) -> Config:
    """Read a config file and the apps' files that it names.

    Raises:
        InvalidConfig: With every error in it. There is no other Exception: an unforeseen one also
            makes the file invalid.
    """
    try:
        # resolve() would follow links out of the file's folder
        file = FilePath(os.path.abspath(file))  # noqa: PTH100
        document, lines = read_toml(file, CONFIG_MAX)
        return _Loader(file, lines).config(document)
    except InvalidConfig:
        raise
    except Exception as error:
        raise InvalidConfig(file, [Problem(1, f"cannot be checked: {cause_of(error)}")]) from error


@define
class _Loader:
    """Structures a document piece by piece, so that an error in one does not hide the others."""

    file: FilePath
    lines: Mapping[Path, int]
    problems: list[Problem] = field(factory=list)
    breakages: list[Breakage] = field(factory=list)
    variables: Variables = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.variables = Variables(self.fault)

    def config(self, document: dict[str, Any]) -> Config:
        try:
            return self.checked(document)
        except _Enough:
            raise InvalidConfig(self.file, self.problems) from None

    def checked(self, document: dict[str, Any]) -> Config:
        deep = path_too_deep(document)
        if deep is not None:
            self.fault(
                deep, f"expected at most {DEPTH_MAX} levels of tables and lists in each other"
            )
            raise _Enough
        document = self.expand(document, ())
        data_dir = self.top_level(document)
        if isinstance(document.get("listen"), dict):
            document["listen"] = self.with_paths(document["listen"], "certificate", "key")
        pieces: dict[str, Any] = {
            name: self.guarded((name,), partial(self.piece, kind, document.get(name, {}), (name,)))
            for name, kind in PIECES.items()
        }
        defaults = self.defaults(document.get("defaults", {}))
        tables = {name: self.table(name, document.get(name, {}), defaults) for name in TABLES}
        config = Config(
            data_dir=self.file.parent / data_dir,
            file=self.file,
            **{name: value for name, value in (pieces | tables).items() if value is not None},
        )
        given = {name: document.get(name) for name in TABLES}
        declared = {
            name: frozenset(raw if isinstance(raw, dict) else ()) for name, raw in given.items()
        }
        config, found, warnings = check(config, declared)
        for path, text in found:
            self.fault(path, text)
        if self.problems:
            raise InvalidConfig(self.file, self.problems)
        said = {f"apps.{one.app}.{one.text.partition(' ')[0]}" for one in self.breakages}
        warnings = [one_line(text) for text in warnings if text.partition(":")[0] not in said]
        return evolve(config, warnings=tuple(warnings), breakages=tuple(self.breakages))

    def top_level(self, document: dict[str, Any]) -> str:
        """Check the keys that are in no table; return the data_dir."""
        version = document.get("version", VERSION)
        if version != VERSION or isinstance(version, bool):
            self.fault(("version",), f"expected {VERSION}, got {show(version)}")
        self.unknown_keys(document, TOP_LEVEL, ())
        data_dir = document.get("data_dir", "jsbox-data")
        if not isinstance(data_dir, str) or not data_dir or "\0" in data_dir:
            self.fault(("data_dir",), f"expected a path, got {show(data_dir)}")
            return "jsbox-data"
        return data_dir

    def defaults(self, raw: Any) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self.is_table(raw, ("defaults",))
            return {}
        self.unknown_keys(raw, tuple(SECTIONS), ("defaults",))
        for name, kind in SECTIONS.items():
            path = ("defaults", name)
            self.guarded(path, partial(self.piece, kind, raw.get(name, {}), path))
        return raw

    def guarded(self, path: Path, step: Callable[[], T | None]) -> T | None:
        """Do a step with the value at a path; report any failure as a problem of that value."""
        try:
            return step()
        except _Enough:
            raise
        except Exception as error:  # noqa: BLE001  # one bad value must not hide other errors
            self.fault(path, f"cannot be used: {cause_of(error)}")
            return None

    def table(self, name: str, raw: Any, defaults: dict[str, Any]) -> dict[str, Any]:
        if not self.is_table(raw, (name,)):
            return {}
        values = {}
        for key, item in raw.items():
            path = (name, key)
            if problem := name_problem(key):
                self.fault(path, problem)
            elif self.is_table(item, path):
                values[key] = self.guarded(path, partial(self.item, name, key, item, defaults))
        return {key: value for key, value in values.items() if value is not None}

    def item(self, table: str, key: str, raw: dict[str, Any], defaults: dict[str, Any]) -> Any:
        path = (table, key)
        if table == "accounts":
            return self.piece(Account, raw, path)
        if table == "channels":
            return self.channel(key, raw, path)
        merged = {**raw, "name": key}
        for section in SECTIONS:
            inherited, own = defaults.get(section, {}), raw.get(section, {})
            if isinstance(inherited, dict) and isinstance(own, dict):
                merged[section] = _merge(inherited, own)
        self.read_config_values(merged, path)
        app = self.piece(App, self.with_paths(merged, "javascript", "modules_dir"), path)
        app = app if app is None else self.with_source(app, path)
        if app is not None:
            self.breakages += not_json(app, partial(self.place_of_value, raw, path))
        return app

    def channel(self, name: str, raw: dict[str, Any], path: Path) -> Channel | None:
        """A channel, with the keys that only its type has."""
        kind = raw.get("type")
        side = CHANNEL_SIDES.get(kind) if isinstance(kind, str) else None
        own = [a.name for a in fields(side)] if side is not None else []
        common = [a.name for a in fields(Channel) if a.name not in ("name", *CHANNEL_SIDES)]
        if kind == "amqp":
            common.remove("tokens")  # the broker knows who may use it
        self.unknown_keys(raw, (*common, *own), path)
        given = {key: raw[key] for key in common if key in raw}
        channel = self.piece(Channel, {**given, "name": name}, path)
        if channel is None or side is None:
            return channel
        settings: Any = self.piece(side, {key: raw[key] for key in own if key in raw}, path)
        return evolve(channel, amqp=settings) if kind == "amqp" else evolve(channel, http=settings)

    def place_of_value(self, raw: dict[str, Any], path: Path, key: str) -> tuple[FilePath, int]:
        """The file that a config value of an app is in, and the line that it begins on; 1 if the
        value is the whole file.
        """
        value = raw["config"][key]
        if isinstance(value, dict):
            return self.file.parent / value["file"], 1
        return self.file, self.line_of((*path, "config", key))

    def with_paths(self, raw: dict[str, Any], *names: str) -> dict[str, Any]:
        """Turn some texts into paths relative to the file's folder; an empty text into None."""
        texts = {name: raw[name] for name in names if isinstance(raw.get(name), str)}
        return raw | {
            name: self.file.parent / text if text else None for name, text in texts.items()
        }

    def read_config_values(self, raw: dict[str, Any], path: Path) -> None:
        values = raw.get("config", {})
        if not isinstance(values, dict):
            return  # the converter reports it
        texts = {}
        for key, value in values.items():
            where = (*path, "config", key)
            if (
                isinstance(value, dict)
                and set(value) == {"file"}
                and isinstance(value["file"], str)
            ):
                text = self.read(self.file.parent / value["file"], (*where, "file"))
                if text is not None:
                    texts[key] = text
            elif isinstance(value, str):
                texts[key] = value
            else:
                self.fault(where, f'expected a string or {{ file = "path" }}, got {show(value)}')
        raw["config"] = texts

    def with_source(self, app: App, path: Path) -> App | None:
        source = self.read(app.javascript, (*path, "javascript"))
        modules = tuple(name.removeprefix(OF_NODE) for name in app.modules)
        if source is None:
            return None
        source_map = source_map_of(app.javascript, source)
        return evolve(app, source=source, source_map=source_map, modules=modules)

    def read(self, file: FilePath, path: Path) -> str | None:
        try:
            return read_text(file, FILE_MAX)
        except Unreadable as error:
            self.fault(path, f"cannot read {file}: {error}")
            return None

    def piece(self, kind: type[T], raw: Any, path: Path) -> T | None:
        if not self.is_table(raw, path):
            return None
        try:
            return CONVERTER.structure(raw, kind)
        except cattrs.BaseValidationError as group:
            wrong = list(leaves(group, path))
        for where, text in wrong:
            self.fault(where, text)
        # Without its wrong values the piece can still take part in the checks between pieces.
        repaired = copy.deepcopy(raw)
        for where, _ in wrong:
            _remove(repaired, where[len(path) :])
        try:
            return CONVERTER.structure(repaired, kind)
        except cattrs.BaseValidationError:
            return None

    def is_table(self, raw: Any, path: Path) -> bool:
        if isinstance(raw, dict):
            return True
        self.fault(path, f"expected a table, got {show(raw)}")
        return False

    def unknown_keys(self, raw: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
        for key in raw:
            if key not in known:
                self.fault((*path, key), unknown_key(key, known))

    def fault(self, path: Path, text: str) -> None:
        """Record an error at a path, on the line of the path or of its nearest parent."""
        where = path
        inherited = ("defaults", *path[2:])
        if path[0] == "apps" and path[2:3] and path[2] in SECTIONS and path not in self.lines:
            where = inherited if inherited in self.lines else path
        if where in self.variables.unset:
            return  # reported already
        text = self.variables.hide(text, where)
        line = self.line_of(where)
        at = ".".join(shorten(str(part)) for part in where)
        self.problems.append(Problem(line, one_line(f"{at}: {text}")))
        if len(self.problems) >= PROBLEMS_MAX:
            self.problems.append(
                Problem(line, f"there may be more errors: {PROBLEMS_MAX} are enough")
            )
            raise _Enough

    def line_of(self, path: Path) -> int:
        """The line of a path, or of its nearest parent that has one."""
        return next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1
        )

    def expand(self, value: Any, path: Path) -> Any:
        """The value at a path with its variables expanded, at any depth."""
        if isinstance(value, dict):
            return {key: self.expand(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        expanded = self.guarded(path, partial(self.variables.expand, value, path))
        if expanded is None:
            self.variables.unset.add(path)
            return ""
        return expanded


def _remove(table: dict[str, Any], path: Path) -> None:
    """Remove what is at a path; if that is in a list, the whole list."""
    *parents, last = path or ("",)
    for key in parents:
        if not isinstance(table.get(str(key)), dict):
            last = key
            break
        table = table[str(key)]
    table.pop(str(last), None)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge `over` into a copy of `base`, key by key, nested tables too."""
    merged = dict(base)
    for key, value in over.items():
        inherited = base.get(key)
        merged[key] = (
            _merge(inherited, value)
            if isinstance(inherited, dict) and isinstance(value, dict)
            else value
        )
    return merged
