"""What others are told of a run: the app's developer in its log, and a user who waits for an answer that the app did not give."""

from __future__ import annotations

import logging

from attrs import frozen

from resources.contract import Caller
from resources.messages import go_metadata, reply
from resources.stores.identity import Sender
from resources.stores.journal import Entry
from resources.stores.logbook import Logbook
from resources.stores.outbox import Outbox, OutboxFull
from resources.stores.redis import StoreError

from .config.model import App
from .errors import SandboxFault
from .observe import Observer
from .outcomes import Outcome

ERROR = 40

log = logging.getLogger(__name__)


@frozen
class Words:
    """Says it where that can be done; else the process's own log has it. Never raises StoreError."""

    logbook: Logbook
    outbox: Outbox
    observer: Observer

    async def say(self, caller: Caller, level: int, text: str) -> None:
        """A line in the log of the app that a run belongs to."""
        try:
            await caller.log(level, text)
        except StoreError:
            log.warning("app %s: not in its log, which cannot be reached: %s", caller.app, text)

    async def say_for(self, app: App, level: int, text: str) -> None:
        """A line in an app's log."""
        try:
            await self.logbook.write(app.account, app.name, level, text, app.log.kept)
        except StoreError:
            log.warning("app %s: not in its log, which cannot be reached: %s", app.name, text)

    async def report(self, caller: Caller, entry: Entry, outcome: Outcome, fault: SandboxFault | None) -> None:
        """How a run ended that did not end well."""
        what = f"{entry.kind} {entry.id}"
        if fault is None:
            text = f"[{outcome}] the app was done with {what} and had not replied to it"
        else:
            text = f"[{outcome}] {what}: {fault.detail}"
        await self.say(caller, ERROR, text)

    async def fall_back(self, app: App, caller: Caller) -> None:
        """A session's user waits: send what the operator has for that."""
        text = app.limits.fallback_reply
        message = caller.message
        if text and message is not None and not message.get("inbound_push_trigger"):
            metadata = {"go": go_metadata(app.account, app.name)}
            answer = reply(message, text, close=True, to_group=False, helper_metadata=metadata)
            try:
                await self.outbox.post(caller.channel, Sender(app.account, app.name), answer)
            except (StoreError, OutboxFull) as error:
                log.warning("app %s: the fallback reply could not be sent: %s", app.name, error)
                text = ""
        self.observer.reply_missing(app.name, fallback=bool(text))
