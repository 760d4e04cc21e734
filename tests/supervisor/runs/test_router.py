"""The router: always an answer, only what stands in the table, every request taken exactly."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from resources.contract import Caller, Refused, Resource, command
from resources.parameters import Json, command_converter, parameter
from resources.stores.redis import Unavailable
from supervisor.config import Limits
from supervisor.observe import ignore
from supervisor.runs.router import Router, build_table
from supervisor.sandboxes.protocol import Request


@frozen
class Ask:
    """A request of every kind of field."""

    text: str
    number: int = 1
    flag: bool = False
    maybe: str | None = None
    thing: Json = None
    small: int = parameter(0, wrong="too big", check=lambda value: value < 10)


STRUCTURE = command_converter().get_structure_hook(Ask)


@frozen
class Answer:
    """A reply."""

    seen: list[Any]


@frozen
class Sample(Resource):
    """Commands that behave in every way."""

    @command("sample.ask", "sample.alias")
    async def ask(self, caller: Caller, request: Ask) -> Answer:
        """Says what it was asked."""
        return Answer([request.text, request.number, request.flag, request.maybe, request.thing])

    @command("sample.refuse")
    async def refuse(self, caller: Caller, request: Ask) -> Answer:
        """Refuses."""
        raise Refused("because")

    @command("sample.hang")
    async def hang(self, caller: Caller, request: Ask) -> Answer:
        """Never answers."""
        await trio.sleep_forever()
        raise AssertionError

    @command("sample.bug")
    async def bug(self, caller: Caller, request: Ask) -> Answer:
        """Has a mistake in it."""
        raise KeyError("internal detail")

    @command("sample.down")
    async def down(self, caller: Caller, request: Ask) -> Answer:
        """Its store is away."""
        raise Unavailable("gone", sent=False)

    async def helper(self) -> None:
        """Not a command: nobody can call it."""


def caller(lines: list[tuple[int, str]]) -> Caller:
    class Log:
        async def __call__(self, level: int, message: str) -> None:
            lines.append((level, message))

        def soon(self, level: int, message: str) -> bool:
            lines.append((level, message))
            return True

    return Caller("r1", "acct", "app", "phone", None, {}, Log())


async def route(
    name: str, fields: dict[str, Any] | None = None, limits: Limits | None = None
) -> tuple[dict[str, Any], list[Any]]:
    lines: list[tuple[int, str]] = []
    router = Router(build_table([Sample()]), ignore)
    request = Request(name, "1", {"text": "t"} if fields is None else fields)
    reply = router.route(caller(lines), request, limits or Limits(), 30.0)
    return reply if isinstance(reply, dict) else await reply, lines


async def test_a_command_is_answered_with_its_reply() -> None:
    """success and the fields of the reply; unknown fields are ignored; two names may share a
    handler.
    """
    reply, lines = await route(
        "sample.alias", {"text": "a", "number": 5, "thing": {"x": [1]}, "unknown": 1}
    )
    assert reply == {"success": True, "seen": ["a", 5, False, None, {"x": [1]}]}
    assert lines == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "'text' must be given"),
        ({"number": 1}, "'text' must be given"),
        ({"text": None}, "'text' must be a string, not null"),
        ({"text": 5}, "'text' must be a string, not 5"),
        ({"text": ["a"]}, "'text' must be a string, not ['a']"),
        ({"text": "a", "number": True}, "'number' must be an integer, not true"),
        ({"text": "a", "number": 1.0}, "'number' must be an integer, not 1.0"),
        ({"text": "a", "number": "1"}, "'number' must be an integer, not '1'"),
        ({"text": "a", "number": None}, "'number' must be an integer, not null"),
        ({"text": "a", "flag": 1}, "'flag' must be true or false, not 1"),
        ({"text": "a", "maybe": 1}, "'maybe' must be a string or null, not 1"),
        ({"text": "a", "small": 10}, "too big"),
        ({"text": "a", "small": "x"}, "too big"),
    ],
)
async def test_types_are_taken_exactly(fields: dict[str, Any], reason: str) -> None:
    """Nothing is converted; the first field that is wrong is named, in the order of the request.
    Nothing is logged.
    """
    reply, lines = await route("sample.ask", fields)
    assert reply == {"success": False, "reason": reason}
    assert lines == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_value_breaks_the_converter(value: Any) -> None:
    """Whatever JSON comes in whatever field: a request or a refusal."""
    for name in ("text", "number", "flag", "maybe", "thing", "small"):
        try:
            STRUCTURE({"text": "t"} | {name: value}, Ask)
        except Refused as refused:
            assert refused.reason


@pytest.mark.parametrize(
    "name",
    [
        "nosuch.thing",
        "nodot",
        "sample.ask.more",
        "sample.",
        ".ask",
        "sample.helper",
        "sample.__init__",
        "sample.COMMANDS",
        "",
    ],
)
async def test_what_is_not_in_the_table_is_unknown(name: str) -> None:
    """A failure reply and an ERROR in the app's log; no attribute can be reached."""
    reply, lines = await route(name)
    assert reply == {"success": False, "reason": f"unknown command '{name}'"}
    ((level, text),) = lines
    assert level == 40
    assert "unknown command" in text


async def test_a_refusal_is_its_reason() -> None:
    """And is not logged."""
    assert await route("sample.refuse") == ({"success": False, "reason": "because"}, [])


async def test_a_handler_has_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """Then it is cancelled, and the app is told by reply and log."""
    reply, lines = await route("sample.hang", limits=Limits(command=3.0))  # type: ignore[arg-type]
    assert reply["reason"] == "sample.hang took longer than limits.command allows (3 s)"
    assert trio.current_time() == pytest.approx(3.0)
    assert lines == [(40, reply["reason"])]


async def test_a_bug_of_ours_shows_nothing_of_us(caplog: pytest.LogCaptureFixture) -> None:
    """The app learns that it was an internal error; the process log has the whole story."""
    reply, lines = await route("sample.bug")
    assert reply == {"success": False, "reason": "internal error"}
    assert lines == [(40, "sample.bug: internal error")]
    assert "internal detail" in caplog.text


async def test_a_store_that_is_away_is_said_so() -> None:
    """In plain words."""
    reply, lines = await route("sample.down")
    assert reply == {"success": False, "reason": "the store cannot be reached at the moment"}
    assert len(lines) == 1


def test_two_resources_cannot_answer_one_name() -> None:
    """A mistake of ours, found at the start."""
    with pytest.raises(ValueError, match=r"two resources answer 'sample.ask'"):
        build_table([Sample(), Sample()])
