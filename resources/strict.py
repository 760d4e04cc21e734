"""cattrs without its conversions: it would make "5" of 5, "['x']" of ["x"] and 1 of true."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cattrs

NAMES = {str: "a string", int: "an integer", bool: "true or false", dict: "an object"}


class WrongType(TypeError):
    """A value is not exactly of the expected type. Attributes: value, the one given."""

    def __init__(self, value: Any, kind: type) -> None:
        super().__init__(f"expected {NAMES[kind]}")
        self.value = value


def exactly(value: Any, kind: type) -> Any:
    """Return the value if it is of this very type, not of a subclass; raises WrongType."""
    if type(value) is kind:
        return value
    raise WrongType(value, kind)


def exact_converter(kinds: Iterable[type], **options: Any) -> cattrs.Converter:
    """A cattrs converter, with its options, that takes these types exactly."""
    converter = cattrs.Converter(**options)
    for kind in kinds:
        converter.register_structure_hook(kind, exactly)
    return converter
