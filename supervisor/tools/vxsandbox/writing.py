"""Writing TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """The lines of a table; keys whose value is an empty table are left out."""
    return [
        f"[{'.'.join(_key(part) for part in path)}]",
        *(f"{_key(key)} = {_value(value)}" for key, value in values.items() if value != {}),
        "",
    ]


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _string(text)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        return _string(value.replace("$", "$$"))  # else it might name a variable
    return json.dumps(value)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
