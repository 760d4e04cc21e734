"""What follows a run that did not end well: a line in the app's log for its developer, and a reply
to the user who waits for one.
"""

from __future__ import annotations

import logging
from functools import partial
from logging import ERROR

from attrs import frozen

from resources.contract import Caller
from resources.fence import note
from resources.messages import go_metadata, reply
from resources.stores.identity import Sender
from resources.stores.journal import Entry
from resources.stores.logbook import Logbook
from resources.stores.outbox import FALLBACK, FIRST_REPLY, Outbox, OutboxFull, Slot
from resources.stores.redis import StoreError

from ..config.model import App
from ..errors import SandboxFault
from ..observe import Observer, ReplyMissing
from ..outcomes import Outcome

ATTEMPTS = 3  # at a fallback reply, while the store is away

log = logging.getLogger(__name__)


@frozen
class Aftermath:
    """Writes to the app's log, or to the supervisor's log if the store is away, and sends fallback
    replies. Methods raise nothing unless they say so.
    """

    logbook: Logbook
    outbox: Outbox
    observe: Observer

    async def say(self, caller: Caller, level: int, text: str) -> None:
        """Write a line to the log of the app of a run."""
        try:
            await caller.log(level, text)
        except Exception as error:  # noqa: BLE001  # a line of a log is never worth a run
            _not_in_its_log(caller.app, text, error)

    async def say_for(self, app: App, level: int, text: str) -> None:
        """Write a line to an app's log."""
        try:
            await self.logbook.write(app.account, app.name, level, text, app.log.kept)
        except Exception as error:  # noqa: BLE001  # likewise
            _not_in_its_log(app.name, text, error)

    async def report(
        self, caller: Caller, entry: Entry, outcome: Outcome, fault: SandboxFault | None
    ) -> None:
        """Write to the app's log how a run ended that did not end well."""
        what = f"{entry.kind} {entry.id}"
        if fault is None:
            text = f"[{outcome}] the app was done with {what} and had not replied to it"
        else:
            text = f"[{outcome}] {what}: {fault.detail}"
        await self.say(caller, ERROR, text)

    async def fall_back(self, app: App, caller: Caller) -> None:
        """Send the fallback reply to a session's user who waits for a reply, and count it as
        missing.

        Nothing is sent if an earlier run of the message, before the server was ended, replied.
        """
        is_sent = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = partial(self._answer, app, caller, Slot(caller.origin, FIRST_REPLY))
                is_sent = await answer()
                if is_sent and caller.origin:
                    caller.posted.append(answer)
                break
            except (StoreError, OutboxFull) as error:
                # The store answers each attempt at once, or after it had time to come back.
                may_help = isinstance(error, StoreError) and bool(caller.origin)
                if attempt == ATTEMPTS or not may_help:
                    what = "app %s: the fallback reply could not be sent: %s"
                    log.warning(what, app.name, error)
                    break
        self.observe(ReplyMissing(app.name, fallback=is_sent))

    async def fall_back_for(self, app: App, caller: Caller) -> bool:
        """Send the fallback reply to a session's message that is not going to be run, unless a run
        of it has replied.

        If it is run later after all, that run's reply is sent too. Counts nothing.

        Returns:
            Whether there was anything to send.

        Raises:
            StoreError: It could not be sent; repeating the call does no harm.
        """
        try:
            return await self._answer(
                app, caller, Slot(caller.origin, FALLBACK, unless=(FIRST_REPLY,))
            )
        except OutboxFull as error:
            log.warning("app %s: the fallback reply could not be sent: %s", app.name, error)
            return False

    async def _answer(self, app: App, caller: Caller, slot: Slot) -> bool:
        """Send `limits.fallback_reply`; return whether there is anything to send."""
        text, message = app.limits.fallback_reply, caller.message
        if not text or message is None or message.get("inbound_push_trigger"):
            return False
        metadata = {"go": go_metadata(app.account, app.name)}
        answer = reply(message, text, close=True, to_group=False, helper_metadata=metadata)
        sender = Sender(app.account, app.name)
        await self.outbox.post_once(caller.channel, sender, answer, slot if slot.origin else None)
        return True


def _not_in_its_log(app: str, text: str, error: Exception) -> None:
    if isinstance(error, StoreError):
        log.warning("app %s: not in its log, which cannot be reached: %s", app, text)
    else:
        note("log", error, f"app {app}")
