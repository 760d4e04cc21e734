"""A campaign: what users do, how many there are, what goes wrong, and what the server must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NewType

from attrs import evolve, field, frozen

from ..config.units import Address, Count, Duration
from .thresholds import Threshold

Rate = NewType("Rate", float)
"""Per second, more than zero."""
Share = NewType("Share", float)
"""From 0 to 1."""
Sigma = NewType("Sigma", float)
"""The spread of times to think, 0 or more."""
Weight = NewType("Weight", float)
"""How often a dialogue is chosen, beside the others: 0 or more."""


@frozen
class Stage:
    """New sessions a second for some time: constant (`rate`), or from one to another (`ramp`)."""

    for_: Duration
    start: float
    end: float
    is_warmup: bool = False

    @property
    def sessions(self) -> float:
        """The mean number of sessions that begin in it."""
        return self.for_ * (self.start + self.end) / 2


@frozen
class Users:
    """Who calls: `pool` addresses, made from a pattern with a digit for each `#`.

    A share of sessions, `returning`, is by users who called before.
    """

    from_: str = "+2782#######"
    pool: Count = Count(20_000)
    returning: Share = Share(0.3)
    data: str | None = None  # a CSV file, a row for each user; they are used again in turn


@frozen
class Think:
    """How long users take to answer: lognormal, with this median and sigma."""

    lognormal: Duration = Duration(4.0)
    sigma: Sigma = Sigma(0.6)


@frozen
class GiveUp:
    """When users hang up: `after` seconds without a reply, or at any step with this chance.

    `how`: with `timeout` the network sends `close`, with `silence` nothing.
    """

    after: Duration = Duration(15.0)
    rate_per_step: Share = Share(0.0)
    how: Literal["timeout", "silence"] = "timeout"


@frozen
class Step:
    """What the user does, and the reply expected. `dial` begins a session, `send` goes on.

    With `branches`, the reply decides: the first branch that expects it is taken. Where the session
    should end, the conversation does, too.
    """

    dial: str | None = None
    send: str | None = None
    expect: str | None = None
    expect_end: bool = False
    branches: Sequence[Branch] = ()


@frozen
class Branch:
    """A reply that is expected, and how the conversation goes on then: with these steps, and after
    them with those that follow the branches. If the reply should end the session, with none.

    `name` is what the report calls it; by default the expected text.
    """

    expect: str
    name: str = ""
    expect_end: bool = False
    steps: Sequence[Step] = ()


@frozen
class Dialogue:
    """One kind of conversation, chosen in proportion to its weight."""

    name: str
    weight: Weight = Weight(1.0)
    steps: Sequence[Step] = ()
    file: str | None = None

    @property
    def longest(self) -> int:
        """The most steps that a user can come to."""
        return longest(self.steps)


def longest(steps: Sequence[Step], then: int = 0) -> int:
    """The most steps that a user can come to: the longest of each step's branches counts.

    `then`: how many follow these steps, unless the session ends in them.
    """
    for step in reversed(steps):
        if step.expect_end:
            then = 0
        branches = [0 if one.expect_end else longest(one.steps, then) for one in step.branches]
        then = 1 + max(branches, default=then)
    return then


def ends(step: Step) -> bool:
    """Whether the session should end there, or in each of its branches."""
    if not step.branches:
        return step.expect_end
    return all(one.expect_end or any(map(ends, one.steps)) for one in step.branches)


@frozen
class Reply:
    """What a stub answers: a body (or the file of that name), its latency, and errors.

    The latency is lognormal with these two percentiles.
    """

    body: str = ""
    status: Count = Count(200)
    content_type: str = "application/json"
    p50: Duration = Duration(0.001)
    p99: Duration | None = None
    errors: Mapping[str, Share] = field(factory=dict)  # by HTTP status, its share of the answers


@frozen
class Stub:
    """A back end of the app that the harness plays. `url` is "http://host:port/path*"."""

    url: str
    reply: Reply = Reply()


@frozen
class Run:
    """[run]: the connection and the traffic."""

    channel: str
    stages: Sequence[Stage]
    users: Users = Users()
    think: Think = Think()
    give_up: GiveUp = GiveUp()
    to: str = "*120*1#"  # whom users write to if no step dials
    token: str | None = None
    connections: Count = Count(1)
    window: Count = Count(1000)
    seed: int = 1
    finish: Duration = Duration(60.0)  # for conversations still open after the last stage
    stubs: Address = Address("127.0.0.1", 0)  # where stubs listen


FaultKind = Literal["kill-sandbox", "gateway-disconnect", "reload-limits", "drain"]


@frozen
class Fault:
    """What goes wrong, and when (seconds after the start)."""

    at: float
    kind: FaultKind


@frozen
class Campaign:
    """The whole file."""

    file: Path
    run: Run
    dialogues: Sequence[Dialogue]
    stubs: Sequence[Stub]
    faults: Sequence[Fault]
    thresholds: Sequence[Threshold]
    rows: Sequence[Mapping[str, str]] = ()  # of users.data

    @property
    def seconds(self) -> float:
        """How long sessions begin: the stages together."""
        return sum(stage.for_ for stage in self.run.stages)

    @property
    def warmup(self) -> float:
        """The seconds at the start that are not measured."""
        total = 0.0
        for stage in self.run.stages:
            if not stage.is_warmup:
                break
            total += stage.for_
        return total

    def at_rate(self, rate: float) -> Campaign:
        """This campaign with all stages scaled so that `rate` is the highest."""
        factor = rate / max(max(stage.start, stage.end) for stage in self.run.stages)
        stages = [
            evolve(stage, start=stage.start * factor, end=stage.end * factor)
            for stage in self.run.stages
        ]
        return evolve(self, run=evolve(self.run, stages=tuple(stages)))
