"""Puts a dispatcher together with what its runs are handled by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from resources.fence import leaves
from resources.forever import keep_running
from resources.stores.deadletters import DeadLetters
from resources.stores.journal import Journal
from resources.stores.keyspace import Keyspace
from resources.stores.logbook import Logbook
from resources.stores.outbox import Outbox
from resources.stores.partitions import Ownership
from resources.stores.peers import Peers

from ..config.model import App
from ..errors import SandboxFault
from ..host.cpus import own_cpus
from ..observe import Observer
from ..sandboxes.fairness import Turns
from ..sandboxes.pool import Pool
from .aftermath import Aftermath
from .dead_letters import DeadLetterBox
from .dispatcher import Dispatcher
from .failures import Failures
from .foresight import Foresight
from .handling import Handler
from .history import History
from .jobs import Ended, Then
from .partitions import Partitions
from .router import Router

MORE_TURNS = 1  # runs of all apps that begin at the same time, beyond our CPUs; others wait
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
    aftermath = Aftermath(logbook, outbox, observe)
    turns = Turns(own_cpus() + MORE_TURNS, TURN_SECONDS)
    failures = Failures()
    handler = Handler(
        pool, router, journal, logbook, aftermath, history, observe, turns, doubt, failures,
        Foresight(Keyspace(journal.redis)),
    )  # fmt: skip
    box = DeadLetterBox(DeadLetters(journal.redis, journal.partitions), logbook, aftermath, observe)
    async with trio.open_nursery() as nursery:
        dispatcher = Dispatcher(nursery, pool, journal, handler, box, failures, announce)
        if peers is not None:
            ownership = Ownership(journal.redis, journal.me)
            dispatcher.partitions = Partitions(journal, peers, ownership, box, dispatcher)
        nursery.start_soon(keep_running, "recovery", dispatcher.recovery.run)
        nursery.start_soon(keep_running, "outages", dispatcher.outages.run)
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
