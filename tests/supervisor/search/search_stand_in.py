"""Stands in for the search process: speaks its wire, and does what the query says. For tests of the
one who asks.

`hang`: never answers. `mute`: neither, and closes its output. `crash`: ends. `crash FILE`: ends as
long as there is no FILE. `behind-crash`: the index is behind, and when asked again it ends. `killed
N`: is killed until N processes were. `slow N`: answers after N seconds. `behind N`: the index is
behind until asked for the Nth time. `garbage FILE`, `unasked FILE`, `twice FILE`, `closes FILE`,
`babbles FILE`: says what is no answer, answers what nobody asked, says more than an answer, closes
its pipe, or says nonsense where no answer is expected, as long as there is no FILE, which it makes.
`long N`: answers with three pages of N bytes. `stopped FILE`: is stopped, as long as there is no
FILE. `endless FILE`: answers page after page, as long as there is no FILE. `troubles N`, `lines N`:
first says that the indexes of N accounts cannot be built, or N lines for the log. `trouble REASON`:
first says that the index of account `t` cannot be built. Anything else: answered with one key, the
pid.

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

NONSENSE = ("garbage", "unasked", "twice", "closes", "babbles")
seen: Counter[str] = Counter()
writing = threading.Lock()
folder = Path()


def tell(what: dialogue.Told) -> None:
    with writing:
        sys.stdout.buffer.write(dialogue.encode(what) + b"\n")
        sys.stdout.buffer.flush()


def send(lane: int, reply: dialogue.Reply) -> None:
    write(lane, dialogue.encode(reply) + b"\n")


def write(lane: int, line: bytes) -> None:
    with open(lane, "wb", closefd=False) as file:
        file.write(line)


def killed_before(most: int) -> bool:
    """Whether fewer processes than that were killed, counting this one."""
    with (folder / "killed").open("ab+") as file:
        before = file.tell()
        file.write(b"x")
    return before < most


def make_no_sense(lane: int, verb: str, number: int) -> None:
    key = msgspec.Raw(b'["x"]')
    if verb == "unasked":
        send(lane, dialogue.Keys(1 << 40, key, 1, more=False))
    elif verb == "twice":
        line = dialogue.encode(dialogue.Keys(number, key, 1, more=False)) + b"\n"
        write(lane, line + line[:20])
    elif verb == "closes":
        os.close(lane)
    elif verb == "garbage":
        write(lane, b'{"a": [\xff\n')
    else:
        with writing:
            sys.stdout.buffer.write(b'{"a": [\xff\n')
            sys.stdout.buffer.flush()


def say_long(lane: int, number: int, size: int) -> None:
    page = msgspec.Raw(b'["' + b"x" * size + b'"]')
    for n in range(3):
        send(lane, dialogue.Keys(number, page, n, more=n < 2))


def say_too_much(lane: int, number: int, verb: str, rest: str) -> None:
    if verb == "stopped" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)  # the signal may come a moment later
    if verb == "endless" and not Path(rest).exists():
        Path(rest).touch()
        page = msgspec.Raw(b'["' + b"x" * (1 << 20) + b'"]')
        while True:
            send(lane, dialogue.Keys(number, page, 1, more=True))
    if verb == "troubles":
        for n in range(int(rest)):
            tell(dialogue.Trouble(f"{n}" + "a" * 10_000, "\x1b" + "x" * 10_000))
    if verb == "lines":
        for n in range(int(rest)):
            tell(dialogue.Log(10**6, f"line {n}\x1b[2J" + "x" * 10_000))


def answer(lane: int, request: dialogue.Find) -> None:  # noqa: C901  # one row a verb
    verb, _, rest = request.query.partition(" ")
    seen[request.query] += 1
    if verb == "mute":
        os.close(sys.stdout.fileno())
    if verb in ("hang", "mute"):
        return
    if verb == "killed" and killed_before(int(rest)):
        os.kill(os.getpid(), signal.SIGKILL)
    if verb in NONSENSE and not Path(rest).exists():
        Path(rest).touch()
        make_no_sense(lane, verb, request.id)
        return
    say_too_much(lane, request.id, verb, rest)
    if verb == "trouble":
        tell(dialogue.Trouble("t", rest))
    if verb == "behind-crash" and seen[request.query] == 1:
        reason = "one contact is not in the index yet"
        send(lane, dialogue.Failed(request.id, "behind", reason, 1))
        return
    if verb == "behind-crash" or (verb == "crash" and not (rest and Path(rest).exists())):
        sys.stderr.write("something went wrong in here\n")
        sys.stderr.flush()
        os._exit(3)
    if verb == "slow":
        time.sleep(float(rest))
    if verb == "behind" and seen[request.query] < int(rest):
        reason = f"{rest} contacts are not in the index yet"
        send(lane, dialogue.Failed(request.id, "behind", reason, int(rest)))
        return
    if verb == "store":
        send(lane, dialogue.Failed(request.id, "store", "Redis did not answer"))
        return
    if verb == "long":
        say_long(lane, request.id, int(rest))
        return
    pid = msgspec.Raw(dialogue.encode([str(os.getpid())]))
    send(lane, dialogue.Keys(request.id, pid, 1, more=False))


def work(reads: int, writes: int) -> None:
    with open(reads, "rb") as lines:
        for line in lines:
            question = dialogue.decode_question(line)
            if isinstance(question, dialogue.Inspect):
                damage = "a file is cut short" if (folder / "damaged").exists() else ""
                if damage:
                    (folder / "renewed").touch()
                send(writes, dialogue.Inspected(question.id, damage))
            elif isinstance(question, dialogue.Find):
                answer(writes, question)


def main() -> None:
    begin = dialogue.decode_begin(sys.stdin.buffer.readline())
    if begin.folder.endswith("never"):
        sys.stderr.write("there is no such thing\n")
        sys.exit(1)
    global folder  # noqa: PLW0603
    folder = Path(begin.folder)
    tell(dialogue.Log(logging.WARNING, "it lacks a wall"))
    time.sleep(0.02)  # a line of its own
    tell(dialogue.Ready())
    for ends in begin.lanes:
        threading.Thread(target=work, args=ends, daemon=True).start()
    while sys.stdin.buffer.readline():
        pass


main()
