"""Repair the embedded store's append-only files after a full disk or a power cut, so that the
server can load them.

Valkey keeps a base (a snapshot) and, in increments, what was written since. A manifest names them
all. What goes wrong:

- An increment ends in an incomplete command, or has holes. append_only_scan.py finds what of it can
  be kept.
- The manifest is missing, cut short, or names files that are missing. It is made again from the
  files that are there.

What is replaced is kept in the folder `damaged`, if there is room for it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import field, frozen

from .append_only_scan import Scan, scan

FOLDER, MANIFEST = "appendonlydir", "appendonly.aof.manifest"  # Valkey's default names
DAMAGED = "damaged"  # in the server's folder: a folder for each repair
COPIES_MAX = 3  # such folders; the oldest are removed
CHUNK = 1 << 20  # bytes

_NAME = re.compile(r"appendonly\.aof\.(\d+)\.(base\.rdb|base\.aof|incr\.aof)")
_LINE = re.compile(r"file (\S+) seq (\d+) type ([bhi])")
_TEMPORARY = re.compile(r"temp-.*|.*\.repaired")


class CannotRepair(Exception):
    """Data is missing, or there is no room to repair it; the text says what to do."""


@frozen
class Listed:
    """A file that a manifest names; `kind` is b(ase), h(istory) or i(ncrement)."""

    name: str
    seq: int
    kind: str


@frozen
class Found:
    """What is in the server's folder.

    Attributes:
        listed: What the manifest names; None if it cannot be read.
        there: The size of each file that is there, by name.
    """

    listed: tuple[Listed, ...] | None
    there: dict[str, int] = field(factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether manifest and files match. Their contents are not looked at."""
        if self.listed is None:
            return not self.there
        used = [one for one in self.listed if one.kind != "h"]
        bases = [one for one in used if one.kind == "b"]
        missing = [one for one in used if one.name not in self.there]
        return len(bases) <= 1 and not missing and not self.forgotten

    @property
    def forgotten(self) -> list[Listed]:
        """Non-empty increments newer than any that the manifest names: it has lost its end."""
        newest = max((one.seq for one in self.listed or () if one.kind != "b"), default=0)
        return [one for one in self.increments if one.seq > newest and self.there[one.name]]

    @property
    def increments(self) -> list[Listed]:
        """All increments that are there, in order."""
        return self._of("incr", "i")

    @property
    def bases(self) -> list[Listed]:
        """All bases that are there, in order."""
        return self._of("base", "b")

    def _of(self, name: str, kind: str) -> list[Listed]:
        named = [
            (found, one)
            for one in self.there
            if (found := _NAME.fullmatch(one)) and found[2].startswith(name)
        ]
        return sorted(
            (Listed(one, int(found[1]), kind) for found, one in named),
            key=lambda listed: listed.seq,
        )


def look(folder: Path) -> Found:
    """Look at the server's folder; whatever is in it, this does not raise."""
    try:
        there = {
            one.name: one.stat().st_size
            for one in (folder / FOLDER).iterdir()
            if _NAME.fullmatch(one.name)
        }
    except FileNotFoundError:
        return Found(())
    try:
        text = (folder / FOLDER / MANIFEST).read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return Found(None, there)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [_LINE.match(line) for line in lines]
    if not lines or not all(found) or not text.endswith("\n"):
        return Found(None, there)
    return Found(tuple(Listed(one[1], int(one[2]), one[3]) for one in found if one), there)


def increments(folder: Path) -> dict[str, int]:
    """The size of each increment, by name."""
    with os.scandir(folder / FOLDER) as found:
        return {one.name: one.stat().st_size for one in found if one.name.endswith(".incr.aof")}


def remove_temporary(folder: Path) -> int:
    """Remove the files of an interrupted rewrite; return how many bytes that freed. Only while no
    server runs.
    """
    freed = 0
    for place in (folder, folder / FOLDER):
        with suppress(OSError):
            for one in place.iterdir():
                if _TEMPORARY.fullmatch(one.name) and not one.is_dir():
                    freed += one.stat().st_size
                    one.unlink()
    return freed


def repair(folder: Path, reserve: int) -> list[str]:
    """Repair the files in a server's folder while no server runs. Returns what was done, a line
    each; empty if nothing was wrong.

    Args:
        folder: Where the server runs.
        reserve: Bytes that copies of what was damaged must leave free.

    Raises:
        CannotRepair: Something is missing that cannot be made again, or there is no room to repair
            it.
        OSError: The disk failed.
    """
    found = look(folder)
    wanted, done = _wanted(folder, found)
    copies = _Copies(folder, reserve)
    for one in wanted:
        if one.kind == "i":
            done += _repair_increment(folder / FOLDER / one.name, copies)
    if found.listed is None or tuple(wanted) != tuple(
        one for one in found.listed if one.kind != "h"
    ):
        _write_manifest(folder / FOLDER / MANIFEST, wanted, copies)
        done.append("the manifest was made again: " + ", ".join(one.name for one in wanted))
    return [*done, *copies.said(done)]


