"""What is exported of a run: no reasons, no paths, nothing that may be a password, and fast."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from supervisor.config.model import App
from supervisor.otel.exported import TEXT_MAX, origin, run_of, without_paths
from supervisor.otel.words import encoded
from supervisor.outcomes import Outcome
from supervisor.runs.traces import STEPS_MAX, Trace
from supervisor.sandboxes.protocol import Request

APP = App(account="acme", javascript=Path("survey.js"), name="survey")


def trace_of(outcome: Outcome = Outcome.OK, detail: str = "") -> Trace:
    trace = Trace("survey", "phone", "message", "m1", STEPS_MAX, records=False)
    trace.start(77)
    trace.outcome, trace.detail = outcome, detail
    return trace


@pytest.mark.parametrize(
    "reason",
    [
        'Contact with address "+27821234567" for delivery class "sms" not found.',
        "Missing key users.+27821234567",
        'expected a text, got "+27821234567"',
    ],
)
async def test_the_reason_of_a_refused_command_is_not_exported(reason: str) -> None:
    trace = trace_of()
    step = trace.begin(Request("contacts.get", "1", {"addr": "+27821234567"}))
    assert step is not None
    trace.end(step, {"success": False, "reason": reason})
    run = run_of(trace, APP)
    assert run.commands[0].outcome == "refused"
    assert b"27821234567" not in encoded(run).data


@pytest.mark.parametrize(
    ("url", "exported"),
    [
        ("https://hub.example.org/api/contacts/+2782/", "https://hub.example.org"),
        ("HTTP://hub:8443?msisdn=2782", "http://hub:8443"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        ("https://h/a#access_token=hush", "https://h"),
        ("https://ann:hush@h:1/", "https://h:1"),
        ("https://ann:pa/hush@h/", ""),
        ("https://ann:pa#hush@h/", ""),
        ("https://ann:pa?hush@h/", ""),
        ("https://ann:pa@hush/x@h/", ""),
        ("https://ann:pa@hush?x@h/", ""),
        ("https://ann:hush", ""),
        ("https://", ""),
        ("hush", ""),
        ("ftp://hush", ""),
    ],
)
async def test_of_a_url_only_scheme_host_and_port_are_exported(url: str, exported: str) -> None:
    trace = trace_of()
    trace.begin(Request("http.get", "1", {"url": url}))
    run = run_of(trace, APP)
    assert run.commands[0].url == exported
    assert b"hush" not in encoded(run).data


def test_a_url_that_the_bound_cuts_is_left_out() -> None:
    padding = "x" * (TEXT_MAX - 20) + " "
    assert without_paths(f"{padding}https://ann:12345678@h/") == padding.rstrip()
    assert without_paths("x" * (2 * TEXT_MAX)) == "x" * TEXT_MAX


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no https://h:80/x?name='T'&token=hush more", "no https://h:80 more"),
        ('no "https://h", https://h.', 'no "https://h https://h.'),
        ('at https://h/x?q="T"&token=hush', "at https://h"),
        ("https://ann:pa/hush@h/ https://ann:pa@hush/w@h/", "https://... https://..."),
        ("ws://ann:hush@h:1/", "ws://..."),
        ("Error: broken\n    at survey.js:3:5", "Error: broken\n    at survey.js:3:5"),
    ],
)
def test_urls_in_what_an_app_throws_are_cut(text: str, left: str) -> None:
    assert without_paths(text) == left


async def test_only_what_an_app_throws_is_exported_of_the_details() -> None:
    assert run_of(trace_of(Outcome.APP_ERROR, "Error: x"), APP).detail == "Error: x"
    for outcome in set(Outcome) - {Outcome.APP_ERROR}:
        assert run_of(trace_of(outcome, "not JSON: my name is Thandi"), APP).detail == ""


@pytest.mark.parametrize("piece", ["a://", "a://b?", "://", "a" * 50 + "://@", "a:// "])
def test_no_text_takes_long(piece: str) -> None:
    """The event loop waits for it. Of a text 500 times as long, no more is looked at."""
    text = piece * 500_000
    began = time.thread_time()
    left = without_paths(text)
    assert time.thread_time() - began < 0.02  # 0.2 ms; the pattern before took minutes
    assert len(left) <= 2 * TEXT_MAX
    assert origin("http://" + text) in ("", "http://a")
