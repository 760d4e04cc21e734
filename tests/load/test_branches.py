"""Dialogues that go on as the reply says, and the files of latencies."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from supervisor.load.campaign import Campaign
from supervisor.load.client import Exchange
from supervisor.load.feeding import filled
from supervisor.load.hdr import write_histograms
from supervisor.load.measures import Measures, Place
from supervisor.load.reading import load_campaign
from supervisor.load.schedule import schedule
from supervisor.load.session import Talk
from supervisor.load.summary import of_dialogue

from .test_campaign import errors

HEAD = """\
[run]
channel = "phone"
think = { lognormal = "1s", sigma = 0.1 }
stages = [ { rate = "5/s", for = "10s" } ]
[[dialogue]]
name = "register"
"""
STEPS = """\
[[dialogue.steps]]
dial = "*1#"
branches = [
  { expect = "Welcome back", name = "known", steps = [ { send = "1", expect = "Menu" } ] },
  { expect = "closed today", expect_end = true },
  { expect = "Welcome", steps = [
    { send = "Thandi", branches = [
      { expect = "not a name", steps = [ { send = "T", expect = "Thanks" } ] },
      { expect = "Thanks" },
    ] },
    { send = "2", expect = "Menu" },
  ] },
]
[[dialogue.steps]]
send = "0"
expect = "Bye"
expect_end = true
"""


# "OK" at the first step of both branches
SAME = """\
[[dialogue.steps]]
dial = "*1#"
branches = [
  { expect = "new", name = "a", steps = [ { send = "1", branches = [ { expect = "OK" } ] } ] },
  { expect = "old", name = "b", steps = [
    { send = "1", branches = [
      { expect = "OK", steps = [ { send = "2", expect = "Bye", expect_end = true } ] },
      { expect = "Later" },
    ] },
  ] },
]
[[dialogue.steps]]
send = "0"
expect = "Bye"
"""
ENDS = 'steps = [ { send = "1", expect_end = true } ]'


def campaign(tmp_path: Path, text: str = HEAD + STEPS) -> Campaign:
    (tmp_path / "campaign.toml").write_text(text)
    return load_campaign(tmp_path / "campaign.toml")


@define
class Phone:
    """Stands in for a connection: an app that answers at once."""

    app: Callable[[str | None], str | None]
    said: list[str | None] = field(factory=list)
    is_connected: bool = True
    reconnects: int = 0
    redelivered: int = 0

    def send(self, *, content: str | None, session_event: str | None, **_: Any) -> Exchange:
        self.said.append("hang up" if session_event == "close" else content)
        now = trio.current_time()
        exchange = Exchange("m", b"", sent=now, replied=now, content=self.app(content))
        exchange.is_end = (exchange.content or "").startswith(("Bye", "We are closed"))
        exchange.tell()
        return exchange

    def forget(self, exchange: Exchange) -> None:
        pass

    async def connected(self) -> None:
        pass


class Silent(Phone):
    """An app that does not answer."""

    def send(self, *, content: str | None, session_event: str | None, **_: Any) -> Exchange:
        return Exchange("m", b"", sent=trio.current_time())


async def held(
    one: Campaign, app: Callable[[str | None], str | None]
) -> tuple[list[str | None], Measures]:
    """Hold one conversation; return what was said, and the measures."""
    phone, measures = Phone(app), Measures(since=0.0)
    arrival = schedule(one, 1)[0]
    talk = Talk(one.run, measures, trio.current_time() - arrival.due)
    await talk.hold(phone, arrival, "+1")
    return phone.said, measures


def app(first: str, name: str = "Thanks") -> Callable[[str | None], str | None]:
    return {None: first, "Thandi": name, "T": "Thanks", "1": "Menu", "2": "Menu", "0": "Bye"}.get


@pytest.mark.parametrize(
    ("replies", "said", "taken"),
    [
        (app("Welcome back"), [None, "1", "0"], {(1, "known"): 1}),
        (app("We are closed today"), [None], {(1, "closed today"): 1}),
        (
            app("Welcome"),
            [None, "Thandi", "2", "0"],
            {(1, "Welcome"): 1, (1, "Welcome", 1, "Thanks"): 1},
        ),
        (
            app("Welcome", name="That is not a name"),
            [None, "Thandi", "T", "2", "0"],
            {(1, "Welcome"): 1, (1, "Welcome", 1, "not a name"): 1},
        ),
    ],
)
async def test_the_reply_decides_how_it_goes_on(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    replies: Callable[[str | None], str | None],
    said: list[str | None],
    taken: dict[Place, int],
) -> None:
    """After a branch, the steps that follow all of them; one that ends the session is the end."""
    found, measures = await held(campaign(tmp_path), replies)
    assert found == said
    counts = measures.dialogues["register"]
    assert (counts.completed, counts.failed) == (1, 0)
    assert dict(counts.branches) == taken


@pytest.mark.parametrize(
    ("replies", "reason", "expected"),
    [
        (app("Hello"), "wrong_reply", "Welcome back or closed today or Welcome"),
        (app("Welcome", name="?"), "wrong_reply", "not a name or Thanks"),
        (app("closed today"), "not_ended", "the end of the session"),
        (app("Bye Welcome"), "ended_early", "a session that goes on"),
    ],
)
async def test_a_reply_that_fits_no_branch_is_an_error(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    replies: Callable[[str | None], str | None],
    reason: str,
    expected: str,
) -> None:
    _, measures = await held(campaign(tmp_path), replies)
    assert dict(measures.errors) == {reason: 1}
    assert measures.examples[reason][0].expected == expected


async def test_each_place_is_counted_for_itself(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The same name at the same step of two branches; where the session ends within a branch, so
    does the conversation.
    """
    one = campaign(tmp_path, HEAD + SAME)
    rows = []
    for replies in (
        {None: "new", "1": "OK", "0": "Bye"},
        {None: "old", "1": "OK", "2": "Bye"},
        {None: "new", "1": "no"},
        {None: "old", "1": "OK", "2": "no"},
    ):
        said, measures = await held(one, replies.get)
        counts = measures.dialogues["register"]
        steps = [example.step for found in measures.examples.values() for example in found]
        taken = [(branch["step"], branch["name"]) for branch in of_dialogue(counts)["branches"]]
        rows.append((said, taken, of_dialogue(counts)["stopped_at_step"], steps))
    assert rows == [
        ([None, "1", "0"], [("1", "a"), ("1/a/1", "OK")], {}, []),
        ([None, "1", "2"], [("1", "b"), ("1/b/1", "OK")], {}, []),
        ([None, "1"], [("1", "a")], {"1/a/1": 1}, ["1/a/1"]),
        ([None, "1", "2"], [("1", "b"), ("1/b/1", "OK")], {"1/b/1/OK/1": 1}, ["1/b/1/OK/1"]),
    ]
    assert one.dialogues[0].longest == 3, "nothing follows the step that ends the session"


