"""How a run ended: a closed set, the same names for apps' logs, gateways, metrics and
documentation.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Theirs unless it says ours; docs/operations.md has each one's cause and cure."""

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
    PROTOCOL = "protocol"  # a line that is no command
    CRASHED = "crashed"  # exit or signal with no such reason
    KILLED_BY_OPERATOR = "killed_by_operator"
    HOST_OOM = "host_oom"
    # ours: cut off, or its app left the config; it stays in the journal and is run again
    SHUTDOWN = "shutdown"
    # ours: not run again, since supervisors died of it; or it cannot be read
    DEAD_LETTER = "dead_letter"
