"""From the text of a config file to a `Config`, or to every error in it at once."""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

import cattrs
from attrs import define, evolve, field, frozen

from .checks import check
from .convert import CONVERTER, PIECES, SECTIONS, TABLES, leaves, unknown_key
from .locate import Path, locate
from .model import Account, App, Channel, Config
from .units import show

VERSION = 1
TOP_LEVEL = ("version", "data_dir", *PIECES, "defaults", *TABLES)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ENV = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
FILE_MAX = 16 << 20  # bytes of a config file, an app or a config value

T = TypeVar("T")


@frozen
class Problem:
    """One thing wrong in a config file."""

    line: int
    text: str


class InvalidConfig(Exception):
    """The file cannot be used. `problems` has everything that is wrong with it, in the order of its lines."""

    def __init__(self, file: FilePath, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(set(problems), key=lambda problem: (problem.line, problem.text))
        super().__init__("\n".join(f"{file}:{p.line}: {p.text}" for p in self.problems))


def load(file: FilePath) -> Config:
    """Read a config file and the apps' files it names.

    Raises:
        InvalidConfig: With every error in it.
    """
    file = FilePath(os.path.abspath(file))  # noqa: PTH100  # resolve() would follow links out of the file's folder
    document, lines = read_toml(file, FILE_MAX)
    return _Loader(file, lines).config(document)


def read_toml(file: FilePath, most: int) -> tuple[dict[str, Any], Mapping[Path, int]]:
    """A TOML file of at most so many bytes, and the line of each of its keys. Raises InvalidConfig."""
    try:
        if file.stat().st_size > most:
            raise InvalidConfig(file, [Problem(1, f"the file is larger than {most} bytes")])
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(file, [Problem(1, f"cannot be read: {_reason(error)}")]) from error
    try:
        return tomllib.loads(text), locate(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise InvalidConfig(file, [Problem(line, f"not valid TOML: {error}")]) from error


@define
class _Loader:
    """Structures a document piece by piece, so that an error in one piece does not hide those in the others."""

    file: FilePath
    lines: Mapping[Path, int]
    problems: list[Problem] = field(factory=list)
    written: dict[Path, str] = field(factory=dict)  # values as the file has them, where ${ENV} was put in
    unset: set[Path] = field(factory=set)  # of these, the ones whose variable is not set

    def config(self, document: dict[str, Any]) -> Config:
        document = self.expand(document, ())
        version = document.get("version", VERSION)
        if version != VERSION or isinstance(version, bool):
            self.fault(("version",), f"expected {VERSION}, got {show(version)}")
        self.unknown_keys(document, TOP_LEVEL, ())
        data_dir = document.get("data_dir", "jsbox-data")
        if not isinstance(data_dir, str) or not data_dir:
            self.fault(("data_dir",), f"expected a path, got {show(data_dir)}")
            data_dir = "jsbox-data"
        if isinstance(document.get("listen"), dict):
            document["listen"] = self.with_paths(document["listen"], "certificate", "key")
        pieces: dict[str, Any] = {
            name: self.piece(kind, document.get(name, {}), (name,)) for name, kind in PIECES.items()
        }
        defaults = self.defaults(document.get("defaults", {}))
        tables = {name: self.table(name, document.get(name, {}), defaults) for name in TABLES}
        config = Config(
            data_dir=self.file.parent / data_dir,
            file=self.file,
            **{name: value for name, value in (pieces | tables).items() if value is not None},
        )
        declared = {name: frozenset(document.get(name) or ()) for name in TABLES}
        config, found, warnings = check(config, declared)
        for path, text in found:
            self.fault(path, text)
        if self.problems:
            raise InvalidConfig(self.file, self.problems)
        return evolve(config, warnings=tuple(warnings))

    def defaults(self, raw: Any) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self.is_table(raw, ("defaults",))
            return {}
        self.unknown_keys(raw, tuple(SECTIONS), ("defaults",))
        for name, kind in SECTIONS.items():
            self.piece(kind, raw.get(name, {}), ("defaults", name))
        return raw

    def table(self, name: str, raw: Any, defaults: dict[str, Any]) -> dict[str, Any]:
        if not self.is_table(raw, (name,)):
            return {}
        values = {}
        for key, item in raw.items():
            path = (name, key)
            if not NAME.fullmatch(key):
                self.fault(path, f"the name {show(key)} may have letters, digits, '.', '_' and '-', 100 at most")
            elif self.is_table(item, path):
                values[key] = self.item(name, key, item, defaults)
        return {key: value for key, value in values.items() if value is not None}

    def item(self, table: str, key: str, raw: dict[str, Any], defaults: dict[str, Any]) -> Any:
        path = (table, key)
        if table == "accounts":
            return self.piece(Account, raw, path)
        if table == "channels":
            return self.piece(Channel, {**raw, "name": key}, path)
        merged = {**raw, "name": key}
        for section in SECTIONS:
            inherited, own = defaults.get(section, {}), raw.get(section, {})
            if isinstance(inherited, dict) and isinstance(own, dict):
                merged[section] = _merge(inherited, own)
        self.read_config_values(merged, path)
        app = self.piece(App, self.with_paths(merged, "javascript", "modules_dir"), path)
        return app if app is None else self.with_source(app, path)

    def with_paths(self, raw: dict[str, Any], *names: str) -> dict[str, Any]:
        """Some of its texts as paths from the file's folder; an empty one is none."""
        texts = {name: raw[name] for name in names if isinstance(raw.get(name), str)}
        return raw | {name: self.file.parent / text if text else None for name, text in texts.items()}

    def read_config_values(self, raw: dict[str, Any], path: Path) -> None:
        values = raw.get("config", {})
        if not isinstance(values, dict):
            return  # the converter says so
        texts = {}
        for key, value in values.items():
            where = (*path, "config", key)
            if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str):
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
        return None if source is None else evolve(app, source=source)

    def read(self, file: FilePath, path: Path) -> str | None:
        try:
            if file.stat().st_size > FILE_MAX:
                self.fault(path, f"{file} is larger than {FILE_MAX} bytes")
                return None
            return file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.fault(path, f"cannot read {file}: {_reason(error)}")
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
        # Without what is wrong in it the piece may still be looked at by the checks between pieces.
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
        """Record an error at a path, on the nearest line that the file has for it."""
        where = path
        if path[0] == "apps" and len(path) > 2 and path[2] in SECTIONS and path not in self.lines:  # noqa: PLR2004
            inherited = ("defaults", *path[2:])
            where = inherited if inherited in self.lines else path
        if where in self.unset:
            return  # said already
        if where in self.written:
            text = text.split(", got ", maxsplit=1)[0] + f", got {show(self.written[where])} with its variables put in"
        line = next((self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), 1)
        self.problems.append(Problem(line, f"{'.'.join(map(str, where))}: {text}"))

    def expand(self, value: Any, path: Path) -> Any:
        """Put environment variables in for `${NAME}`; `$$` is a dollar sign."""
        if isinstance(value, dict):
            return {key: self.expand(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value

        def put_in(found: re.Match[str]) -> str:
            if found[1] is None:
                return "$"
            text = _secret(found[1])
            if text is None:
                where = ", nor is it among systemd's credentials" if "CREDENTIALS_DIRECTORY" in os.environ else ""
                self.fault(path, f"the environment has no variable {found[1]}{where}, which {show(value)} asks for")
                self.unset.add(path)
            return text or ""

        expanded = ENV.sub(put_in, value)
        if expanded != value:
            self.written[path] = value
        return expanded


def _secret(name: str) -> str | None:
    """An environment variable, else the file of that name among those that systemd gives the service (LoadCredential=)."""
    if name in os.environ:
        return os.environ[name]
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return None
    try:
        return (FilePath(folder) / name).read_text("utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return None


def _remove(table: dict[str, Any], path: Path) -> None:
    """Take out what stands at a path; of a list, all of it."""
    *parents, last = path or ("",)
    for key in parents:
        if not isinstance(table.get(str(key)), dict):
            last = key
            break
        table = table[str(key)]
    table.pop(str(last), None)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on `base`, key by key; tables in tables likewise."""
    merged = dict(base)
    for key, value in over.items():
        inherited = base.get(key)
        merged[key] = _merge(inherited, value) if isinstance(inherited, dict) and isinstance(value, dict) else value
    return merged


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
