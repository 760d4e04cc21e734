"""Groups by a query: each is looked at as it is in the store. They have no index."""

from __future__ import annotations

import math

from ..groups import Found, Group, GroupsTooLarge
from .budget import Budget
from .changes import Changes
from .evaluate import matches
from .fields import Document
from .lucene import meaning
from .nodes import QueryError, fields_of

FIELDS = ("query",)  # of a group, besides those that contacts also have


def find_groups(
    changes: Changes, account: str, query: str, allowed: float = math.inf
) -> list[Group]:
    """The groups that a query finds, by name. The query may take `allowed` seconds.

    Raises:
        QueryError: The query is not valid, or asks too much, or finds too much for one answer.
        StoreGone: Redis does not answer.
    """
    budget, node, found = Budget(allowed=allowed), meaning(query), Found()
    wanted = fields_of(node)
    for page in changes.groups(account):
        for group in page:
            budget.check()  # not every node does, and making documents takes time, too
            asked = {name: value for name, value in group.items() if name in wanted}
            if matches(node, Document(asked, FIELDS), budget):
                try:
                    found.add([group])
                except GroupsTooLarge as error:
                    raise QueryError(None, str(error)) from error
    return found.in_order()
