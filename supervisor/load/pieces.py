"""What the files of load tests and of tests have in common: pieces of a document, checked strictly,
and stubs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import cattrs
from attrs import define, evolve, field

from ..config.convert import leaves, unknown_key
from ..config.document import Problem
from ..config.files import Unreadable, read_text
from ..config.locate import Path
from ..config.units import show
from .campaign import Reply, Stub

FILE_MAX = 1 << 20  # bytes of a file, or of one that it names
NAME_MAX = 1000  # characters; a longer body is not taken for the name of a file
HTTP_STATUS = re.compile(r"[2-5][0-9][0-9]")
STUB_URL = re.compile(r"https?://[^/\s*]+(/[^\s*]*)?\*?")


@define
class Pieces:
    """Structures a document piece by piece, so that an error in one does not hide the others.

    Attributes:
        lines: The line of each key.
        problems: Found so far.
    """

    file: FilePath
    lines: Mapping[Path, int]
    converter: cattrs.Converter
    problems: list[Problem] = field(factory=list)

    def stubs(self, raw: Any) -> list[Stub]:
        """The stubs of the table `stub`, with the files that they name."""
        found = []
        for url, one in self.table(raw, ("stub",)).items():
            path = ("stub", url)
            if not STUB_URL.fullmatch(url):
                self.fault(path, 'expected a URL such as "http://hub:8000/api/v1/*"')
            item = self.table(one, path)
            self.only(item, ("reply",), path)
            reply = self.piece(Reply, item.get("reply", {}), (*path, "reply"))
            if reply is not None:
                self._check_reply(reply, (*path, "reply"))
                body = self.file.parent / reply.body
                if (
                    reply.body
                    and len(reply.body) < NAME_MAX
                    and "\n" not in reply.body
                    and body.is_file()
                ):
                    reply = evolve(reply, body=self.text(body, (*path, "reply", "body")))
                found.append(Stub(url, reply))
        return found

    def text(self, file: FilePath, path: Path) -> str:
        """The text of a file that the value at a path names; empty if it cannot be read."""
        try:
            return read_text(file, FILE_MAX)
        except Unreadable as error:
            self.fault(path, f"cannot read {file}: {error}")
        return ""

    def _check_reply(self, reply: Reply, path: Path) -> None:
        for status in (str(reply.status), *reply.errors):
            if not HTTP_STATUS.fullmatch(status):
                self.fault(path, f"expected an HTTP status from 200 to 599, got {show(status)}")
        if sum(reply.errors.values()) > 1:
            self.fault(
                (*path, "errors"),
                f"the shares are {sum(reply.errors.values()):g} together, more than 1",
            )

    def piece(self, kind: type[Any], raw: Any, path: Path) -> Any:
        """A value of some class from the table at a path; None if something in it is wrong."""
        if not isinstance(raw, dict):
            self.fault(path, f"expected a table, got {show(raw)}")
            return None
        try:
            return self.converter.structure(raw, kind)
        except cattrs.BaseValidationError as group:
            for where, text in leaves(group, path):
                self.fault(where, text)
            return None

    def table(self, raw: Any, path: Path) -> dict[str, Any]:
        """The value at a path, which should be a table; an empty one if it is not."""
        if isinstance(raw, dict):
            return raw
        self.fault(path, f"expected a table, got {show(raw)}")
        return {}

    def only(self, table: Mapping[str, Any], known: tuple[str, ...], path: Path = ()) -> None:
        """Note each key of the table at a path that is not one of the known."""
        for key in table:
            if key not in known:
                self.fault((*path, key), unknown_key(key, known))

    def fault(self, path: Path, text: str) -> None:
        """Note what is wrong with the value at a path."""
        line = next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1
        )
        self.problems.append(Problem(line, f"{'.'.join(map(str, path))}: {text}"))
