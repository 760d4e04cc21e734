"""The search process: owns every index, and answers the supervisor over its standard input and
output.

It is a process of its own because a hostile query can make the engine hold Python's lock or crash
the process: the supervisor then kills it and starts another. Its workers take turns at reading a
request; the one that has read it answers it, while the next one reads. So a slow query delays
nobody as long as there are workers, and a request costs no switch of threads.

It ends when its standard input does, and with its parent.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import cast

import msgspec

from ..links import link_to
from . import dialogue
from .changes import Changes, StoreGone
from .engine import Behind, CannotBuild, Engine
from .nodes import QueryError
from .walls import Store, confine

WORKERS = 4
KEEPERS = 2  # threads that let indexes catch up; one more flushes new contacts into them
STACK_BYTES = 1 << 20  # of each thread; groups are nested 100 deep at most
STORE_SECONDS = 2.0  # for an answer of Redis: less than any query may take
PIPE_BYTES = 1 << 20
EXIT_NO_FOLDER = 4
SWITCH_SECONDS = 0.001  # after which a computing thread lets another one run

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4

log = logging.getLogger(__name__)


class Pipes:
    """The standard input and output, for several threads."""

    def __init__(self) -> None:
        self._input = sys.stdin.buffer
        self._output = sys.stdout.buffer
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def receive(self) -> bytes:
        """The next line; the process ends if there is none."""
        with self._reading:
            line = self._input.readline()
        if not line:
            os._exit(0)  # the supervisor is gone; nothing here is worth keeping
        return line

    def send(self, answer: dialogue.Answer) -> None:
        """Write a line."""
        line = bytearray()
        dialogue.encode_into(answer, line)
        line += b"\n"
        with self._writing:
            self._output.write(line)
            self._output.flush()


class PipeHandler(logging.Handler):
    """Log records become lines for the supervisor's log."""

    def __init__(self, pipes: Pipes) -> None:
        super().__init__(logging.INFO)
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        self._pipes.send(dialogue.Log(record.levelno, self.format(record)))


def answer(engine: Engine, request: dialogue.Question, pipes: Pipes) -> None:
    """Answer a request, in pages if the answer is long."""
    match request:
        case dialogue.Inspect(number, account):
            pipes.send(dialogue.Inspected(number, engine.inspect(account)))
        case dialogue.Count(number, account, query, news):
            pipes.send(dialogue.Number(number, engine.count(account, query, news)))
        case dialogue.FindGroups(number, account, query):
            pipes.send(
                dialogue.Groups(
                    number, cast("list[dialogue.FoundGroup]", engine.groups(account, query))
                )
            )
        case dialogue.Find(number, account, query, after, limit, news):
            for page in engine.find(account, query, after, limit, dialogue.KEYS_PAGE, news):
                pipes.send(dialogue.Keys(number, msgspec.Raw(page.keys), page.last, page.more))


def work(engine: Engine, pipes: Pipes) -> None:
    """Read requests and answer them, for ever."""
    while True:
        request = dialogue.decode_request(pipes.receive())
        match request:
            case dialogue.Follow(accounts):
                engine.accounts = accounts
            case _:
                try:
                    answer(engine, request, pipes)
                except QueryError as error:
                    pipes.send(
                        dialogue.Failed(request.id, "query", error.detail, position=error.position)
                    )
                except Behind as error:
                    pipes.send(dialogue.Failed(request.id, "behind", str(error), error.left))
                except CannotBuild as error:
                    pipes.send(dialogue.Failed(request.id, "index", str(error)))
                except StoreGone as error:
                    pipes.send(dialogue.Failed(request.id, "store", str(error)))
                except BaseException as error:
                    # Panics of the engine are BaseExceptions. Whatever it is, the caller gets an
                    # answer, and the rest goes on.
                    log.exception("account %s: the engine failed on a query", request.account)
                    pipes.send(
                        dialogue.Failed(
                            request.id,
                            "engine",
                            f"the engine failed on this query ({type(error).__name__})",
                        )
                    )
                engine.tidy(request.account)


def protect() -> None:
    """End with the parent, and let no other process of this user read our memory."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


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
    fcntl.fcntl(sys.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pipes = Pipes()
    begin = dialogue.decode_begin(pipes.receive())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[PipeHandler(pipes)])
    folder = Path(begin.folder)
    place = _stand(folder)
    lacking = confine(folder, Store.of(begin.redis))
    if lacking:
        log.warning("the search process lacks some of its walls: %s", "; ".join(lacking))

    def note(account: str, reason: str) -> None:
        if reason and not _stands(folder, place):
            log.warning("%s was deleted; the search process makes it again as it starts", folder)
            os._exit(EXIT_NO_FOLDER)
        pipes.send(dialogue.Trouble(account, reason))

    changes = Changes(lambda: link_to(begin.redis, STORE_SECONDS))
    engine = Engine(
        folder,
        changes,
        begin.open_indexes,
        begin.idle_close,
        begin.accounts,
        note,
    )
    pipes.send(dialogue.Ready())
    threading.stack_size(STACK_BYTES)
    for keep in (*[engine.keep_up] * KEEPERS, engine.keep_flushed):
        threading.Thread(target=keep, daemon=True).start()
    workers = [threading.Thread(target=work, args=(engine, pipes)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
