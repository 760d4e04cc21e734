"""One user's conversation, as it should go; what goes otherwise is counted, and ends it."""

from __future__ import annotations

from typing import Any

import trio
from attrs import frozen

from .campaign import Run, Step
from .client import Client, Exchange
from .measures import Measures
from .schedule import Arrival

# Seconds that a reply may come after the outcome of its run: the connection may have been lost
# between them, and it takes client.RECONNECT_SECONDS and more until there is another one.
OUTCOME_GRACE = 3.0


class WentWrong(Exception):
    """The conversation cannot go on. `reason` is what it is counted as."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HungUp(Exception):
    """The user has left."""


@frozen
class Talk:
    """What conversations have in common. Times are seconds since the start, `zero` on Trio's clock."""

    run: Run
    measures: Measures
    zero: float

    async def hold(self, client: Client, arrival: Arrival, user: str) -> None:
        """The whole conversation of one arrival."""
        measures, due = self.measures, arrival.due
        counts = measures.counts(arrival.dialogue.name) if measures.is_measured(due) else None
        if counts is not None:
            counts.started += 1
            counts.unfinished += 1
        at = [0]
        try:
            await self._steps(client, arrival, user, at)
        except WentWrong as wrong:
            measures.error(self._now(), due, wrong.reason)
            if counts is not None:
                counts.failed += 1
                counts.stopped[at[0]] += 1
        except HungUp:
            if counts is not None:
                counts.gave_up += 1
                counts.stopped[at[0]] += 1
        else:
            measures.second(self._now()).completed += 1
            if counts is not None:
                counts.completed += 1
                measures.session.add(due, self._now() - due)
        if counts is not None:
            counts.unfinished -= 1

    async def _steps(self, client: Client, arrival: Arrival, user: str, at: list[int]) -> None:
        dials = arrival.dialogue.steps[0].dial
        envelope = {"from_addr": user, "to_addr": dials or self.run.to}
        intended, steps = arrival.due, arrival.dialogue.steps
        for index, step in enumerate(steps):
            at[0] = index
            if index:
                intended = self._now() + arrival.thinks[index - 1]
                await trio.sleep_until(self.zero + intended)
            if arrival.leaves_at == index:
                self._hang_up(client, envelope)
                raise HungUp
            event = "new" if step.dial is not None else "resume" if dials is not None else None
            self._note_late(intended)
            exchange = client.send(**envelope, content=step.send, session_event=event)
            try:
                await self._await(exchange, intended)
            finally:
                client.forget(exchange)
            if exchange.replied is None:
                self._hang_up_if_waiting(client, envelope, exchange)
                raise WentWrong(exchange.rejected or _outcome(exchange))
            self._note_reply(exchange, intended)
            _check(step, exchange, is_last=index == len(steps) - 1)

    async def _await(self, exchange: Exchange, intended: float) -> None:
        """Until there is a reply, or there will be none, or the user has waited long enough."""
        with trio.move_on_at(self.zero + intended + self.run.give_up.after):
            await exchange.answered()
            if exchange.rejected is None:
                with trio.move_on_after(OUTCOME_GRACE):
                    await exchange.has_reply.wait()

    def _note_late(self, intended: float) -> None:
        """How late the generator itself is; a lost connection, or a server that gives no credit, is
        not its fault.
        """
        if self.measures.is_measured(intended):
            self.measures.late.add(intended, max(0.0, self._now() - intended))

    def _note_reply(self, exchange: Exchange, intended: float) -> None:
        assert exchange.replied is not None
        assert exchange.sent is not None
        replied = exchange.replied - self.zero
        self.measures.second(replied).replies += 1
        if self.measures.is_measured(intended):
            self.measures.reply.add(intended, replied - intended)
            self.measures.service.add(intended, exchange.replied - exchange.sent)

    def _hang_up_if_waiting(
        self, client: Client, envelope: dict[str, Any], exchange: Exchange
    ) -> None:
        """A user who got no reply in time leaves; so long as they waited counts among the
        latencies: it was at least that.
        """
        if exchange.rejected is None and exchange.outcome is None:
            self.measures.reply.add(self._now() - self.run.give_up.after, self.run.give_up.after)
            self._hang_up(client, envelope)

    def _hang_up(self, client: Client, envelope: dict[str, Any]) -> None:
        if self.run.give_up.how == "timeout":
            client.forget(client.send(**envelope, content=None, session_event="close"))

    def _now(self) -> float:
        return trio.current_time() - self.zero


def _outcome(exchange: Exchange) -> str:
    if exchange.outcome is None:
        return "timeout"
    return "no_reply" if exchange.outcome == "ok" else exchange.outcome


def _check(step: Step, exchange: Exchange, *, is_last: bool) -> None:
    if step.expect is not None and step.expect not in (exchange.content or ""):
        raise WentWrong("wrong_reply")
    if step.expect_end and not exchange.is_end:
        raise WentWrong("not_ended")
    if exchange.is_end and not is_last:
        raise WentWrong("ended_early")
