"""What goes over the pipes of the search process: JSON lines. Questions and their answers have
pipes of their own, a pair for each worker; everything else goes over the standard input and output.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import msgspec

KEYS_PAGE = 5000  # keys in one line
ANSWER_MAX = 128 << 20  # bytes of all keys of one answer
NO_KEYS = msgspec.Raw(b"[]")


class Begin(msgspec.Struct, tag="begin"):
    """The first line to the process: where Redis and the indexes are, and whom to follow.

    Attributes:
        lanes: For each worker, the descriptors from which it reads and to which it writes.
    """

    redis: str
    folder: str
    accounts: list[str]
    open_indexes: int
    idle_close: float
    lanes: list[tuple[int, int]]


News = Literal["some", "unlikely", "none"]
"""Whether an account's contacts have changed since the process last answered about them. `some`:
perhaps, so it reads what has changed. `unlikely`: only if another host has changed them, so it
checks that beside the search. `none`: they have not.
"""


class Find(msgspec.Struct, tag="find"):
    """Ask for the keys of the contacts that a query finds, oldest first, after number `after`."""

    id: int
    account: str
    query: str
    seconds: float  # after which the process is killed for it
    after: int = 0
    limit: int | None = None
    news: News = "some"


class Count(msgspec.Struct, tag="count"):
    """Ask how many contacts a query finds."""

    id: int
    account: str
    query: str
    seconds: float
    news: News = "some"


class FindGroups(msgspec.Struct, tag="groups"):
    """Ask for the groups that a query finds."""

    id: int
    account: str
    query: str
    seconds: float


class Inspect(msgspec.Struct, tag="inspect"):
    """Ask whether an account's index is damaged: it may be what crashes the process. If so it is
    deleted, and built anew.
    """

    id: int
    account: str


class Follow(msgspec.Struct, tag="follow"):
    """Whose contacts to follow from now on."""

    accounts: list[str]


Query = Find | Count | FindGroups
Question = Query | Inspect


class Ready(msgspec.Struct, tag="ready"):
    """The process has started."""


class Log(msgspec.Struct, tag="log"):
    """A line for the supervisor's log."""

    level: int
    text: str


class Keys(msgspec.Struct, tag="keys"):
    """Some of the keys found, as a JSON array. `last` is the number of the last one, from which to
    continue.
    """

    id: int
    keys: msgspec.Raw
    last: int
    more: bool


class Number(msgspec.Struct, tag="number"):
    """A count."""

    id: int
    count: int


# As `..groups.Group`; what lacks its fields is not read: a line may have very many empty objects.
FoundGroup = TypedDict(
    "FoundGroup",
    {
        "key": str,
        "name": str,
        "query": str | None,
        "user_account": str,
        "created_at": str,
        "$VERSION": None,
    },
)


class Groups(msgspec.Struct, tag="found-groups"):
    """The groups found, in their JSON shape."""

    id: int
    groups: list[FoundGroup]


class Inspected(msgspec.Struct, tag="inspected"):
    """What was wrong with an account's index; empty if nothing was."""

    id: int
    damage: str


class Trouble(msgspec.Struct, tag="trouble"):
    """An account's index cannot be built; with an empty reason, it can again."""

    account: str
    reason: str


class Failed(msgspec.Struct, tag="failed"):
    """There is no answer.

    Attributes:
        why: `query`: it is not valid, or asks too much. `behind`: the index has to catch up with
            `left` contacts. `store`: Redis does not answer. `index`: the index cannot be built.
            `engine`: the engine failed on the query.
    """

    id: int
    why: Literal["query", "behind", "store", "index", "engine"]
    text: str
    left: int = 0
    position: int | None = None


Reply = Keys | Number | Groups | Inspected | Failed
Told = Ready | Log | Trouble  # of its own accord

decode_begin = msgspec.json.Decoder(Begin).decode
decode_follow = msgspec.json.Decoder(Follow).decode
decode_question = msgspec.json.Decoder(Question).decode
decode_told = msgspec.json.Decoder(Told).decode
decode_reply = msgspec.json.Decoder(Reply).decode
encode = msgspec.json.Encoder().encode
encode_into = msgspec.json.Encoder().encode_into
