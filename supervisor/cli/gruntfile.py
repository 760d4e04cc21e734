"""Old repositories of apps: what the concat task of their Gruntfile.js builds. Grunt is not needed,
and nothing is written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
from attrs import define, field

from ..config import InvalidConfig, Problem
from ..config.requires import BUNDLED

NAME = "Gruntfile.js"
PROGRAM = BUNDLED.parent / "gruntfile.js"
SECONDS = 60.0  # that a Gruntfile may take


class Bundle(msgspec.Struct, frozen=True):
    """An app that a Gruntfile builds: the target's name, the file it would be, text, source map."""

    name: str
    dest: str
    text: str
    map: str


class _Answer(msgspec.Struct):
    """What gruntfile.js says."""

    bundles: list[Bundle] = []
    files: list[str] = []
    missing: list[str] = []
    error: str = ""
    line: int = 1


@define
class Gruntfile:
    """A Gruntfile.js, evaluated with Node.

    Attributes:
        file: The file itself.
        watched: The files and folders that the last answer depended on.
        missing: Sources that it names and that are not there.
    """

    file: Path
    node: Path
    watched: tuple[Path, ...] = field(default=(), init=False)
    missing: tuple[str, ...] = field(default=(), init=False)

    def bundle(self, name: str) -> Bundle:
        """The app of this name, which is that of its target or file; empty: the only one.

        Raises:
            InvalidConfig: The Gruntfile cannot be evaluated, or has no such app.
        """
        found = self.bundles()
        fitting = [one for one in found if not name or name in {one.name, one.dest, *_stem(one)}]
        if len(fitting) == 1:
            return fitting[0]
        known = ", ".join(one.name for one in found)
        if not known:
            raise self._problem("expected a concat task that builds the app, found none")
        asked = f"there is no app {name!r}; " if name else "choose one with --app: "
        raise self._problem(f"{asked}it builds {known}")

    def bundles(self) -> list[Bundle]:
        """All that it builds. Raises InvalidConfig."""
        self.watched = self.watched or (self.file,)
        command = [str(self.node), str(PROGRAM), str(self.file)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
            )
            answer = msgspec.json.decode(done.stdout, type=_Answer)
        except subprocess.TimeoutExpired:
            raise self._problem(f"it was not done in {SECONDS:g} s") from None
        except OSError as error:
            raise self._problem(f"{self.node} cannot be run: {error}") from error
        except (ValueError, msgspec.ValidationError):
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise self._problem(f"it ended without an answer: {said}") from None
        if answer.error:
            raise self._problem(answer.error, answer.line)
        self.watched = tuple(map(Path, answer.files))
        self.missing = tuple(answer.missing)
        return answer.bundles

    def _problem(self, text: str, line: int = 1) -> InvalidConfig:
        return InvalidConfig(self.file, [Problem(line, text)])


def _stem(bundle: Bundle) -> Iterator[str]:
    yield Path(bundle.dest).name
    yield Path(bundle.dest).stem


def find_gruntfile(folder: Path, node: Path) -> Gruntfile | None:
    """The Gruntfile of a folder, if it builds an app, or cannot be evaluated."""
    file = folder.absolute() / NAME
    if not file.is_file():
        return None
    found = Gruntfile(file, node)
    try:
        return found if found.bundles() else None
    except InvalidConfig:
        return found