def _wanted(folder: Path, found: Found) -> tuple[list[Listed], list[str]]:
    """The files that the manifest should name, and a line for each missing one."""
    if not found.there:
        raise CannotRepair(f"{folder / FOLDER} holds no data, and a manifest that names some")
    listed = [one for one in found.listed or () if one.kind != "h"]
    missing = [one for one in listed if one.name not in found.there]
    # If there are two bases (the newer was not in the manifest yet), the older one and all
    # increments together are complete.
    base = next((one for one in listed if one.kind == "b"), None) or next(iter(found.bases), None)
    if base is None or base in missing:
        name = "a base file" if base is None else base.name
        raise CannotRepair(
            f"{name} is missing in {folder / FOLDER}: restore a backup (jsbox restore --replace)"
        )
    increments = found.increments
    if found.listed:
        increments = [one for one in listed if one.kind == "i"] + found.forgotten
    done = [f"{one.name} is missing: what it held is lost" for one in missing]
    return [base, *(one for one in increments if one not in missing)], done


def _repair_increment(file: Path, copies: _Copies) -> list[str]:
    found = scan(file)
    if found.is_whole:
        return []
    cut = found.size - found.kept_bytes
    if found.kept in ((), ((0, found.kept_bytes),)):
        copies.keep_end(file, found.kept_bytes)
        with file.open("r+b") as opened:
            opened.truncate(found.kept_bytes)
            os.fsync(opened.fileno())
    else:
        _take_out_holes(file, found, copies)
    damage = f"{cut} of {found.size} bytes were damaged and are removed"
    return [f"{file.name}: {damage}; {found.lost} of them held commands"]


def _take_out_holes(file: Path, found: Scan, copies: _Copies) -> None:
    if copies.free() < found.kept_bytes + CHUNK:
        needed = (found.kept_bytes >> 20) + 1
        raise CannotRepair(
            f"{file} is damaged, and {needed} MiB must be free to repair it: make room"
        )
    draft = file.with_name(f"{file.name}.repaired")
    with file.open("rb") as source, draft.open("wb") as target:
        os.fchmod(target.fileno(), 0o600)
        for start, end in found.kept:
            source.seek(start)
            for size in _steps(end - start):
                target.write(source.read(size))
        target.flush()
        os.fsync(target.fileno())
    copies.keep(file)
    draft.replace(file)
    _sync(file.parent)


def _steps(size: int) -> Iterator[int]:
    while size:
        step = min(size, CHUNK)
        yield step
        size -= step


def _write_manifest(file: Path, wanted: list[Listed], copies: _Copies) -> None:
    if file.exists():
        copies.keep(file)
    draft = file.with_name(f"temp-{file.name}")
    with draft.open("w", encoding="ascii") as opened:
        opened.writelines(f"file {one.name} seq {one.seq} type {one.kind}\n" for one in wanted)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Copies:
    """Keeps what is replaced, as far as there is room for it."""

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder, self._reserve = folder, reserve
        self._place: Path | None = None
        self._left_out: list[str] = []

    def free(self) -> int:
        """Bytes free on the disk."""
        return shutil.disk_usage(self._folder).free

    def keep(self, file: Path) -> None:
        """Give a file that is about to be replaced a second name: it costs as much room as the new
        one.
        """
        try:
            os.link(file, self._open() / file.name)
        except OSError as error:
            self._left_out.append(f"{file.name} ({error.strerror})")

    def keep_end(self, file: Path, start: int) -> None:
        """Copy a file whose end is about to be cut off; only the end if there is no room for all of
        it.
        """
        size = file.stat().st_size
        for begin, name in ((0, file.name), (start, f"{file.name}.from-{start}")):
            if self.free() >= size - begin + self._reserve:
                try:
                    with file.open("rb") as source, (self._open() / name).open("wb") as target:
                        source.seek(begin)
                        shutil.copyfileobj(source, target, CHUNK)
                except OSError as error:
                    self._left_out.append(f"{name} ({error.strerror})")
                return
        self._left_out.append(f"{file.name} (there is no room)")

    def said(self, done: list[str]) -> list[str]:
        """Report what became of the copies, a line each; remove them if the room is needed."""
        lines = [f"no copy was kept of {name}" for name in self._left_out]
        if self._place is None:
            return lines
        if self.free() < self._reserve:
            shutil.rmtree(self._place, ignore_errors=True)
            return [*lines, "what was replaced is not kept: there is no room for it"]
        with suppress(OSError):
            (self._place / "README").write_text("\n".join(done) + "\n", "utf-8")
        kept = f"what was replaced is kept in {self._place}; remove it when you no longer need it"
        return [*lines, kept]

    def _open(self) -> Path:
        if self._place is None:
            kept = self._folder / DAMAGED
            kept.mkdir(mode=0o700, exist_ok=True)
            for old in sorted(kept.iterdir())[: 1 - COPIES_MAX]:
                shutil.rmtree(old, ignore_errors=True)
            place = kept / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            place.mkdir(mode=0o700)
            self._place = place
        return self._place


def copies(folder: Path) -> list[Path]:
    """The folders that repairs have kept, oldest first."""
    try:
        return sorted((folder / DAMAGED).iterdir())
    except FileNotFoundError:
        return []
