"""Stands in for the search process: speaks its wire, and does what the query says. For tests of the
one who asks.

`hang`: never answers. `crash`: ends. `crash FILE`: ends as long as there is no FILE, and makes it
when its index is forgotten. `slow N`: answers after N seconds. `behind N`: the index is behind
until asked for the Nth time. Anything else: answered with one key, the pid.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec

from resources.stores.search import dialogue

seen: Counter[str] = Counter()
writing = threading.Lock()


def send(answer: dialogue.Answer) -> None:
    with writing:
        sys.stdout.buffer.write(dialogue.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def answer(request: dialogue.Find) -> None:
    verb, _, rest = request.query.partition(" ")
    seen[request.query] += 1
    if verb == "hang":
        return
    if verb == "crash" and not (rest and Path(rest).exists()):
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
    send(dialogue.Ready())
    forgotten = Path(begin.folder) / "forgotten"
    for line in sys.stdin.buffer:
        request = dialogue.decode_request(line)
        if isinstance(request, dialogue.Forget):
            forgotten.touch()
        elif isinstance(request, dialogue.Find):
            threading.Thread(target=answer, args=(request,), daemon=True).start()


main()
