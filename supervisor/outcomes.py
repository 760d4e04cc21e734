"""How a run ended: a closed set of names, the same in apps' logs, gateways, metrics and docs."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The app's doing, unless a comment says ours. docs/operations.md has causes and remedies."""

    OK = "ok"
    NO_REPLY = "no_reply"  # done, but a message with session_event new or resume got no reply
    APP_ERROR = "app_error"  # load error, throw, unhandled rejection
    BOOT = "boot"  # the process was not ready in time
    WALL = "wall"
    CPU = "cpu"
    HEAP = "heap"
    MEMORY = "memory"
    OUTPUT = "output"
    COMMANDS = "commands"
    PROTOCOL = "protocol"  # a line that is not a command
    CRASHED = "crashed"  # exit or signal for none of these reasons
    KILLED_BY_OPERATOR = "killed_by_operator"
    HOST_OOM = "host_oom"
    # ours: it was cut off, or its app left the config; it stays in the journal and is run again
    SHUTDOWN = "shutdown"
    # ours: not run again, because supervisors died while it was in progress, or it cannot be read
    DEAD_LETTER = "dead_letter"


NOT_THE_APPS = frozenset(
    {Outcome.KILLED_BY_OPERATOR, Outcome.HOST_OOM, Outcome.SHUTDOWN, Outcome.DEAD_LETTER}
)
"""Outcomes that an app is not at fault for. Of the others, all but OK are failed runs."""