async def test_a_timeout_of_the_warm_up_is_not_measured(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    one = campaign(tmp_path)
    arrival = schedule(one, 1)[0]
    for since, count in ((arrival.due + 0.1, 0), (arrival.due, 1)):
        measures = Measures(since)
        talk = Talk(one.run, measures, trio.current_time() - arrival.due)
        await talk.hold(Silent(app("")), arrival, "+1")
        assert list(measures.reply.took) == [15.0] * count


def test_the_longest_path_is_scheduled(tmp_path: Path) -> None:
    """So that whatever the app replies, the same seed draws the same load."""
    one = campaign(tmp_path)
    assert one.dialogues[0].longest == 5
    assert {len(arrival.thinks) for arrival in schedule(one, 1)} == {4}


def test_users_data_is_put_into_branches_too(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,town\nThandi,Kuruman\n")
    text = (HEAD + STEPS).replace("think =", 'users = { data = "people.csv" }\nthink =')
    one = campaign(tmp_path, text.replace('"Welcome back"', '"Back, {name}"'))
    (known, *_) = filled(one.dialogues[0], one.rows[0]).steps[0].branches
    assert (known.expect, known.name) == ("Back, Thandi", "known")
    wrong = text.replace('"not a name"', '"no {nme}"')
    assert 'has no column "nme"' in errors(tmp_path, wrong)[0]


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ('expect = "x"\nbranches = [ { expect = "y" } ]', "in each of its branches"),
        ("branches = [ { steps = [] } ]", "expect"),
        ('branches = [ { expect = "y", steps = [ { dial = "2" } ] } ]', "has begun"),
        ('branches = [ { expect = "y", steps = [ {} ] } ]', "one of `dial` and `send`"),
        (
            'branches = [ { expect = "y", expect_end = true, steps = [ { send = "2" } ] } ]',
            "got both",
        ),
        ('branches = [ { expect = "y", step = [] } ]', "did you mean `steps`?"),
        ('branches = "y"', "branches"),
        (
            'branches = [ { expect = "Hi" }, { expect = "No" }, { expect = "Hi, {name}" } ]',
            '9: dialogue.0.steps.0.branches.2.expect: is never reached: every reply with "Hi, {nam',
        ),
        (
            'branches = [ { expect = "y", name = "a" }, { expect = "z", name = "a" } ]',
            '9: dialogue.0.steps.0.branches.1.name: two branches are called "1/a"',
        ),
        (
            (
                'branches = [ { expect = "y", name = "n/1/x" }, { expect = "n",'
                ' steps = [ { send = "1", branches = [ { expect = "x" } ] } ] } ]'
            ),
            'branches.1.steps.0.branches.0.expect: two branches are called "1/n/1/x"',
        ),
        (
            (
                f'branches = [ {{ expect = "y", expect_end = true }}, {{ expect = "n", {ENDS} }} ]'
                '\n[[dialogue.steps]]\nsend = "1"'
            ),
            "10: dialogue.0.steps.1: is never reached: the step before it ends the session",
        ),
        (
            'expect_end = true\n[[dialogue.steps]]\nsend = "1"',
            "10: dialogue.0.steps.1: is never reached: the step before it ends the session",
        ),
    ],
)
def test_branches_that_make_no_sense_are_refused(tmp_path: Path, steps: str, error: str) -> None:
    found = errors(tmp_path, f'{HEAD}[[dialogue.steps]]\ndial = "1"\n{steps}\n')
    assert any(error in line for line in found), found
    assert all(line[0].isdigit() for line in found)


