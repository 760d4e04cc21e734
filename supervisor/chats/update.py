"""Write what the app said into a test file, in place of what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath

from ..config.document import InvalidConfig
from ..config.files import BOM, read_text
from ..config.locate import Path, spans
from ..load.pieces import FILE_MAX
from .chat import Chat
from .reading import load_chat


def update(chat: Chat, words: Mapping[Path, str | bool]) -> str:
    """Write what the app said into the file of a test; return why not, or an empty string."""
    try:
        if load_chat(chat.file).moves != chat.moves:
            return "it was changed while it was played"
        rewrite(chat.file, words)
    except InvalidConfig as error:
        return f"it was changed while it was played: {error}"
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return ""


def rewrite(file: FilePath, words: Mapping[Path, str | bool]) -> None:
    """Replace the values at some paths of a TOML file; everything else stays as it is.

    Raises:
        OSError: It cannot be written.
        Unreadable: It cannot be read any more.
    """
    text = read_text(file, FILE_MAX)
    places = spans(text)
    for path, value in sorted(words.items(), key=lambda one: -places[one[0]][0]):
        start, end = places[path]
        rest = text[start:end]
        end -= len(rest) - len(rest.rstrip())
        text = text[:start] + toml(value) + text[end:]
    data = file.read_bytes()
    start_of_file = BOM if data.startswith(BOM) else b""
    ends = "\r\n" if b"\r\n" in data else "\n"
    file.write_bytes(start_of_file + text.replace("\n", ends).encode())


def toml(value: bool | str) -> str:  # noqa: FBT001  # it is a value
    """A value as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
