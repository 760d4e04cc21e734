"""How long it takes to find what an app requires, whatever its text is."""

from __future__ import annotations

from time import process_time

import pytest

from supervisor.config.requires import required

N = 20_000  # a time that is quadratic in this is seconds


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("function(" * N, id="function-unclosed"),
        pytest.param("function" + " " * N, id="function-spaces"),
        pytest.param("(require," * N, id="arrow-unfinished"),
        pytest.param("require" + " " * N, id="require-spaces"),
        pytest.param("'" + "\\'" * N, id="single-quotes-escaped"),
        pytest.param('"' + '\\"' * N, id="double-quotes-escaped"),
        pytest.param("/* " * 10 * N, id="comments-unclosed"),
    ],
)
def test_takes_linear_time(source: str) -> None:
    began = process_time()
    required(source)
    assert process_time() - began < 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = /'/; require(\"a\")\nrequire('b')", ["a", "b"]),
        ("'\\\nrequire(\"a\")'; require('b')", ["b"]),
        ("require('a') /* require('b')", ["a", "b"]),
        ("/* ' */ require('a') /* \" */ require('b')", ["a", "b"]),
        ("f(require); g(x) => 1; require('a')", ["a"]),
    ],
)
def test_an_unclosed_quote_or_comment_hides_nothing(source: str, names: list[str]) -> None:
    assert required(source) == names
