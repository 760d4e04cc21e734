"""The line of each key in a TOML file, so that an error can name it.

`tomllib` checks and parses a file but gives no positions. This scanner only reads text that
`tomllib` has accepted, and takes its syntax for granted.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from attrs import define, field

Path = tuple[str | int, ...]
"""From the root of the document: table keys, and indexes into arrays."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
)
_ESCAPE = re.compile(r'\\(["\\])')


@define
class _Scanner:
    text: str
    at: int = 0
    newlines: list[int] = field(init=False)  # offsets
    lines: dict[Path, int] = field(factory=dict)
    arrays: dict[Path, int] = field(factory=dict)  # of tables: the newest index
    spans: dict[Path, tuple[int, int]] = field(factory=dict)  # of values: first offset, and end

    def __attrs_post_init__(self) -> None:
        self.newlines = [found.start() for found in re.finditer("\n", self.text)]

    def document(self) -> None:
        table: Path = ()
        while self.skip():
            if self.text.startswith("[[", self.at):
                table = self.array_header()
            elif self.text[self.at] == "[":
                table = self.header(1)
                self.note(table)
                self.at += 1
            else:
                self.pair(table)

    def header(self, brackets: int) -> Path:
        self.at += brackets
        path: Path = ()
        for key in self.keys():
            path = (*path, key)
            if path in self.arrays:
                path = (*path, self.arrays[path])
        return path

    def array_header(self) -> Path:
        self.at += 2
        path: Path = ()
        keys = self.keys()
        for key in keys[:-1]:
            path = (*path, key)
            if path in self.arrays:
                path = (*path, self.arrays[path])
        path = (*path, keys[-1])
        self.arrays[path] = self.arrays.get(path, -1) + 1
        self.note(path)
        path = (*path, self.arrays[path])
        self.note(path)
        self.at += 2
        return path

    def pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self.keys())
        for depth in range(len(table) + 1, len(path) + 1):
            self.note(path[:depth], start)
        self.skip()
        self.at += 1  # the equals sign
        self.value(path)

    def value(self, path: Path) -> None:
        self.skip()
        self.note(path)
        start = self.at
        match self.text[start]:
            case "[":
                self.array(path)
            case "{":
                self.inline_table(path)
            case _ if self.string() is None:
                found = _SCALAR.match(self.text, self.at)
                self.at = found.end() if found else self.at + 1
        self.spans[path] = start, self.at

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while self.skip() and self.text[self.at] != "]":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.value((*path, index))
            index += 1
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while self.skip() and self.text[self.at] != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.pair(path)
        self.at += 1

    def keys(self) -> list[str]:
        keys = []
        while True:
            self.skip()
            quoted = self.string()
            if quoted is not None:
                keys.append(quoted)
            else:
                found = _BARE.match(self.text, self.at)
                if found is None:
                    return keys
                keys.append(found[0])
                self.at = found.end()
            self.skip()
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def string(self) -> str | None:
        for pattern in _STRINGS:
            if found := pattern.match(self.text, self.at):
                self.at = found.end()
                body = found[0][1:-1]
                return _ESCAPE.sub(r"\1", body) if found[0][0] == '"' else body
        return None

    def skip(self) -> bool:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.at < len(self.text)

    def note(self, path: Path, at: int | None = None) -> None:
        self.lines.setdefault(path, bisect_left(self.newlines, self.at if at is None else at) + 1)


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) on which each key, table and array item of a valid TOML document begins."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def spans(text: str) -> dict[Path, tuple[int, int]]:
    """Where each value of a valid TOML document is: its first offset, and the one after its end."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.spans
