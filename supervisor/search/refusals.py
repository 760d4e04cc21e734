"""Which queries are refused for a while, because they ended the search process."""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio
from attrs import define, field, frozen

from resources.stores.search import CannotSearch, QueryError, dialogue

REFUSED_SECONDS = 600.0  # for which a query that ended the process is refused
# After this many such queries, all of an account's queries are refused for this many seconds.
STRIKES, STRIKES_SECONDS = 3, 60.0
REFUSED_MAX = 1000  # such queries that are remembered

log = logging.getLogger(__name__)


@frozen
class _Refused:
    """A query that is refused for a while."""

    since: float
    reason: str


@define(eq=False)
class Refusals:
    """Queries that ended the process, by account."""

    _refused: OrderedDict[tuple[str, str], _Refused] = field(factory=OrderedDict, init=False)

    def check(self, request: dialogue.Query) -> None:
        """Raise QueryError if this query is refused, CannotSearch if all of its account are."""
        if not self._refused:
            return
        now = trio.current_time()
        refused = self._refused.get((request.account, request.query))
        if refused is not None and now - refused.since < REFUSED_SECONDS:
            raise QueryError(None, refused.reason)
        refused_of_all = self._refused.items()
        strikes = [one.since for (account, _), one in refused_of_all if account == request.account]
        if len(strikes) < STRIKES or now - strikes[-1] >= STRIKES_SECONDS:
            return
        if now - strikes[-STRIKES] < REFUSED_SECONDS:
            raise CannotSearch(
                f"{STRIKES} queries ended the search process; this account is refused for a minute"
            )

    def add(self, request: dialogue.Query, reason: str) -> None:
        """Refuse a query from now on."""
        log.warning("account %s: %s: %.200r", request.account, reason, request.query)
        self._refused[request.account, request.query] = _Refused(trio.current_time(), reason)
        self._refused.move_to_end((request.account, request.query))
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)
