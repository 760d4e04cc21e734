"""The source map of an app, if a bundler wrote it beside the app's text. It is read with the
config; a sandbox looks into it when it shows a stack (sandbox_js/lib/stacks.js).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from .files import FILE_MAX, Unreadable, read_text

MAP_MAX = 8 << 20  # characters of what is kept of a map; of a larger one nothing is
UPWARDS = 4  # folders
END = 4000  # characters at the end of an app's text in which its reference is
_REFERENCE = re.compile(r"^[ \t]*//[#@] ?sourceMappingURL=(\S+)[ \t]*$", re.MULTILINE)


class _Map(msgspec.Struct):
    """What a stack needs of a map. It leaves out the text of the sources, which is most of it."""

    mappings: str
    sources: list[str | None]
    sourceRoot: str | None = None  # noqa: N815  # as the format has it


class _Section(msgspec.Struct):
    offset: dict[str, int]
    map: _Map


class _Sections(msgspec.Struct):
    sections: list[_Section]


def source_map_of(javascript: Path, source: str) -> str:
    """The map that an app's text refers to, as JSON; empty if it has none, or one that cannot be
    read, or if the map is in the text itself.

    Only a file in the folder of the app counts: the app's author may not be allowed to read
    other files.
    """
    file = map_file(javascript, source)
    if file is None:
        return ""
    try:
        return slimmed(read_text(file, FILE_MAX))
    except (Unreadable, ValueError, RecursionError):  # the last of nesting, even in parts unread
        return ""


def map_file(javascript: Path, source: str) -> Path | None:
    """The file of an app's source map, if its text refers to one."""
    found = _REFERENCE.findall(source[-END:])
    name = unquote(found[-1]) if found else ""
    if not name.endswith(".map") or "/" in name or "\0" in name or ":" in name:
        return None
    return javascript.parent / name


def source_file(javascript: Path, name: str) -> Path:
    """The file of a source that a map names: of the folders from the app's own upwards, the first
    that has it counts.
    """
    folders = (javascript.parent, *javascript.parent.parents)[:UPWARDS]
    found = (folder / name for folder in folders if (folder / name).is_file())
    return next(found, javascript.parent / name)


def slimmed(text: str) -> str:
    """A source map without the text of its sources.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deeply to be one.
    """
    kept: Any
    try:
        kept = msgspec.json.decode(text, type=_Map)
    except msgspec.ValidationError:
        kept = msgspec.json.decode(text, type=_Sections)
    made = msgspec.json.encode(kept).decode()
    return made if len(made) <= MAP_MAX else ""