def test_the_latencies_are_there_for_other_tools(tmp_path: Path) -> None:
    """What a reader of HDR histograms finds is what was measured, without the warm-up."""
    measures = Measures(since=1.1)
    for at, took in [
        (0.5, 9.0),
        (1.05, 9.0),
        (1.2, 0.010),
        (1.4, 0.020),
        (3.0, 0.5),
        (3.1, 99_999.0),
    ]:
        measures.reply.add(at, took)
    write_histograms(tmp_path / "hdr", measures, datetime(2026, 1, 2, tzinfo=UTC))
    assert {file.name for file in (tmp_path / "hdr").iterdir()} == {
        f"{kind}.{form}" for kind in ("reply", "service", "session") for form in ("hlog", "hgrm")
    }
    reader = HistogramLogReader(str(tmp_path / "hdr" / "reply.hlog"), HdrHistogram(1, 1, 1))
    rows = []
    while (one := reader.get_next_interval_histogram()) is not None:
        rows.append((one.get_total_count(), one.get_value_at_percentile(50)))
    reader.close()
    assert [count for count, _ in rows] == [2, 2]
    assert rows[0][1] == pytest.approx(10_000, rel=0.001)
    curve = (tmp_path / "hdr" / "reply.hgrm").read_text()
    assert "Percentile TotalCount" in curve
    assert re.search(r"^\s*20\.0\d+\s+0\.4\d+\s+2 ", curve, re.MULTILINE), "the second, in ms"
    within = [0.01, 0.02, 0.5, 3600.0]  # an hour is the most
    footer = re.search(r"Mean += +([0-9.]+), StdDeviation += +([0-9.]+)", curve)
    assert footer is not None
    mean, deviation = (float(one) for one in footer.groups())
    assert mean == pytest.approx(statistics.mean(within) * 1000, rel=0.01)
    assert deviation == pytest.approx(statistics.pstdev(within) * 1000, rel=0.01), "in ms, too"
