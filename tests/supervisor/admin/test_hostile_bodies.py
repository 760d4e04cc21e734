"""Bodies that the admin port cannot use: the answer says what is wrong, and nobody else notices."""

from __future__ import annotations

import json

import pytest

from resources import fence
from resources.text import clean
from supervisor.admin.bodies import BODY_MAX
from supervisor.admin.strict_json import Wrong, parse, problem_in
from supervisor.service import Service

from .admin_client import CONTACTS, PUSH, ask

HALVES = [
    {"key": "\ud83d", "msisdn": "+27820000001"},
    {"key": "a", "msisdn": "\udc00"},
    {"key": "a", "name": "cut \ud83d"},
    {"key": "a", "groups": ["g", "\ud800"]},
    {"key": "a", "extra": {"x": "\ud83d"}},
    {"key": "a", "extra": {"\ud83d": "x"}},
    {"key": "a", "extras-\ud83d": "x"},
    {"\ud83d": "x"},
    {"key": "a", "extra": {"x": {"y": ["\ud83d"]}}},
    "\ud83d",
]
ODD = [
    '{"key": "a", "extra": {"n": ' + "9" * 5000 + "}}",
    '{"key": "a", "extra": {"n": 99999999999999999999}}',
    '{"key": "a", "extra": {"n": 1e999}}',
    '{"key": "a", "extra": {"n": NaN}}',
    '{"key": "a", "key": "b"}',
    '{"key": "a", "extra": {"x": 1, "x": 2}}',
    '{"key": "a", "extra": ' + '{"x":' * 70 + "1" + "}" * 70 + "}",
    '{"key": "a", "extra": ' + "[" * 300 + "]" * 300 + "}",
    json.dumps({"key": "k" * 300}),
    '{"nothing": 1}',
    "5",
    "null",
    "[]",
]


async def test_an_impossible_contact_is_an_error_by_its_index(service: Service) -> None:
    """The others of its request are written."""
    for wrong in (*map(json.dumps, HALVES), *ODD):
        body = (
            '{"contacts": [{"key": "one", "name": "Zoë \\ud83d\\ude00"}, '
            + wrong
            + ', {"key": "three"}]}'
        )
        status, answer = await ask(service, "POST", CONTACTS, body.encode())
        assert (status, answer["written"], list(answer["errors"])) == (200, 2, ["1"]), (
            wrong,
            answer,
        )
        assert "internal" not in answer["errors"]["1"], wrong
    status, page = await ask(service, "GET", CONTACTS)
    assert [(one["key"], one["name"]) for one in page["contacts"]] == [
        ("one", "Zoë \U0001f600"),
        ("three", None),
    ]


DEEP = b"[" * 100_000
BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"5", 400),
    (b"[]", 400),
    (b"null", 400),
    (DEEP, 400),
    (b'{"addrs":' + DEEP, 400),
    (b'{"a":' * 50_000, 400),
    (b"9" * 5000, 400),
    (b'{"addrs": [' + b"9" * 5000 + b"]}", 400),
    (b"\xff", 400),
    (b"\xef\xbb\xbf{}", 400),
    (b'{"addrs": ["caf\xe9"]}', 400),
    (b'{"addrs": ["\\ud83d"]}', 400),
    (b'{"group": "\\ud800"}', 400),
    (b'{"group": "\\ud83d\\ude00"}', 404),
    (b'{"addrs": NaN}', 400),
    (b'{"addrs": [Infinity]}', 400),
    (b'{"addrs": ["a"], "x": 1e999}', 400),
    (b'{"addrs": ["a"], "addrs": ["b"]}', 400),
    (b'{"group": "a", "group": "a"}', 400),
    (b'{"addrs": ["a"], "group": "a"}', 400),
    (b'{"addrs": [""]}', 400),
    (b'{"addrs": ["a", 5]}', 400),
    (b'{"addrs": "abc"}', 400),
    (b'{"addrs": {"a": 1}}', 400),
    (b'{"group": ""}', 400),
    (b'{"group": 5}', 400),
    (b'{"addrs": ["' + b"a" * 100_000 + b'"]}', 400),
    (b'{"addrs": [' + b'"1",' * 200_000 + b'"1"]}', 400),
    (b'{"addrs": [' + b"1," * 500_000 + b"1]}", 400),
    (b" " * (BODY_MAX + 1), 413),
    (b'{"addrs": ["' + b"\\u0041" * 2_000_000 + b'"]}', 400),
    (b'{"a": "' + b"\\" * 100_001, 400),
]


async def test_a_body_that_cannot_be_used_is_refused(service: Service) -> None:
    """With what was expected, in a few words of valid text; nothing is an internal error, nothing
    is pushed or written.
    """
    before = fence.tally["admin"]
    for body, code in BODIES:
        for path in (PUSH, CONTACTS):
            status, answer = await ask(service, "POST", path, body)
            assert status == (400 if path == CONTACTS and code == 404 else code), (
                body[:100],
                answer,
            )
            assert "expected" in answer["error"] or code in {404, 413}, (body[:100], answer)
            assert len(answer["error"]) < 1000
            assert clean(answer["error"]) == answer["error"]
    assert fence.tally["admin"] == before
    assert (await ask(service, "GET", CONTACTS))[1]["contacts"] == []


async def test_the_address_that_is_wrong_is_named(service: Service) -> None:
    """By its index."""
    for value in (b'"\\ud83d"', b"5", b'""', b"1e999"):
        status, answer = await ask(
            service, "POST", PUSH, b'{"addrs": ["+271", "+272", %s]}' % value
        )
        assert status == 400
        assert answer["error"].startswith("addrs[2]: ")


def test_json_is_read_strictly() -> None:
    """What is ambiguous or cannot be kept is named with its path."""
    for text, problem in {
        '{"a": [1, {"b": NaN}]}': "a[1].b: NaN is not a JSON number",
        '{"a": [1, {"b": 1, "b": 2}]}': "a[1]: the key 'b' is given twice",
        '{"a": -18446744073709551616}': "a: an integer of 20 digits is too large",
        '{"a": "\\ud83d"}': "a: half of a surrogate pair is no character",
        '{"\\ud83d": 1}': "half of a surrogate pair is no character (in the key '\\ud83d')",
        "-Infinity": "-Infinity is not a JSON number",
        "[" * 65 + "]" * 65: "[0]" * 64 + ": expected at most 64 levels of nesting",
        "[" * 64 + "]" * 64: "",
        '{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1e308}': "",
        '{"d": "\\ud83d\\ude00"}': "",
    }.items():
        assert problem_in(parse(text.encode())) == problem
    assert isinstance(parse(b'{"a": 1, "a": 2}'), Wrong)
    for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b"[1,]", b"'a'", b"\xef\xbb\xbf{}", b'"\n"'):
        with pytest.raises(ValueError, match="expected"):
            parse(wrong)
