"""Config values that an app reads as JSON, and that are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from .document import one_line
from .model import App, Breakage
from .requires import required

TOOLKITS_OF_APPS = ("vumigo_v01", "vumigo_v02")  # they read these keys as JSON:
CONFIG, TRANSLATION = "config", "translation."
SHOWN = 200  # characters of an error
_CONSTANT = re.compile(r'"(?:\\.|[^"\\])*"|(?P<name>-?Infinity|NaN)')


def not_json(app: App, place: Callable[[str], tuple[Path, int]]) -> Iterator[Breakage]:
    """The values that should be JSON: those of files *.json, and what the app's toolkit parses.

    Args:
        app: The app.
        place: Gives the file of the value of a key, and the line that it begins on.
    """
    has_toolkit = not set(TOOLKITS_OF_APPS).isdisjoint(required(app.source))
    for key, text in app.config.items():
        file, first = place(key)
        is_parsed = has_toolkit and (key == CONFIG or key.startswith(TRANSLATION))
        if (is_parsed or file.suffix.lower() == ".json") and (error := json_error(text)):
            line, column, words = error
            if file.suffix.lower() != ".json":
                line, column = first + line - 1, 0  # of the TOML file, where it is indented
            said = one_line(f"config.{key} is not JSON: {words}")
            yield Breakage(app.name, file, line, column, said)


def json_error(text: str) -> tuple[int, int, str] | None:
    """Why a text is not JSON, as JavaScript reads it: the line, the column and the reason."""
    try:
        # Not as int: Python refuses numbers of more than 4,300 digits.
        json.loads(text, parse_constant=partial(_refuse, text), parse_int=float)
    except json.JSONDecodeError as error:
        return error.lineno, error.colno, error.msg[:SHOWN]
    except (ValueError, RecursionError) as error:
        return 1, 0, str(error)[:SHOWN]
    return None


def _refuse(text: str, name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's reader takes."""
    found = next(one for one in _CONSTANT.finditer(text) if one["name"])
    raise json.JSONDecodeError(f"{name} is no value of JSON", text, found.start())
