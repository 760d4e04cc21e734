"""What a transport says about itself, in Vumi's status messages."""

from __future__ import annotations

from attrs import define, field

from resources.text import read_json

from ...config.document import one_line

COMPONENTS_MAX = 20  # of a transport, whose status is kept
TEXT_MAX = 200  # characters
BODY_MAX = 64 << 10  # bytes of a status message
OK = "ok"


@define(eq=False)
class Statuses:
    """The newest status of each component of a transport."""

    _bad: dict[str, str] = field(factory=dict, init=False)  # by component, those that are not ok

    @property
    def problem(self) -> str:
        """What the transport says is wrong; empty if nothing."""
        return "; ".join(f"transport: {name} {text}" for name, text in self._bad.items())

    def note(self, body: bytes) -> None:
        """Read a status message; anything else is ignored. Never raises."""
        if len(body) > BODY_MAX:
            return
        try:
            found = read_json(body)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        name, status = _short(found.get("component")), _short(found.get("status"))
        self._bad.pop(name, None)
        if status and status != OK:
            text = _short(found.get("message"))
            self._bad[name] = f"{status}: {text}" if text else status
        while len(self._bad) > COMPONENTS_MAX:
            del self._bad[next(iter(self._bad))]


def _short(value: object) -> str:
    return one_line(value[:TEXT_MAX]) if isinstance(value, str) else ""
