"""Which queries are refused for a while, because they ended the search process."""

from __future__ import annotations

import hashlib
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

    # by the digest of the query, which may be long; the oldest first
    _refused: OrderedDict[tuple[str, bytes], _Refused] = field(factory=OrderedDict, init=False)

    def check(self, request: dialogue.Query) -> None:
        """Raise QueryError if this query is refused, CannotSearch if all of its account are."""
        now = trio.current_time()
        while self._refused and now - next(iter(self._refused.values())).since >= REFUSED_SECONDS:
            self._refused.popitem(last=False)
        if not self._refused:
            return
        refused = self._refused.get(_key(request))
        if refused is not None:
            raise QueryError(None, refused.reason)
        refused_of_all = self._refused.items()
        strikes = [one.since for (account, _), one in refused_of_all if account == request.account]
        if len(strikes) >= STRIKES and now - strikes[-1] < STRIKES_SECONDS:
            raise CannotSearch(
                f"{STRIKES} queries ended the search process; this account is refused for a minute"
            )

    def add(self, request: dialogue.Query, reason: str) -> None:
        """Refuse a query from now on."""
        log.warning("account %s: %s: %.200r", request.account, reason, request.query)
        key = _key(request)
        self._refused[key] = _Refused(trio.current_time(), reason)
        self._refused.move_to_end(key)
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)


def _key(request: dialogue.Query) -> tuple[str, bytes]:
    return request.account, hashlib.blake2b(request.query.encode()).digest()
