"""One user's conversation. Anything unexpected is counted and ends it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import trio
from attrs import frozen

from .campaign import Branch, Run, Step
from .client import Exchange, Speaker
from .measures import TEXT_MAX, DialogueCounts, Example, Measures, Place, place_text
from .schedule import Arrival

# Seconds that a reply may come after the outcome of its run, while the connection stands: it may
# have been lost between them.
OUTCOME_GRACE = 3.0


class WentWrong(Exception):
    """The conversation cannot go on. `reason` is the error it is counted under.

    Attributes:
        expected: What the step expects.
        got: What came; None if nothing did.
    """

    def __init__(self, reason: str, expected: str = "", got: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected = expected
        self.got = got


class HungUp(Exception):
    """The user has left."""


@frozen
class Talk:
    """What conversations share. Times are seconds since the start, `zero` on Trio's clock."""

    run: Run
    measures: Measures
    zero: float

    async def hold(self, client: Speaker, arrival: Arrival, user: str) -> None:
        """Hold the whole conversation of one arrival, and count how it ends."""
        measures, due = self.measures, arrival.due
        counts = measures.counts(arrival.dialogue.name) if measures.is_measured(due) else None
        if counts is not None:
            counts.started += 1
            counts.unfinished += 1
        at: list[Place] = [(1,)]
        try:
            await self._steps(client, arrival, user, at, counts)
        except WentWrong as wrong:
            example = Example(
                dialogue=arrival.dialogue.name,
                step=place_text(at[0]),
                at=round(self._now(), 3),
                user=user,
                expected=wrong.expected[:TEXT_MAX],
                got=None if wrong.got is None else wrong.got[:TEXT_MAX],
            )
            measures.error(self._now(), due, wrong.reason, example)
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

    async def _steps(
        self,
        client: Speaker,
        arrival: Arrival,
        user: str,
        at: list[Place],
        counts: DialogueCounts | None,
    ) -> None:
        dials = arrival.dialogue.steps[0].dial
        envelope = {"from_addr": user, "to_addr": dials or self.run.to}
        intended, left = arrival.due, deque(_placed(arrival.dialogue.steps, ()))
        for index in itertools.count():
            if not left:
                return
            at[0], step = left.popleft()
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
                await self._await(client, exchange, intended)
            finally:
                client.forget(exchange)
            if exchange.replied is None:
                self._hang_up_if_waiting(client, envelope, exchange, intended)
                raise WentWrong(exchange.rejected or _outcome(exchange), _expected(step))
            self._note_reply(exchange, intended)
            branch = _branch(step, exchange)
            if branch is not None:
                taken = (*at[0], branch.name)
                if counts is not None:
                    counts.branches[taken] += 1
                left.extendleft(reversed(_placed(branch.steps, taken)))
            expected = branch or step
            if expected.expect_end:
                left.clear()
            _check(expected, exchange, is_last=not left)

    async def _await(self, client: Speaker, exchange: Exchange, intended: float) -> None:
        """Wait for the reply, until there will be none or the user gives up."""
        with trio.move_on_at(self.zero + intended + self.run.give_up.after):
            await exchange.answered()
            if exchange.rejected is None:
                await _grace(client, exchange)

    def _note_late(self, intended: float) -> None:
        """Record how late the generator itself is. Lost connections and missing credit are not."""
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
        self, client: Speaker, envelope: dict[str, Any], exchange: Exchange, intended: float
    ) -> None:
        """Hang up if no reply came in time, and count the time waited: it took at least that."""
        if exchange.rejected is None and exchange.outcome is None:
            if self.measures.is_measured(intended):
                self.measures.reply.add(intended, self.run.give_up.after)
            self._hang_up(client, envelope)

    def _hang_up(self, client: Speaker, envelope: dict[str, Any]) -> None:
        if self.run.give_up.how == "timeout":
            client.forget(client.send(**envelope, content=None, session_event="close"))

    def _now(self) -> float:
        return trio.current_time() - self.zero


async def _grace(client: Speaker, exchange: Exchange) -> None:
    """Wait for a reply that comes after the outcome; start over whenever the connection is lost."""
    while not exchange.has_reply.is_set():
        await client.connected()
        losses = client.reconnects
        with trio.move_on_after(OUTCOME_GRACE):
            await exchange.has_reply.wait()
        if client.reconnects == losses and client.is_connected:
            return


def _outcome(exchange: Exchange) -> str:
    if exchange.outcome is None:
        return "timeout"
    return "no_reply" if exchange.outcome == "ok" else exchange.outcome


def _placed(steps: Sequence[Step], branch: Place) -> list[tuple[Place, Step]]:
    """Steps with their places; `branch`: that of the branch which has them, or ()."""
    return [((*branch, number), step) for number, step in enumerate(steps, 1)]


def _expected(step: Step) -> str:
    """What a step expects, in words."""
    return " or ".join(one.expect for one in step.branches) or step.expect or "a reply"


def _branch(step: Step, exchange: Exchange) -> Branch | None:
    """The branch that a reply takes; None if the step has no branches. Raises WentWrong."""
    if not step.branches:
        return None
    content = exchange.content or ""
    for one in step.branches:
        if one.expect in content:
            return one
    raise WentWrong("wrong_reply", _expected(step), exchange.content)


def _check(step: Step | Branch, exchange: Exchange, *, is_last: bool) -> None:
    if step.expect is not None and step.expect not in (exchange.content or ""):
        raise WentWrong("wrong_reply", step.expect, exchange.content)
    if step.expect_end and not exchange.is_end:
        raise WentWrong("not_ended", "the end of the session", exchange.content)
    if exchange.is_end and not is_last:
        raise WentWrong("ended_early", "a session that goes on", exchange.content)
