"""Read a test file into a `Chat`, or report every error in it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

from cattrs.gen import make_dict_structure_fn

from resources.contact_fields import imported_contact
from resources.contract import Refused
from resources.messages import new_id, now
from resources.stores.contacts import Change

from ..config.convert import unknown_key
from ..config.document import InvalidConfig, read_toml
from ..config.locate import Path
from ..config.units import show
from ..load.pieces import FILE_MAX, Pieces
from ..load.reading import CONVERTER, EXPECTATIONS, STEPS_MAX
from ..outcomes import Outcome
from .chat import NUMBER, TO, Chat, ChatStep, Expected, Move

KEYS = (
    "app", "channel", "from", "to", "now", "config", "kv", "contacts", "stub", "steps",
    *(f"expect_{kind}" for kind in EXPECTATIONS),
)  # fmt: skip
TEXT, NUMBERS, COUNT, TABLE, ANY = "a string", "a number", "a number of times", "a table", "a value"
FIELDS: Mapping[str, Mapping[str, str]] = {
    "http": {
        "method": TEXT, "url": TEXT, "params": TABLE, "headers": TABLE, "body": TEXT, "json": ANY,
        "times": COUNT,
    },
    "metric": {"metric": TEXT, "value": NUMBERS, "agg": TEXT, "store": TEXT, "times": COUNT},
    "sms": {"to": TEXT, "content": TEXT, "endpoint": TEXT, "times": COUNT},
    "log": {"level": TEXT, "message": TEXT, "times": COUNT},
}  # fmt: skip
"""What may be expected of each kind; kv and contact have fields of their own."""
SHORT = {"http": "url", "metric": "metric", "sms": "content", "log": "message"}
"""The field that a string stands for."""
_CONVERTER = CONVERTER.copy()
_CONVERTER.register_structure_hook(
    ChatStep, make_dict_structure_fn(ChatStep, _CONVERTER, _cattrs_forbid_extra_keys=True)
)
OUTCOMES = tuple(str(outcome) for outcome in Outcome)


def load_chat(file: FilePath) -> Chat:
    """Read a test file and the files it names.

    Raises:
        InvalidConfig: With every error in it.
    """
    document, lines = read_toml(file, FILE_MAX)
    return _ChatLoader(file, lines, _CONVERTER).chat_of(document)


class _ChatLoader(Pieces):
    def chat_of(self, document: dict[str, Any]) -> Chat:
        self.only(document, KEYS)
        chat = Chat(
            file=self.file,
            app=self.name_in(document, "app"),
            channel=self.name_in(document, "channel"),
            number=self.name_in(document, "from") or NUMBER,
            to=self.name_in(document, "to") or TO,
            now=self.moment(document.get("now")),
            config={
                key: self.config_value(key, value)
                for key, value in self.table(document.get("config", {}), ("config",)).items()
            },
            kv={
                key: self.as_json(value, ("kv", key)).encode()
                for key, value in self.table(document.get("kv", {}), ("kv",)).items()
            },
            contacts=self.contacts(document.get("contacts", [])),
            stubs=self.stubs(document.get("stub", {})),
            moves=self.moves(document.get("steps")),
            expected=self.expected(document, ()),
            lines=self.lines,
        )
        if self.problems:
            raise InvalidConfig(self.file, self.problems)
        return chat

    def name_in(self, document: dict[str, Any], key: str) -> str | None:
        value = document.get(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self.fault((key,), f"expected a text, got {show(value)}")
        return None

    def moment(self, value: Any) -> float | None:
        if value is None:
            return None
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) else value
            if isinstance(found, datetime):
                zoned = found if found.tzinfo else found.replace(tzinfo=UTC)
                if zoned.timestamp() > 0:
                    return zoned.timestamp()
        except (ValueError, OverflowError):
            pass
        self.fault(
            ("now",),
            f'expected a time after 1970 such as "2026-01-01T09:00:00Z", got {show(value)}',
        )
        return None

    def config_value(self, key: str, value: Any) -> Any:
        path = ("config", key)
        if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str):
            return self.text(self.file.parent / value["file"], (*path, "file"))
        return value if isinstance(value, str) else json.loads(self.as_json(value, path))

    def as_json(self, value: Any, path: Path) -> str:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            text = "expected what JSON can hold: no dates, put them into strings, no nan and no inf"
            self.fault(path, text)
            return "null"

    def contacts(self, raw: Any) -> list[tuple[str, Change]]:
        if not isinstance(raw, list):
            self.fault(("contacts",), f"expected [[contacts]], got {show(raw)}")
            return []
        found = []
        for index, item in enumerate(raw):
            try:
                key, change = imported_contact(item)
            except Refused as refused:
                self.fault(("contacts", index), refused.reason)
                continue
            fields = {"created_at": now(), **change.set}
            whole = Change(set=fields, groups=change.groups, wipe=True)
            found.append((key or new_id(), whole))
        return found

    def moves(self, raw: Any) -> list[Move]:
        if not isinstance(raw, list) or not 0 < len(raw) <= STEPS_MAX:
            count = "none" if raw is None else len(raw) if isinstance(raw, list) else show(raw)
            self.fault(("steps",), f"expected 1 to {STEPS_MAX} steps, got {count}")
            return []
        found = [self.move(item, ("steps", index)) for index, item in enumerate(raw)]
        return [move for move in found if move is not None]

    def move(self, raw: Any, path: Path) -> Move | None:
        if not isinstance(raw, dict):
            self.fault(path, f'expected a step such as {{ dial = "*120#" }}, got {show(raw)}')
            return None
        more = {f"expect_{kind}" for kind in EXPECTATIONS}
        own = {key: value for key, value in raw.items() if key not in more}
        step: ChatStep | None = self.piece(ChatStep, own, path)
        if step is None:
            return None
        acts = (step.dial is not None) + (step.send is not None) + step.hang_up
        if acts != 1:
            self.fault(path, "expected one of `dial`, `send` and `hang_up`")
        if step.expect_outcome not in OUTCOMES:
            known, got = ", ".join(OUTCOMES), show(step.expect_outcome)
            self.fault((*path, "expect_outcome"), f"expected one of {known}, got {got}")
        return Move(step, path, self.expected(raw, path))

    def expected(self, raw: dict[str, Any], path: Path) -> list[Expected]:
        found: list[Expected] = []
        for kind in EXPECTATIONS:
            key = f"expect_{kind}"
            if key not in raw:
                continue
            where, value = (*path, key), raw[key]
            if kind == "kv":
                names = self.table(value, where)
                found += [
                    Expected(kind, {"key": name, "value": item}, (*where, name))
                    for name, item in names.items()
                ]
                continue
            many = isinstance(value, list)
            for index, item in enumerate(value if many else [value]):
                found += self.one_expected(kind, item, (*where, index) if many else where)
        return found

    def one_expected(self, kind: str, raw: Any, path: Path) -> list[Expected]:
        if kind in SHORT and isinstance(raw, str):
            return [Expected(kind, self.from_text(kind, raw), path)]
        if not isinstance(raw, dict) or not raw:
            wanted = "a table" if kind == "contact" else f"a string ({SHORT[kind]}) or a table"
            self.fault(path, f"expected {wanted}, got {show(raw)}")
            return []
        for key, value in raw.items() if kind in FIELDS else ():
            fields = FIELDS[kind]
            if key not in fields:
                self.fault((*path, key), unknown_key(key, tuple(fields)))
            elif not _is(fields[key], value):
                self.fault((*path, key), f"expected {fields[key]}, got {show(value)}")
        return [Expected(kind, raw, path)]

    def from_text(self, kind: str, text: str) -> dict[str, Any]:
        """What a string expects; that of a request may have its method before the URL."""
        method, space, url = text.partition(" ")
        if kind == "http" and space and method.isalpha():
            return {"method": method, "url": url.strip()}
        return {SHORT[kind]: text}


def _is(what: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match what:
        case "a string":
            return isinstance(value, str)
        case "a number":
            return is_number
        case "a number of times":
            return is_number and isinstance(value, int) and value >= 0
        case "a table":
            return isinstance(value, dict)
        case _:
            return True
