"""The converter at the trust boundary: it turns the fields of a command, which an app chose, into a
typed request.

A value must be of exactly the right type (see `strict`), or the command is refused, in the words of
the users' documentation and the old system. Unknown fields are ignored, as before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import cattrs
from attrs import NOTHING, frozen

from .contract import Refused
from .messages import shown
from .strict import NAMES, exact_converter, exactly

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
DIGITS_MAX = 1000  # characters of a number that is given as a string

Json = Any
"""Any JSON value, decoded."""


def parameter(
    default: Any = NOTHING,
    *,
    missing: str | None = None,
    wrong: str | Callable[[Any], str] | None = None,
    check: Callable[[Any], bool] | None = None,
) -> Any:
    """A field of a request.

    Args:
        default: Its value if the command leaves it out; without one the command must give it.
        missing: The reason for refusing a command that leaves it out.
        wrong: The reason for refusing a value of another type or that fails `check`; or a function
            from the value to it.
        check: A condition that a value of the right type must also meet.
    """
    return attrs.field(
        default=default, metadata={"missing": missing, "wrong": wrong, "check": check}
    )


def number_in(text: str) -> float | None:
    """The finite number that a text is, in plain decimal digits; or None.

    Python's own `float` would also take "1_000", spaces, "infinity" and the digits of any script.
    """
    is_number = len(text) <= DIGITS_MAX and _NUMBER.fullmatch(text)
    number = float(text) if is_number else math.inf
    return number if math.isfinite(number) else None


def integer_in(text: str) -> int | None:
    """The integer that a text is, likewise; or None."""
    return int(text) if len(text) <= DIGITS_MAX and _INTEGER.fullmatch(text) else None


def needed_string(name: str) -> Any:
    """A field of a request: a required string."""
    return _needed(f"Expected '{name}' field: '{name}' needs to be a string")


def needed_object(name: str) -> Any:
    """A field of a request: a required object."""
    return _needed(f"Expected '{name}' field: '{name}' needs to be an object")


def _needed(reason: str) -> Any:
    return parameter(missing=reason, wrong=lambda value: f"{reason}, not {shown(value)}")


@frozen
class _Field:
    name: str
    structure: Callable[[Any, Any], Any]
    kind: Any
    required: bool
    missing: str
    wrong: str | Callable[[Any], str]
    check: Callable[[Any], bool] | None

    def value(self, given: Any) -> Any:
        try:
            value = self.structure(given, self.kind)
        except (TypeError, ValueError, cattrs.StructureHandlerNotFoundError) as error:
            raise Refused(self.reason(given)) from error
        if self.check is not None and not self.check(value):
            raise Refused(self.reason(given))
        return value

    def reason(self, given: Any) -> str:
        return self.wrong(given) if callable(self.wrong) else self.wrong


def _fields(kind: type, converter: cattrs.Converter) -> list[_Field]:
    fields = []
    for a in attrs.fields(attrs.resolve_types(kind)):
        missing = a.metadata.get("missing") or f"'{a.name}' must be given"
        wrong = a.metadata.get("wrong") or _default_wrong(a.name, a.type)
        hook = converter.get_structure_hook(a.type)
        fields.append(
            _Field(
                name=a.name,
                structure=hook,
                kind=a.type,
                required=a.default is NOTHING,
                missing=missing,
                wrong=wrong,
                check=a.metadata.get("check"),
            )
        )
    return fields


_NAMES = NAMES | {
    str | None: "a string or null", int | None: "an integer or null",
    dict | None: "an object or null",
}  # fmt: skip


def _default_wrong(name: str, kind: Any) -> Callable[[Any], str]:
    return lambda given: (
        f"'{name}' must be {_NAMES.get(kind, 'of another type')}, not {shown(given)}"
    )


def _request_hook(
    kind: type, converter: cattrs.Converter
) -> Callable[[Mapping[str, Any], Any], Any]:
    """Structure a request field by field, in the order of the class: the first problem is the one
    reported.
    """
    fields = _fields(kind, converter)

    def structure(given: Mapping[str, Any], _: Any) -> Any:
        values = {}
        for one in fields:
            if one.name in given:
                values[one.name] = one.value(given[one.name])
            elif one.required:
                raise Refused(one.missing)
        return kind(**values)

    return structure


def _is_mapping(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is dict


def command_converter() -> cattrs.Converter:
    """Make a strict converter from the fields of commands to requests; it refuses with the reasons
    that the requests' fields declare.
    """
    converter = exact_converter((str, int, bool, dict), detailed_validation=False)
    converter.register_structure_hook_func(_is_mapping, lambda value, _: exactly(value, dict))
    converter.register_structure_hook_factory(
        attrs.has, lambda kind: _request_hook(kind, converter)
    )
    return converter
