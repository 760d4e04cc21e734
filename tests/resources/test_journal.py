"""The journal and the outbox: nothing twice, nothing lost, in order."""

from __future__ import annotations

import pytest
import trio

from resources.stores.identity import MessageIds, Sender
from resources.stores.journal import Entry, Journal
from resources.stores.outbox import Outbox, Parcel
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics

SENDER = Sender("acct", "app")


def entry(message_id: str, app: str = "app", channel: str = "phone") -> Entry:
    return Entry("message", "acct", app, channel, {"message_id": message_id, "content": "☃"})


async def test_an_id_is_taken_once(redis: Redis) -> None:
    """A second entry with the same id on the channel is a duplicate, and is given the place of the
    first.
    """
    journal = Journal(redis)
    first, second, again = await journal.accept([entry("m1"), entry("m2"), entry("m1")])
    assert (first.duplicate, second.duplicate, again.duplicate) == (False, False, True)
    assert again.place == first.place
    (other,) = await journal.accept([entry("m1", channel="sms")])
    assert not other.duplicate


async def test_a_journal_that_is_not_shared_asks_for_no_lane(redis: Redis) -> None:
    """Whatever an entry lacks for one; with partitions it needs one."""
    event = Entry("event", "acct", "app", "phone", {"event_id": "e", "event_type": "ack"})
    (accepted,) = await Journal(redis).accept([event])
    assert not accepted.duplicate
    with pytest.raises(KeyError):
        await Journal(redis, partitions=4, host="one", process="a").accept([event])


async def test_a_duplicate_stays_one_after_its_run(redis: Redis) -> None:
    """The id is remembered beyond the entry, for a day."""
    journal = Journal(redis)
    (accepted,) = await journal.accept([entry("m1")])
    await journal.finish(entry("m1"), accepted.place)
    assert [place async for place, _ in journal.unfinished("acct", "app")] == []
    assert (await journal.accept([entry("m1")]))[0].duplicate
    seen = "jsbox:{acct}:seen:phone:message:m1"
    assert 86000 < await redis.execute("TTL", seen) <= 86400


async def test_what_is_unfinished_comes_back_in_order(redis: Redis) -> None:
    """All entries that were not finished, over several pages, oldest first and as they were."""
    journal = Journal(redis)
    entries = [entry(f"m{n}") for n in range(1200)]
    accepted = await journal.accept(entries)
    await journal.finish(entries[0], accepted[0].place)
    found = [(place, one) async for place, one in journal.unfinished("acct", "app")]
    assert [one for _, one in found] == entries[1:]
    assert [place for place, _ in found] == [one.place for one in accepted[1:]]


def message(n: int) -> dict[str, object]:
    return {
        "in_reply_to": None,
        "content": str(n),
        "to_addr": "+27",
        "timestamp": "2026-01-01 00:00:00.000000",
    }


async def test_parcels_are_numbered_and_kept_until_acknowledged(redis: Redis) -> None:
    """Delivery numbers rise by one; what is acknowledged is gone, the rest is read in order."""
    announced: list[Parcel | None] = []
    outbox = Outbox(
        redis, MessageIds(b"secret"), Statistics(redis), lambda _, parcel: announced.append(parcel)
    )
    numbers = [await outbox.post("phone", SENDER, message(n)) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert [parcel.delivery for parcel in announced if parcel] == numbers
    await outbox.acknowledge("phone", [2, 4])
    assert [parcel.delivery for parcel in await outbox.after("phone", 0, 10)] == [1, 3, 5]
    assert [parcel.delivery for parcel in await outbox.after("phone", 1, 1)] == [3]
    assert await outbox.waiting("phone") == 3
    await outbox.acknowledge("phone", [1, 3, 5])
    assert await outbox.post("phone", SENDER, message(6)) == 6


async def test_a_post_that_is_cut_off_is_announced_as_a_doubt(redis: Redis) -> None:
    """Cancelling a post leaves it unknown whether the parcel is there: whoever delivers is told to
    look.
    """
    announced: list[Parcel | None] = []
    outbox = Outbox(
        redis, MessageIds(b"secret"), Statistics(redis), lambda _, parcel: announced.append(parcel)
    )
    with trio.move_on_after(0):
        await outbox.post("phone", SENDER, message(1))
    assert announced == [None]
