"""Text from outside: halves of surrogate pairs, and JSON of a bounded depth."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.text import TooDeep, clean, clean_json, is_clean, is_deeper, json_line, read_json

LINE = 256 << 10


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_what_is_read_can_be_written_again(text: str) -> None:
    """Whatever JSON.stringify of a cut text gives, with pairs kept and halves replaced."""
    got = read_json(json.dumps(text).encode())
    assert msgspec.json.decode(msgspec.json.encode(got)) == got
    assert is_clean(got)
    assert is_clean(text) == (text == clean(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rb'"a\ud83d."', "a\ufffd."),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\\ud83d"', "\\ud83d"),
        (rb'"\\\ud83d"', "\\\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
        (rb'"\ude00\n"', "\ufffd\n"),
    ],
)
def test_halves_become_replacement_characters(text: bytes, expected: str) -> None:
    """Escaped backslashes and whole pairs are left alone."""
    assert read_json(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        b'["' * (LINE // 2),
        b"[" * 65 + b'"' + b'\\"' * (LINE // 2),
        b'"\\' * (LINE // 2),
        b"[[]," * (LINE // 4),
        b'"' * LINE,
        b"\\ud83d" * (LINE // 6),
    ],
)
def test_hostile_lines_take_linear_time(line: bytes) -> None:
    """Twice the line takes about twice the time; a quadratic scan of these takes minutes."""

    def measure(data: bytes) -> float:
        began = time.process_time()
        is_deeper(data, 64)
        clean_json(data)
        return time.process_time() - began

    small = min(measure(line[: LINE // 8]) for _ in range(3))
    assert min(measure(line) for _ in range(3)) < max(small, 0.001) * 8 * 6


def test_depth_is_bounded_and_brackets_in_strings_do_not_count() -> None:
    """The bound is exact."""
    assert read_json(b"[" * 64 + b"]" * 64)
    assert read_json(b'["' + b"[" * 100 + b'\\"' + b"[" * 100 + b'"]') == [
        "[" * 100 + '"' + "[" * 100
    ]
    with pytest.raises(TooDeep, match="at most 64"):
        read_json(b"[" * 65 + b"]" * 65)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'{"a": [1, "x\\n"]}', b'{"a": [1, "x\\n"]}'),
        (b'{\r\n "a":\n1}\n', b'{   "a": 1} '),
        (rb'"cut \ud83d"', rb'"cut \ufffd"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (b"9" * 400, b"9" * 400),
    ],
)
def test_json_of_others_fits_a_line(data: bytes, line: bytes) -> None:
    """Line breaks are only between its tokens, and nothing else changes but halves."""
    assert json_line(data) == line


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b'1,"success":false', b'"a"\n{"cmd":"x"}', b'"\xff"', b'"\xed\xa0\xbd"',
        b'"\0"', b'"a\nb"', b"NaN", b'{"a":1', b"[" * 100_000 + b"]" * 100_000],
)  # fmt: skip
def test_a_line_that_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_line(data)
