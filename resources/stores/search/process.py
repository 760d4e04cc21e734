"""The search process: owns every index, and answers the supervisor.

It is a process of its own because a hostile query can make the engine hold Python's lock or crash
the process: the supervisor then kills it and starts another. Each of its workers has two pipes to
the supervisor, which gives a question to a worker that is free. So a slow query delays nobody as
long as there are workers, and a question wakes up one thread only: with one pair of pipes, at which
the workers took turns, they passed Python's lock on eight times a question.

Over the standard input the supervisor says whose contacts to follow; over the standard output it is
told what belongs to no question. The process ends when its standard input does, and with its
parent.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
from attrs import frozen

if __name__ == "__main__":
    # redis-py would load OpenTelemetry's SDK wherever that is installed (supervisor/__main__.py).
    sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]  # "not found"

from ...fence import fence
from ...kernel import protect
from ..links import link_to
from . import dialogue
from .changes import Changes, StoreGone
from .engine import Behind, CannotBuild, Engine
from .group_search import find_groups
from .nodes import QueryError
from .walls import Store, confine

WORKERS = 4  # each with a lane
KEEPERS = 2  # threads that let indexes catch up; one more flushes new contacts into them
STACK_BYTES = 1 << 20  # of each thread; groups are nested 100 deep at most
STORE_SECONDS = 2.0  # for an answer of Redis: less than any query may take
READ = 64 << 10  # bytes of a question at a time
PIPE_BYTES = 1 << 20
EXIT_NO_FOLDER = 4
GARBAGE = 20_000  # objects more than before, at which Python looks for garbage
SWITCH_SECONDS = 0.001  # after which a computing thread lets another one run

log = logging.getLogger(__name__)


class Control:
    """The standard input and output. Any thread may tell something."""

    def __init__(self) -> None:
        self._input = sys.stdin.buffer
        self._output = sys.stdout.buffer
        self._writing = threading.Lock()

    def receive(self) -> bytes:
        """The next line; the process ends if there is none."""
        line = self._input.readline()
        if not line:
            os._exit(0)  # the supervisor is gone; nothing here is worth keeping
        return line

    def tell(self, what: dialogue.Told) -> None:
        """Write a line."""
        with self._writing:
            self._output.write(dialogue.encode(what) + b"\n")
            self._output.flush()


@frozen
class Lane:
    """A worker's own pipes."""

    reads: int
    writes: int

    def receive(self) -> bytes:
        """The next question; the process ends if there will be none."""
        pieces: list[bytes] = []
        while not pieces or pieces[-1][-1:] != b"\n":  # each comes when the last is answered
            data = os.read(self.reads, READ)
            if not data:
                os._exit(0)
            pieces.append(data)
        return b"".join(pieces)

    def send(self, reply: dialogue.Reply) -> None:
        """Write a line, in one call if the pipe has room for it."""
        line = bytearray()
        dialogue.encode_into(reply, line)
        line += b"\n"
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self.writes, rest) :]
            except OSError:
                os._exit(0)


class PipeHandler(logging.Handler):
    """Log records become lines for the supervisor's log."""

    def __init__(self, control: Control) -> None:
        super().__init__(logging.INFO)
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        self._control.tell(dialogue.Log(record.levelno, self.format(record)))


def answer(engine: Engine, question: dialogue.Question, lane: Lane) -> None:
    """Answer a question, in pages if the answer is long."""
    match question:
        case dialogue.Find(number, account, query, seconds, after, limit, news):
            size = dialogue.KEYS_PAGE
            for page in engine.find(account, query, after, limit, size, news, seconds):
                lane.send(dialogue.Keys(number, msgspec.Raw(page.keys), page.last, page.more))
        case dialogue.Count(number, account, query, seconds, news):
            lane.send(dialogue.Number(number, engine.count(account, query, news, seconds)))
        case dialogue.FindGroups(number, account, query, seconds):
            found = cast(
                "list[dialogue.FoundGroup]", find_groups(engine.changes, account, query, seconds)
            )
            lane.send(dialogue.Groups(number, found))
        case dialogue.Inspect(number, account):
            lane.send(dialogue.Inspected(number, engine.inspect(account)))


def work(engine: Engine, lane: Lane) -> None:
    """Read questions and answer them, for ever."""
    while True:
        question = dialogue.decode_question(lane.receive())
        try:
            answer(engine, question, lane)
        except QueryError as error:
            lane.send(dialogue.Failed(question.id, "query", error.detail, position=error.position))
        except Behind as error:
            lane.send(dialogue.Failed(question.id, "behind", str(error), error.left))
        except CannotBuild as error:
            lane.send(dialogue.Failed(question.id, "index", str(error)))
        except StoreGone as error:
            lane.send(dialogue.Failed(question.id, "store", str(error)))
        except BaseException as error:
            # Panics of the engine are BaseExceptions. Whatever it is, the caller gets an answer,
            # and the rest goes on.
            log.exception("account %s: the engine failed on a query", question.account)
            text = f"the engine failed on this query ({type(error).__name__})"
            lane.send(dialogue.Failed(question.id, "engine", text))
        engine.tidy(question.account)


def _stand(folder: Path) -> tuple[int, int]:
    """Make the folder of all indexes if missing; return which it is. The walls let us write only
    that one, even if another one of its name takes its place.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    return status.st_dev, status.st_ino


def _stands(folder: Path, place: tuple[int, int]) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == place


def main() -> None:
    """Serve until the standard input ends."""
    protect()
    sys.setswitchinterval(SWITCH_SECONDS)
    control = Control()
    begin = dialogue.decode_begin(control.receive())
    lanes = [Lane(*ends) for ends in begin.lanes]
    for lane in lanes:
        with suppress(OSError):  # a user may have only so much in pipes; smaller ones do as well
            fcntl.fcntl(lane.writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[PipeHandler(control)])
    folder = Path(begin.folder)
    place = _stand(folder)
    lacking = confine(folder, Store.of(begin.redis))
    if lacking:
        log.warning("the search process lacks some of its walls: %s", "; ".join(lacking))

    def note(account: str, reason: str) -> None:
        if reason and not _stands(folder, place):
            log.warning("%s was deleted; the search process makes it again as it starts", folder)
            os._exit(EXIT_NO_FOLDER)
        control.tell(dialogue.Trouble(account, reason))

    changes = Changes(lambda: link_to(begin.redis, STORE_SECONDS))
    engine = Engine(
        folder,
        changes,
        begin.open_indexes,
        begin.idle_close,
        begin.accounts,
        note,
    )
    with fence("search", "the indexes cannot follow"), suppress(StoreGone):
        engine.follow()  # now, before anything is written to a store that was set back
    # What is loaded stays; indexes have few objects that refer to others.
    gc.freeze()
    gc.set_threshold(GARBAGE)
    control.tell(dialogue.Ready())
    threading.stack_size(STACK_BYTES)
    for keep in (*[engine.keep_up] * KEEPERS, engine.keep_flushed):
        threading.Thread(target=keep, daemon=True).start()
    for lane in lanes:
        threading.Thread(target=work, args=(engine, lane), daemon=True).start()
    while True:
        engine.accounts = dialogue.decode_follow(control.receive()).accounts


if __name__ == "__main__":
    main()
