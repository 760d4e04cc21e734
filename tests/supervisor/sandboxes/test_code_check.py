"""The apps' code is compiled before it is taken: in one process, each text once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from supervisor.config.model import App, Level
from supervisor.sandboxes import code_check
from supervisor.sandboxes.code_check import Answers, CodeCheck, jailed, unjailed
from supervisor.service import HARNESS

from ...apps import NODE, walls


def app(name: str, source: str) -> App:
    return App(name, "acct", Path(f"/apps/{name}.js"), source=source)


GOOD = app("good", "api.on_inbound_message = function () {};")
BAD = app("bad", "var a;\n\tlet a;")


@pytest.mark.parametrize("level", ["standard", "none", None])
async def test_what_does_not_compile_is_named(level: Level | None) -> None:
    """In a jail of each level, and in the plain process of `jsbox check`."""
    ask = unjailed(NODE, HARNESS.parent) if level is None else jailed(walls(level))
    found = await CodeCheck(ask).breakages([GOOD, BAD, evolve(BAD, name="copy")])
    text = "SyntaxError: Identifier 'a' has already been declared"
    assert [str(one) for one in found] == [
        f"/apps/bad.js:2:6: app bad: {text}",
        f"/apps/bad.js:2:6: app copy: {text}",
    ]


class Asked:
    """Asks, and counts the questions."""

    def __init__(self, answers: Mapping[str, Any], dies_at: str = "") -> None:
        self.answers, self.dies_at = answers, dies_at
        self.sources: list[str] = []

    async def __call__(self, questions: Sequence[Mapping[str, str]]) -> Answers:
        done: Answers = []
        for one in questions:
            self.sources.append(one["source"])
            if one["source"] == self.dies_at:
                break
            done.append(self.answers.get(one["source"]))
        return done


async def test_only_new_code_is_compiled() -> None:
    asked = Asked({BAD.source: {"line": 2, "column": 6, "text": "SyntaxError"}})
    check = CodeCheck(asked)
    for _ in range(3):
        assert len(await check.breakages([GOOD, BAD])) == 1
    assert len(asked.sources) == 2
    await check.breakages([app("new", "1"), BAD])
    assert asked.sources[2:] == ["1"]
    await check.breakages([GOOD])  # it was forgotten when no app had it
    assert asked.sources[3:] == [GOOD.source]


async def test_an_app_that_the_compiler_dies_of_does_not_hide_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked({BAD.source: {"line": 2, "column": 6, "text": "SyntaxError"}}, GOOD.source)
    others = [app(f"app{n}", str(n)) for n in range(3)]
    found = await CodeCheck(asked).breakages([*others, GOOD, BAD])
    assert [one.app for one in found] == ["bad"]
    assert "the code of good could not be checked" in caplog.text


MORTAL = """
const lines = require('node:readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { source } = JSON.parse(line);
  if (source === 'end') process.exit(1);
  process.stdout.write(source ? '{"line": 1, "column": 1, "text": "bad"}\\n' : 'null\\n');
});
"""


async def test_an_app_that_ends_the_compiler_hides_no_other(tmp_path: Path) -> None:
    """Not even if it comes first, and nothing has been compiled before."""
    (tmp_path / "check.js").write_text(MORTAL)
    apps = [app("deadly", "end"), app("a", "bad code"), app("b", "other bad code")]
    found = await CodeCheck(unjailed(NODE, tmp_path)).breakages(apps)
    assert [one.app for one in found] == ["a", "b"]


async def test_an_error_that_quotes_a_megabyte_is_an_error() -> None:
    """V8 quotes a regular expression as a whole."""
    check = CodeCheck(unjailed(NODE, HARNESS.parent))
    (one, other) = await check.breakages([app("long", f"/{'(' * 2_000_000}/"), BAD])
    assert "Invalid regular expression" in one.text
    assert other.app == "bad"


async def test_a_node_that_does_not_start_breaks_no_app(caplog: pytest.LogCaptureFixture) -> None:
    check = CodeCheck(unjailed(Path("/no/such/node"), HARNESS.parent))
    assert await check.breakages([GOOD, BAD]) == []
    assert "the code of good, bad could not be checked" in caplog.text


async def test_a_process_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "check.js").write_text("setTimeout(() => {}, 1e6)")
    monkeypatch.setattr(code_check, "SILENCE", 0.2)
    assert await CodeCheck(unjailed(NODE, tmp_path)).breakages([GOOD, BAD]) == []


async def test_text_of_an_error_is_one_line() -> None:
    bad = app("bad", "let \\u{61}\\u{1b}; let a\u2028let a")
    (one,) = await CodeCheck(unjailed(NODE, HARNESS.parent)).breakages([bad])
    assert str(one).isprintable()
    assert len(one.text) <= code_check.TEXT_MAX * 10


async def test_many_apps_take_a_moment() -> None:
    """150 apps of 100 KB in a second or so of CPU."""
    body = "api.x = function (a) { return a + 'some text of an app' ; };\n" * 1700
    apps = [app(f"app{n}", f"var n = {n};\n{body}") for n in range(150)]
    before = os.times()
    began = time.monotonic()
    assert await CodeCheck(unjailed(NODE, HARNESS.parent)).breakages(apps) == []
    after = os.times()
    used = after.children_user - before.children_user + after.user - before.user
    assert used < 6, (used, time.monotonic() - began)
