"""Texts of apps and users reach a terminal with nothing in them that it would obey."""

from __future__ import annotations

import json
from io import StringIO

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from resources.text import visible, visible_json
from supervisor.cli.common import fail, print_json
from supervisor.cli.screen import Screen
from supervisor.client.phone import Turn

EVIL = "\x1b]0;OWNED\x07\x1b[2J\u202eright\x9b31m\r\u2028\U000e0041 \u05d0\u0301 [b]x[/b]"


def is_harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@given(st.text())
def test_any_text_is_harmless_and_json_says_the_same(text: str) -> None:
    """Whatever characters it has; plain text is left alone."""
    assert visible(text, keep="").isprintable()
    assert visible(text, keep="") == text or not text.isprintable()
    shown = visible_json(json.dumps([text], indent=1, ensure_ascii=False))
    assert json.loads(shown) == [text]
    assert is_harmless(shown)


def test_the_phone_shows_what_an_app_says() -> None:
    """Replies, messages to others, log lines, notes and numbers."""
    screen, out = Screen(), StringIO()
    screen.console = Console(file=out, highlight=False, width=300)
    screen.dials(EVIL, EVIL)
    screen.types(EVIL)
    reply = {"content": EVIL, "session_event": "close", "to_addr": EVIL}
    screen.shows(Turn("m", (reply,), (reply,), EVIL, 1.0))
    screen.logged("ERROR", EVIL)
    screen.note(EVIL)
    assert is_harmless(out.getvalue())
    assert out.getvalue().count("\\x1b]0;OWNED\\x07\\x1b[2J\\u202eright") == 9
    assert "[b]x[/b]" in out.getvalue()


@pytest.mark.parametrize("act", [print_json, fail])
def test_answers_of_the_server(act: object) -> None:
    """Printed as JSON, or as an error."""

    @click.command()
    def command() -> None:
        assert callable(act)
        act(EVIL)

    result = CliRunner().invoke(command)
    assert "OWNED" in result.output
    assert is_harmless(result.output)
