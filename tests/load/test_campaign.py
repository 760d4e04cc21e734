"""The campaign file: what it may contain, and all of its errors, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import InvalidConfig
from supervisor.load.campaign import Campaign, Fault, Stage
from supervisor.load.reading import load_campaign
from supervisor.load.thresholds import parse_threshold

RUN = '[run]\nchannel = "phone"\nstages = [ { rate = "5/s", for = "30s" } ]\n'
TALK = (
    '[[dialogue]]\nname = "register"\n'
    'steps = [ { dial = "*1#", expect = "Hi" }, { send = "1", expect_end = true } ]\n'
)

UNKNOWN = (
    "17: thresholds.reply.p98: unknown measure; known: reply.p99, service.p99, session.p99,"
    " generator.late.p99, missing_replies, errors, "
    "sessions.failed, sessions.unfinished, sandbox.starts, errors.REASON, replies.rate,"
    " sessions.completed, dialogue.NAME.completed, "
    "sandbox.rss.max (times: p50, p90, p95, p99, p999, p9999, max, mean)"
)


def read(folder: Path, text: str) -> Campaign:
    file = folder / "campaign.toml"
    file.write_text(text)
    return load_campaign(file)


def errors(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidConfig) as raised:
        read(folder, text)
    return [f"{problem.line}: {problem.text}" for problem in raised.value.problems]


def test_a_whole_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages and ramps, users, think times, a recorded chat, stubs with a body from a file, faults
    in order, thresholds.
    """
    monkeypatch.setenv("TOKEN", "secret")
    (tmp_path / "optout.chat.toml").write_text('steps = [ { send = "STOP", expect = "out" } ]')
    (tmp_path / "hub.json").write_text('{"a": 1}')
    text = (
        '[run]\nchannel = "phone"\ntoken = "${TOKEN}"\n'
        'stages = [ { rate = "5/s", for = "30s", warmup = true }, { ramp = "5/s..80/s", for ='
        ' "2m" }, { rate = "90/m", for = "1m" } ]\n'
        'users = { from = "+27##", pool = 50, returning = 0.5 }\n'
        'think = { lognormal = "4s", sigma = 0 }\n'
        'give_up = { after = "15s", rate_per_step = 0.02, how = "timeout" }\n'
        + TALK
        + '[[dialogue]]\nfile = "optout.chat.toml"\nweight = 2\n'
        '[stub."http://hub:8000/api/*"]\n'
        'reply = { body = "hub.json", p50 = "40ms", p99 = "900ms", errors = { "503" = 0.01 } }\n'
        '[faults]\n"3m" = "kill-sandbox"\n"10s" = "reload-limits"\n[thresholds]\n'
        '"reply.p99" = "< 1500ms"\n"errors" = "< 1%"\n'
    )
    found = read(tmp_path, text)
    assert found.run.stages == (
        Stage(30.0, 5.0, 5.0, True),
        Stage(120.0, 5.0, 80.0),
        Stage(60.0, 1.5, 1.5),
    )
    assert (found.warmup, found.seconds, found.run.token) == (30.0, 210.0, "secret")
    assert [(one.name, one.weight, len(one.steps)) for one in found.dialogues] == [
        ("register", 1.0, 2),
        ("optout", 2.0, 1),
    ]
    assert found.stubs[0].reply.body == '{"a": 1}'
    assert found.faults == [Fault(10.0, "reload-limits"), Fault(180.0, "kill-sandbox")]
    assert [(one.name, one.limit, one.unit) for one in found.thresholds] == [
        ("reply.p99", 1.5, "s"),
        ("errors", 0.01, "ratio"),
    ]


def test_a_rate_scales_all_stages(tmp_path: Path) -> None:
    """The highest rate becomes the one given; the others keep their proportion."""
    text = RUN.replace("[ {", '[ { ramp = "1/s..10/s", for = "10s" }, {') + TALK
    assert [(stage.start, stage.end) for stage in read(tmp_path, text).at_rate(40).run.stages] == [
        (4.0, 40.0),
        (20.0, 20.0),
    ]


