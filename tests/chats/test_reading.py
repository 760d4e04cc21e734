"""A test file says what it means, or every error in it is named with its line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from supervisor.chats.reading import FIELDS, KEYS, load_chat
from supervisor.config import InvalidConfig
from supervisor.load.reading import load_campaign

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
WRONG = """\
expct_kv = 1
now = "yesterday"
from = 5
[kv]
since = 2026-01-01
[[contacts]]
nme = "Thandi"
[stub."clinics.example.org"]
reply = { body = "x", delay = "1s" }
[[steps]]
dial = "1"
send = "2"
[[steps]]
expect = "nobody acts"
[[steps]]
send = "3"
expect_outcome = "fine"
expect_http = 3
expect_sms = { too = "x" }
expect_metric = [ "a", { value = "x" } ]
expect_contact = "Thandi"
expect_kv = [ "key" ]
expect_log = { message = "m", times = -1 }
"""


def chat(folder: Path, text: str) -> Path:
    file = folder / "a.chat.toml"
    file.write_text(text)
    return file


def test_every_error_is_named_with_its_line_and_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as found:
        load_chat(chat(tmp_path, WRONG))
    said = {(problem.line, problem.text) for problem in found.value.problems}
    for line, *parts in (
        (1, "unknown key `expct_kv`"),
        (2, "now: expected a time", '"2026-01-01T09:00:00Z"', '"yesterday"'),
        (3, "from: expected a text, got 5"),
        (5, "kv.since: expected what JSON can hold"),
        (6, "contacts.0: there is no field 'nme'"),
        (8, "expected a URL such as"),
        (9, "unknown key `delay`"),
        (10, "steps.0: expected one of `dial`, `send` and `hang_up`"),
        (13, "steps.1: expected one of `dial`, `send` and `hang_up`"),
        (17, "expected one of ok, no_reply", '"fine"'),
        (18, "expect_http: expected a string (url) or a table, got 3"),
        (19, "unknown key `too`", "did you mean `to`"),
        (20, "expect_metric.1.value: expected a number"),
        (21, "expect_contact: expected a table"),
        (22, "expect_kv: expected a table"),
        (23, "expect_log.times: expected a number of times, got -1"),
    ):
        assert any(at == line and all(part in text for part in parts) for at, text in said), parts
    assert len(said) == 16


def test_what_no_app_could_be_given_is_an_error(tmp_path: Path) -> None:
    """A number that JSON lacks; a pipe, which nobody may wait for; a file that is not text."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff")
    text = '[config]\na = { file = "pipe" }\nb = { file = "bytes" }\nc = inf\n[kv]\nd = [nan]\n'
    with pytest.raises(InvalidConfig) as found:
        load_chat(chat(tmp_path, text + '[[steps]]\ndial = "*1#"\n'))
    wrong = ("not a regular file", "not UTF-8 text", "no nan and no inf", "no nan and no inf")
    problems = found.value.problems
    assert [one.line for one in problems] == [2, 3, 4, 6]
    assert all(one.text.endswith(text) for one, text in zip(problems, wrong, strict=True))


@pytest.mark.parametrize("steps", ["", "steps = []", 'steps = "dial"', "steps = [1]"])
def test_a_test_without_steps_is_an_error(tmp_path: Path, steps: str) -> None:
    """A file that tests nothing would pass for ever."""
    with pytest.raises(InvalidConfig, match="steps"):
        load_chat(chat(tmp_path, steps))


def test_a_test_can_be_a_dialogue_of_a_load_test(tmp_path: Path) -> None:
    """What only tests look at is left out."""
    chat(
        tmp_path, '[[steps]]\ndial = "1"\nexpect = "Hi"\nexpect_kv = { a = 1 }\nexpect_log = "x"\n'
    )
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(
        '[run]\nchannel = "phone"\nstages = [ { rate = "1/s", for = "1s" } ]\n'
        '[[dialogue]]\nfile = "a.chat.toml"\n'
    )
    (dialogue,) = load_campaign(campaign).dialogues
    assert [step.expect for step in dialogue.steps] == ["Hi"]


def test_the_documentation_has_every_key() -> None:
    text = DOCS.read_text("utf-8")
    fields = {name for table in FIELDS.values() for name in table}
    for name in {*KEYS, *fields, "dial", "send", "hang_up", "expect_end", "expect_outcome"}:
        assert re.search(rf"`{name}\b|(^|\{{ ){name} =|^\[+{name}\b", text, re.MULTILINE), name
