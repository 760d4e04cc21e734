"""Stands in for the search process: speaks its wire, and does what the query says. For tests of the
one who asks.

`hang`: never answers. `crash`: ends. `crash FILE`: ends as long as there is no FILE. `behind-
crash`: the index is behind, and when asked again it ends. `killed N`: is killed until N processes
were. `slow N`: answers after N seconds. `behind N`: the index is behind until asked for the Nth
time. `garbage FILE`, `unasked FILE`: says what is no answer, or answers what nobody asked, as long
as there is no FILE, which it makes. `stopped FILE`: is stopped, as long as there is no FILE.
`endless FILE`: answers page after page, as long as there is no FILE. `troubles N`, `lines N`: first
says that the indexes of N accounts cannot be built, or N lines for the log. `trouble REASON`: first
says that the index of account `t` cannot be built. Anything else: answered with one key, the pid.

An index is damaged if there is a file `damaged` in the folder; it is built anew by making a file
`renewed`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec

from resources.stores.search import dialogue

seen: Counter[str] = Counter()
writing = threading.Lock()
folder = Path()


def send(answer: dialogue.Answer) -> None:
    with writing:
        sys.stdout.buffer.write(dialogue.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def killed_before(most: int) -> bool:
    """Whether fewer processes than that were killed, counting this one."""
    with (folder / "killed").open("ab+") as file:
        before = file.tell()
        file.write(b"x")
    return before < most


def make_no_sense(verb: str) -> None:
    if verb == "unasked":
        send(dialogue.Keys(1 << 40, msgspec.Raw(b"[]"), 1, more=False))
        return
    with writing:
        sys.stdout.buffer.write(b'{"a": [\xff\n')
        sys.stdout.buffer.flush()


def say_too_much(number: int, verb: str, rest: str) -> None:
    if verb == "stopped" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)  # the signal may come a moment later
    if verb == "endless" and not Path(rest).exists():
        Path(rest).touch()
        page = msgspec.Raw(b'["' + b"x" * (1 << 20) + b'"]')
        while True:
            send(dialogue.Keys(number, page, 1, more=True))
    if verb == "troubles":
        for n in range(int(rest)):
            send(dialogue.Trouble(f"{n}" + "a" * 10_000, "\x1b" + "x" * 10_000))
    if verb == "lines":
        for n in range(int(rest)):
            send(dialogue.Log(10**6, f"line {n}\x1b[2J" + "x" * 10_000))


def answer(request: dialogue.Find) -> None:
    verb, _, rest = request.query.partition(" ")
    seen[request.query] += 1
    if verb == "hang":
        return
    if verb == "killed" and killed_before(int(rest)):
        os.kill(os.getpid(), signal.SIGKILL)
    if verb in ("garbage", "unasked") and not Path(rest).exists():
        Path(rest).touch()
        make_no_sense(verb)
        return
    say_too_much(request.id, verb, rest)
    if verb == "trouble":
        send(dialogue.Trouble("t", rest))
    if verb == "behind-crash" and seen[request.query] == 1:
        send(dialogue.Failed(request.id, "behind", "one contact is not in the index yet", 1))
        return
    if verb == "behind-crash" or (verb == "crash" and not (rest and Path(rest).exists())):
        sys.stderr.write("something went wrong in here\n")
        sys.stderr.flush()
        os._exit(3)
    if verb == "slow":
        time.sleep(float(rest))
    if verb == "behind" and seen[request.query] < int(rest):
        send(
            dialogue.Failed(
                request.id, "behind", f"{rest} contacts are not in the index yet", int(rest)
            )
        )
        return
    if verb == "store":
        send(dialogue.Failed(request.id, "store", "Redis did not answer"))
        return
    send(dialogue.Keys(request.id, msgspec.Raw(dialogue.encode([str(os.getpid())])), 1, more=False))


def main() -> None:
    begin = dialogue.decode_begin(sys.stdin.buffer.readline())
    if begin.folder.endswith("never"):
        sys.stderr.write("there is no such thing\n")
        sys.exit(1)
    global folder  # noqa: PLW0603
    folder = Path(begin.folder)
    send(dialogue.Log(logging.WARNING, "it lacks a wall"))
    time.sleep(0.02)  # a line of its own
    send(dialogue.Ready())
    for line in sys.stdin.buffer:
        request = dialogue.decode_request(line)
        if isinstance(request, dialogue.Inspect):
            damage = "a file is cut short" if (folder / "damaged").exists() else ""
            if damage:
                (folder / "renewed").touch()
            send(dialogue.Inspected(request.id, damage))
        elif isinstance(request, dialogue.Find):
            threading.Thread(target=answer, args=(request,), daemon=True).start()


main()
