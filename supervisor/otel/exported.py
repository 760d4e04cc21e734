"""What is exported of a run: nothing that a user wrote, no log lines, no keys, no addresses."""

from __future__ import annotations

import re
import time

from ..config.model import App
from ..outcomes import Outcome
from ..runs.traces import CONSOLE, Step, Trace
from .words import Command, Run

TEXT_MAX = 1024  # characters of what an app threw
ENDS = "\"'`,;)>]}"  # a URL in a text ends before them
HIDDEN = "..."  # in place of a host that is not certain

# Each character is looked at once: a match takes all up to the next space, and never gives back.
_URL = re.compile(r"\w://\S*+")
_ORIGIN = re.compile(r"(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)
_HTTP = re.compile(r"https?://", re.ASCII | re.IGNORECASE)
_BEYOND = re.compile(r"[/?#\\]")


def run_of(trace: Trace, app: App) -> Run:
    """What is exported of a run that has ended. Takes time in proportion to its size."""
    outcome = trace.outcome or Outcome.OK
    return Run(
        app=trace.app,
        account=app.account,
        channel=trace.channel,
        kind=trace.kind,
        id=trace.id,
        ended=time.time(),
        queue=trace.queue,
        held=trace.held,
        boot=trace.boot,
        total=trace.total,
        pid=trace.pid,
        outcome=str(outcome),
        # of other outcomes it may be what the app wrote to its pipe
        detail=without_paths(trace.detail) if outcome is Outcome.APP_ERROR else "",
        commands=[_command(step) for step in trace.steps if step.name != CONSOLE],
        left_out=trace.left_out,
    )


def _command(step: Step) -> Command:
    # The reason why a command was refused often names an address or a key.
    outcome = "refused" if step.outcome not in ("", "ok") else step.outcome
    # The notes of other commands may hold what users wrote.
    url = origin(step.note.partition(" ")[2]) if step.name.startswith("http.") else ""
    return Command(step.name, step.at, step.seconds, outcome, url)


def origin(url: str) -> str:
    """Scheme, host and port of an http URL; empty if it is none, or may not be what it seems: with
    an @ behind the host, that may be the half of a password.
    """
    scheme = _HTTP.match(url)
    if scheme is None:
        return ""
    host = _host(url[scheme.end() :])
    return scheme[0].lower() + host if host else ""


def without_paths(text: str) -> str:
    """The beginning of a text, its URLs cut behind host and port."""
    if len(text) > TEXT_MAX:
        text = text[:TEXT_MAX]
        *before, last = text.rsplit(None, 1) or [""]
        if "://" in last:  # its end is missing, and with it the @ that would tell
            text = "".join(before)
    return _URL.sub(_cut, text) if "://" in text else text


def _cut(match: re.Match[str]) -> str:
    url = match[0]
    return url[:4] + (_host(url[4:]) or HIDDEN)


def _host(rest: str) -> str:
    """The host and port of a URL without its scheme; empty if they are not certain."""
    host = _BEYOND.split(rest, maxsplit=1)[0]
    # a text goes on behind it: a quote, a comma
    found = None if "@" in rest else _ORIGIN.match(host)
    return found[0] if found and (found.end() == len(host) or host[found.end()] in ENDS) else ""
