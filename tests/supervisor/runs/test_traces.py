"""Traces in memory: which are kept, which make room, and what of a request is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.observing import Trace as Settings
from supervisor.outcomes import Outcome
from supervisor.runs.traces import STEPS_MAX, Trace, Traces, note_of
from supervisor.sandboxes.protocol import Request

SETTINGS = Settings(runs=3, notable=2, slow=1.0)


def ended(
    name: str,
    app: str = "app",
    outcome: Outcome = Outcome.OK,
    steps: int = 0,
    total: float = 0.1,
    room: int = STEPS_MAX,
) -> Trace:
    trace = Trace(app, "phone", "message", name, room, records=False)
    for number in range(steps):
        step = trace.begin(Request("kv.get", str(number), {"key": "k"}))
        if step is not None:
            trace.answered(step, {"success": True})
    trace.outcome, trace.total = outcome, total
    trace.forget_values()
    return trace


def names(traces: Traces, app: str | None = None, *, only_notable: bool = False) -> list[str]:
    return [trace.id for trace in traces.newest(app, only_notable=only_notable)]


async def test_the_newest_are_kept_and_failed_or_slow_ones_apart() -> None:
    """An ordinary run makes room for an ordinary one, a notable for a notable, within each app."""
    traces = Traces()
    traces.keep(ended("bad1", outcome=Outcome.WALL), SETTINGS)
    traces.keep(ended("slow", total=1.5), SETTINGS)
    for number in range(5):
        traces.keep(ended(f"m{number}"), SETTINGS)
        traces.keep(ended(f"o{number}", app="other"), SETTINGS)
    assert names(traces, "app") == ["m4", "m3", "m2", "slow", "bad1"]
    traces.keep(ended("bad2", outcome=Outcome.CPU), SETTINGS)
    assert names(traces, "app", only_notable=True) == ["bad2", "slow"]
    assert traces.find("bad1") is None
    assert traces.find("m1") is None
    assert traces.find("o4") is not None


async def test_the_last_run_of_a_message_is_found() -> None:
    """A message may run again after a killed supervisor; when the later run makes room too, nothing
    is left.
    """
    traces = Traces()
    first, second = ended("m"), ended("m")
    traces.keep(first, SETTINGS)
    traces.keep(second, SETTINGS)
    assert traces.find("m") is second
    for number in range(3):
        traces.keep(ended(f"x{number}"), SETTINGS)
    assert traces.find("m") is None


async def test_all_apps_together_have_a_bound() -> None:
    """However many apps and however long their runs: ordinary ones go first, the oldest of all
    apps.
    """
    traces = Traces(weight_max=200_000)
    settings = Settings(runs=1000, notable=1000)
    traces.keep(ended("bad", outcome=Outcome.HEAP, steps=10), settings)
    for number in range(300):
        traces.keep(ended(f"m{number}", app=f"app{number}", steps=18), settings)
    kept = names(traces)
    assert (
        100_000 < sum(trace.weight for trace in traces.newest(None, only_notable=False)) <= 200_000
    )
    assert kept == [*(f"m{number}" for number in range(299, 299 - len(kept) + 1, -1)), "bad"]


async def test_long_texts_weigh_what_they_take() -> None:
    """An app whose failures have long stacks, and whose notes are long, has room for fewer."""
    traces = Traces(weight_max=200_000)
    for number in range(300):
        trace = ended(f"m{number}", outcome=Outcome.APP_ERROR)
        trace.detail = "\N{SNOWMAN}" * 8000
        trace.forget_values()
        traces.keep(trace, Settings(runs=1000, notable=1000))
    assert 10 < len(names(traces)) < 30


async def test_a_run_whose_replies_are_too_large_is_not_recorded() -> None:
    """What is kept of it while it runs has a bound, whatever it asks for."""
    trace = Trace("app", "phone", "message", "m", 1000, records=True)
    for number in range(100):
        step = trace.begin(Request("http.get", str(number), {"url": "http://x/"}))
        assert step is not None
        trace.answered(step, {"success": True, "body": "x" * (128 << 10)})
    assert trace.is_too_large
    assert sum(len(step.got["body"]) for step in trace.steps if step.got is not None) <= 2 << 20


async def test_a_run_has_room_for_so_many_steps() -> None:
    """Of more their number is kept; with no room nothing is."""
    trace = ended("m", steps=STEPS_MAX + 7)
    assert (len(trace.steps), trace.left_out) == (STEPS_MAX, 7)
    assert ended("m", steps=3, room=0).steps == []


async def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    """runs = 0, notable = 0."""
    traces = Traces()
    traces.keep(ended("m", outcome=Outcome.WALL), Settings(runs=0, notable=0))
    assert names(traces) == []


@pytest.mark.parametrize(
    ("name", "fields", "note"),
    [
        (
            "http.post",
            {"url": "http://hub/api?token=secret", "headers": {"A": ["secret"]}, "data": "secret"},
            "POST http://hub/api",
        ),
        ("http.get", {"url": "http://me:p@ss:word@hub:80/a@b?c"}, "GET http://hub:80/a@b"),
        ("http.get", {"url": "https://me@/x"}, "GET https:///x"),
        ("http.get", {"url": "//me:secret@[::1]"}, "GET //[::1]"),
        ("http.get", {"url": "http://hub/a@b"}, "GET http://hub/a@b"),
        ("http.get", {"url": "http://me:pa/secret@hub/x"}, "GET http://..."),
        ("http.get", {"url": "http://me:pa#secret@hub/x"}, "GET http://..."),
        ("http.get", {"url": "http://me:pa?secret@hub/x"}, "GET http://..."),
        ("http.get", {"url": "http://me:p@secret?x@hub/"}, "GET http://..."),
        ("http.get", {"url": "http://hub:80/a#token=secret"}, "GET http://hub:80/a"),
        ("outbound.reply_to", {"content": "secret", "in_reply_to": "m"}, "6 characters"),
        ("outbound.send_to_endpoint", {"content": "secret", "to_addr": "+27"}, "+27"),
        ("kv.set", {"key": "users.x", "value": {"pin": "secret"}}, "users.x"),
        ("log.info", {"msg": "x" * 500}, "x" * 200),
        ("contacts.update", {"key": "abc", "fields": {"name": "secret"}}, "abc"),
        ("contacts.search", {"query": "name:a*"}, "name:a*"),
        ("metrics.fire", {"store": "s", "metric": "m", "value": 1}, "m"),
        ("odd", {"key": 5, "content": None}, ""),
    ],
)
def test_a_note_tells_a_command_from_its_neighbours_and_holds_no_content(
    name: str, fields: dict[str, object], note: str
) -> None:
    """No message, no value, no header, no query string."""
    assert note_of(name, fields) == note


@given(
    st.text(max_size=30),
    st.dictionaries(
        st.text(max_size=10),
        st.none() | st.integers() | st.text(max_size=300) | st.lists(st.integers(), max_size=2),
        max_size=5,
    ),
)
def test_a_note_can_be_had_of_anything(name: str, fields: dict[str, object]) -> None:
    """Whatever an app sends, and never longer than it may be."""
    assert len(note_of(name, fields)) <= 200
