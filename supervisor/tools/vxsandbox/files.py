"""Where the files that a worker names are on this host, and which modules its app can have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from attrs import frozen

from supervisor.config.requires import is_available, required

from .decisions import Decisions

WORK_DIR = "/app"  # where the old images start the worker: relative paths are below it
SOURCE_MAX = 16 << 20  # bytes of an app that are read to see what it requires


@frozen
class Places:
    """Finds files of the old container.

    Attributes:
        folder: Of the config that is written: relative paths in it start there.
        near: Where else a relative path may start: the folder of the YAML.
        maps: Paths of the container, each with the path here.
    """

    folder: Path = Path()
    near: Path = Path()
    maps: tuple[tuple[str, Path], ...] = ()

    def find(self, path: str) -> Path:
        """The path here of a path in the container; one that no map has is taken as it is."""
        ways = [path] if path.startswith("/") else [path, f"{WORK_DIR}/{path}"]
        for way in ways:
            mapped = self._mapped(PurePosixPath(os.path.normpath(way)))
            if mapped is not None:
                return mapped
        if not path.startswith("/") and not (self.folder / path).exists():
            beside = self.near / path
            return beside if beside.exists() else self.folder / path
        return self.folder / path

    def _mapped(self, path: PurePosixPath) -> Path | None:
        fits = [
            (PurePosixPath(os.path.normpath(old)), new)
            for old, new in self.maps
            if path.is_relative_to(os.path.normpath(old))
        ]
        if not fits:
            return None
        old, new = max(fits, key=lambda one: len(one[0].parts))
        return new / path.relative_to(old)

    def written(self, path: Path) -> str:
        """The path as the config has it: relative to its folder, if it was not absolute."""
        if path.is_absolute() and not self.folder.is_absolute():
            return str(path)
        return os.path.relpath(path, self.folder)

    def locate(self, key: str, path: str, decisions: Decisions) -> str:
        """Find a file that a key names, and report if it is elsewhere, or not there."""
        found = self.find(path)
        text = self.written(found)
        if not found.is_file():
            hint = f"--map {PurePosixPath(path).parent}=FOLDER" if "/" in path else "--map"
            decisions.say(key, f"{text} is not there; {hint} says where a path of the container is")
        elif text != path:
            decisions.say(key, f"{path} is {text}")
        return text


def read_source(file: Path) -> str | None:
    """The text of an app; None if it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(SOURCE_MAX).decode("utf-8-sig", "replace")
    except OSError:
        return None


def keep_available(
    names: Sequence[str], source: str | None, modules_dir: Path | None, decisions: Decisions
) -> list[str]:
    """The modules of an app without those that nobody has and that it does not require. Each one
    left out is reported.
    """
    if source is None:
        return list(names)
    needed = {name.removeprefix("node:") for name in required(source)}
    kept = []
    for name in names:
        if is_available(name, modules_dir):
            kept.append(name)
        elif name.removeprefix("node:") in needed:
            kept.append(name)
            decisions.say(
                f"app_context: {name}",
                "the app requires it, and it is neither bundled nor in modules_dir:"
                f" npm install {name}, and --modules-dir",
            )
        else:
            decisions.say(
                f"app_context: {name}",
                "left out: it is neither bundled nor in modules_dir, and the app does not"
                " require it",
            )
    return kept
