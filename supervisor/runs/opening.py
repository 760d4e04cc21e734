"""Puts a dispatcher together with what its runs are handled by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from resources.fence import keep_running, leaves
from resources.stores.deadletters import DeadLetters
from resources.stores.journal import Journal
from resources.stores.logbook import Logbook
from resources.stores.outbox import Outbox
from resources.stores.partitions import Ownership
from resources.stores.peers import Peers

from ..config.model import App
from ..errors import SandboxFault
from ..host.cpus import usable_cpus
from ..observe import Observer
from ..sandboxes.fairness import Turns
from ..sandboxes.pool import Pool
from .aftermath import Words
from .dead_letters import DeadLetterBox
from .dispatcher import Dispatcher
from .failures import Failures
from .handling import Handler
from .history import History
from .jobs import Ended, Then
from .partitions import Partitions
from .router import Router

TURNS = usable_cpus() + 1  # runs of all apps that begin at the same time; others wait
TURN_SECONDS = 0.02  # that a run keeps others waiting: several times that of an ordinary run


@asynccontextmanager
async def open_dispatcher(
    pool: Pool,
    router: Router,
    journal: Journal,
    logbook: Logbook,
    outbox: Outbox,
    history: History,
    observe: Observer,
    announce: Callable[[Ended, Then], None],
    doubt: Callable[[App, SandboxFault], None] = lambda _, __: None,
    peers: Peers | None = None,
) -> AsyncIterator[Dispatcher]:
    """Open a dispatcher that announces how each run ended. At its end the runs in progress are cut
    off, and stay in the journal. `doubt` is called for a run that failed; `peers`: the other
    servers, if several share the work.
    """
    words = Words(logbook, outbox, observe)
    turns = Turns(TURNS, TURN_SECONDS)
    failures = Failures()
    handler = Handler(
        pool, router, journal, logbook, words, history, observe, turns, doubt, failures
    )
    box = DeadLetterBox(DeadLetters(journal.redis, journal.partitions), logbook, words, observe)
    async with trio.open_nursery() as nursery:
        dispatcher = Dispatcher(nursery, pool, journal, handler, box, failures, announce)
        if peers is not None:
            ownership = Ownership(journal.redis, journal.me)
            dispatcher.partitions = Partitions(journal, peers, ownership, box, dispatcher)
        nursery.start_soon(keep_running, "recovery", dispatcher.recovery.run)
        try:
            yield dispatcher
        except BaseException as error:
            if all(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in leaves(error)):
                dispatcher.stop()
            raise
        else:
            dispatcher.stop()
        finally:
            nursery.cancel_scope.cancel()