def test_every_error_has_its_line(tmp_path: Path) -> None:
    """One pass finds them all; each says what, where, and what was expected."""
    text = (
        '[run]\nchannel = 5\nstages = [ { rate = "5", for = "30s" } ]\nthnk = 1\n'
        '[[dialogue]]\nname = "a"\nsteps = [ { send = "1", dial = "*1#" } ]\n'
        '[[dialogue]]\nname = "a"\nsteps = []\n'
        '[stub."hub"]\nreplay = {}\n[faults]\n"4m" = "earthquake"\n"soon" = "drain"\n'
        '[thresholds]\n"reply.p98" = "< 1s"\n"reply.p99" = "fast"\n'
        '"dialogue.b.completed" = "> 97"\n"dialogue.c.completed" = "> 97%"\n'
    )
    assert errors(tmp_path, text) == [
        "2: run.channel: expected a string, got 5",
        '3: run.stages.0: expected a rate, such as "80/s" or "10/m", got "5"',
        "4: run.thnk: unknown key `thnk`; did you mean `think`?",
        "7: dialogue.0.steps.0: expected one of `dial` and `send`",
        '9: dialogue.1.name: two dialogues are called "a"',
        "10: dialogue.1.steps: expected 1 to 200 steps, got 0",
        '11: stub.hub: expected a URL such as "http://hub:8000/api/v1/*"',
        "12: stub.hub.replay: unknown key `replay`; did you mean `reply`?",
        (
            '14: faults.4m: expected "kill-sandbox" or "gateway-disconnect" or "reload-limits" or'
            ' "drain", got "earthquake"'
        ),
        (
            '15: faults.soon: expected a duration with its unit, such as "250ms", "10s", "10m",'
            ' "1h" or "7d", got "soon"'
        ),
        UNKNOWN,
        (
            '18: thresholds.reply.p99: expected a comparison, such as "< 1500ms", "> 97%" or "=='
            ' 0", got "fast"'
        ),
        (
            '19: thresholds.dialogue.b.completed: after >: expected a percentage, such as "97%",'
            ' got "97"'
        ),
        '20: thresholds.dialogue.c.completed: there is no dialogue "c"',
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ((RUN, ""), "1: run: the key `channel` is missing"),
        ((TALK, ""), "1: dialogue: expected at least one [[dialogue]]"),
        (
            ('for = "30s"', 'for = "30s", warmup = true'),
            (
                "3: run.stages: stages with warmup = true come first, and at least one stage is"
                " measured"
            ),
        ),
        (('"5/s"', '"900000/s"'), "3: run.stages: 27000000 sessions; a run may have 2000000"),
        (('"5/s"', f'"{"9" * 400}/s"'), "3: run.stages: inf sessions; a run may have 2000000"),
        (
            ("stages", "think = { sigma = nan }\nstages"),
            "3: run.think.sigma: expected a number from 0 to 10, got nan",
        ),
        (
            ("stages", "think = { sigma = 200 }\nstages"),
            "3: run.think.sigma: expected a number from 0 to 10, got 200",
        ),
        (
            ("[[dialogue]]", "[[dialogue]]\nweight = inf"),
            "5: dialogue.0.weight: expected a number from 0 to 1,000,000, got inf",
        ),
        (
            ("stages", 'token = "${NO-SUCH}"\nstages'),
            "3: run.token: expected ${NAME} with the name of a variable; a dollar sign is $$",
        ),
        (
            ("[[dialogue]]", '[thresholds]\nerrors = "< nan"\n[[dialogue]]'),
            '5: thresholds.errors: after <: expected a number, got "nan"',
        ),
        (
            ("stages", 'users = { from = "+27#" }\nstages'),
            '3: run.users.from: "+27#" makes fewer than 20000 addresses; put more # in it',
        ),
        (
            ('{ send = "1"', '{ dial = "*2#"'),
            "6: dialogue.0.steps.1: `dial` begins a conversation; here it has begun",
        ),
        (
            ("steps = [", 'file = "nowhere.toml"\nsteps = ['),
            "6: dialogue.0.file: expected `steps` or `file`, got both",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, change: tuple[str, str], error: str
) -> None:
    """Each rule of the file, one at a time."""
    assert error in errors(tmp_path, (RUN + TALK).replace(*change))


def test_what_could_never_happen_is_refused(tmp_path: Path) -> None:
    """A fault after the end, an invalid status, more errors than answers: mistakes that a run would
    hide.
    """
    text = (
        RUN
        + TALK
        + (
            '[stub."http://hub/*"]\nreply = { status = 99, errors = { "503" = 0.7, "oops" = 0.4'
            ' } }\n[faults]\n"1m" = "kill-sandbox"\n'
        )
    )
    assert errors(tmp_path, text) == [
        "8: stub.http://hub/*.reply.errors: the shares are 1.1 together, more than 1",
        '8: stub.http://hub/*.reply: expected an HTTP status from 200 to 599, got "99"',
        '8: stub.http://hub/*.reply: expected an HTTP status from 200 to 599, got "oops"',
        "9: faults: kill-sandbox at 60 s would never happen: the stages are over after 30 s",
    ]


def test_a_chat_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    """It was said as well that there were no steps."""
    (error,) = errors(tmp_path, RUN + '[[dialogue]]\nfile = "nowhere.chat.toml"\n')
    assert error.endswith("nowhere.chat.toml:1: cannot be read: No such file or directory")


@pytest.mark.parametrize("share", ["nan", "-0.5", "true", '"x"', "{}"])
def test_the_share_of_an_error_is_a_share(tmp_path: Path, share: str) -> None:
    """Also in a table whose keys are not fixed: nan was taken, and the stub made no error."""
    stub = f'[stub."http://hub/*"]\nreply = {{ errors = {{ "503" = {share} }} }}\n'
    (error,) = errors(tmp_path, RUN + TALK + stub)
    assert "reply.errors.503: expected a number from 0 to 1, got" in error


def test_invalid_toml_is_reported_with_its_line(tmp_path: Path) -> None:
    """As for the config file."""
    assert errors(tmp_path, RUN + "[thresholds\n")[0].startswith("4: not valid TOML")


@pytest.mark.parametrize(
    ("name", "text", "value", "holds", "shown"),
    [
        ("reply.p99", "< 1500ms", 1.2, True, "1.2s"),
        ("reply.p99", "< 1500ms", 1.5, False, "1.5s"),
        ("missing_replies", "== 0", 0, True, "0"),
        ("dialogue.a b.completed", "> 97%", 0.971, True, "97.1%"),
        ("sandbox.rss.max", "<= 200MiB", 200 << 20, True, "200MiB"),
        ("replies.rate", ">= 50/s", 49.9, False, "49.9/s"),
        ("errors", "< 1%", 0.02, False, "2%"),
        ("errors.wall", "< 3", 2, True, "2"),
    ],
)
def test_a_threshold_compares_in_its_own_unit(
    name: str, text: str, value: float, holds: bool, shown: str
) -> None:
    """Times, sizes, shares, rates and counts."""
    threshold = parse_threshold(name, text)
    assert threshold.holds(value) is holds
    assert threshold.show(value) == shown
