"""The schedule: who begins which dialogue when. It is drawn before the start, so that nothing the
server does can change the load.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from attrs import frozen

from .campaign import Campaign, Dialogue, Stage, Think
from .feeding import ADDRESS, Row


@frozen
class Arrival:
    """One session.

    Attributes:
        due: Seconds after the start.
        thinks: Seconds before each further step of the longest path through the dialogue.
        leaves_at: The step at which the user hangs up, if they come that far; None if they stay.
        returning: Whether it is by a user who called before, if one is free.
        draw: From 0 to 1; chooses that user.
    """

    due: float
    dialogue: Dialogue
    thinks: Sequence[float]
    leaves_at: int | None
    returning: bool
    draw: float


def schedule(campaign: Campaign, seed: int) -> list[Arrival]:
    """Draw all sessions of a run, in the order in which they begin."""
    random_ = random.Random(seed)  # noqa: S311  # not for secrets
    run = campaign.run
    weights = [dialogue.weight for dialogue in campaign.dialogues]
    arrivals = []
    began = 0.0
    for stage in run.stages:
        for offset in _poisson(stage, random_):
            (dialogue,) = random_.choices(campaign.dialogues, weights)
            arrivals.append(
                Arrival(
                    began + offset,
                    dialogue,
                    [_think(run.think, random_) for _ in range(dialogue.longest - 1)],
                    _leaves_at(dialogue.longest, run.give_up.rate_per_step, random_),
                    random_.random() < run.users.returning,
                    random_.random(),
                )
            )
        began += stage.for_
    return arrivals


def rate_at(stages: Sequence[Stage], second: float) -> float:
    """The rate of new sessions at a second of the run; 0 when the stages are over."""
    for stage in stages:
        if second < stage.for_:
            return stage.start + (stage.end - stage.start) * second / stage.for_
        second -= stage.for_
    return 0.0


def _poisson(stage: Stage, random_: random.Random) -> Iterator[float]:
    """Times of a Poisson process whose rate goes evenly from start to end (thinning)."""
    most = max(stage.start, stage.end)
    at = 0.0
    while True:
        at += random_.expovariate(most)
        if at >= stage.for_:
            return
        if random_.random() * most <= stage.start + (stage.end - stage.start) * at / stage.for_:
            yield at


def _think(think: Think, random_: random.Random) -> float:
    return random_.lognormvariate(math.log(think.lognormal), think.sigma)


def _leaves_at(steps: int, chance: float, random_: random.Random) -> int | None:
    return next((step for step in range(1, steps) if random_.random() < chance), None)


class UserPool:
    """The users' addresses: new ones in order, known ones by chance, never one in a session."""

    def __init__(self, pattern: str, size: int, rows: Sequence[Row] = ()) -> None:
        self._pattern = pattern
        self._rows = rows
        self._has_addresses = bool(rows) and ADDRESS in rows[0]
        self._size = min(size, len(rows)) if self._has_addresses else size
        self._numbers: dict[str, int] = {}
        self._known: list[str] = []
        self._talking: set[str] = set()

    def take(self, arrival: Arrival) -> str | None:
        """Take the user for a session; None if all of them are in one."""
        if self._known and (arrival.returning or len(self._known) == self._size):
            first = int(arrival.draw * len(self._known))
            for step in range(len(self._known)):
                user = self._known[(first + step) % len(self._known)]
                if user not in self._talking:
                    self._talking.add(user)
                    return user
        if len(self._known) == self._size:
            return None
        number = len(self._known)
        user = address(self._pattern, number)
        if self._has_addresses:
            user = self._rows[number][ADDRESS]
        self._numbers[user] = number
        self._known.append(user)
        self._talking.add(user)
        return user

    def row_of(self, user: str) -> Row | None:
        """A user's data; None if there is none."""
        return self._rows[self._numbers[user] % len(self._rows)] if self._rows else None

    def give_back(self, user: str) -> None:
        """Free the user of a session that is over."""
        self._talking.discard(user)


def address(pattern: str, number: int) -> str:
    """Fill the `#` of a pattern with the digits of a number, from the right."""
    digits = iter(reversed(str(number).zfill(pattern.count("#"))))
    return "".join(next(digits) if char == "#" else char for char in reversed(pattern))[::-1]
