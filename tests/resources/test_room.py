"""Room on the disk: what is refused when little is left, and when that ends."""

from __future__ import annotations

import pytest
import trio

from resources.stores.contacts import Change, Contacts
from resources.stores.groups import Groups
from resources.stores.identity import Sender, open_message_ids
from resources.stores.journal import Entry, Journal
from resources.stores.keyspace import Keyspace, Quota
from resources.stores.logbook import Logbook
from resources.stores.optouts import OptOut, OptOuts
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis
from resources.stores.room import OVERHEAD, NoRoom, Room
from resources.stores.statistics import Statistics

MIB = 1 << 20
QUOTA = Quota(100, 100)


def room(free: int, reserve: int = 64 * MIB) -> Room:
    made = Room(reserve)
    made.look(free)
    return made


def test_what_is_let_through_counts_until_the_next_look() -> None:
    """Between two looks at the disk no more is let through than there is room for."""
    some = room(66 * MIB)
    sizes = [MIB - OVERHEAD, MIB - OVERHEAD]
    assert [some.refusal(size) for size in sizes] == [None, None]
    assert some.problem == ""
    with pytest.raises(NoRoom, match="64 MiB are free, 64 MiB are kept in reserve"):
        some.check(1)
    assert "nearly full" in some.problem
    assert some.refusal(0) is not None
    some.look(100 * MIB)
    assert some.problem == ""
    assert some.refusal(MIB) is None


def test_what_ends_runs_may_use_half_of_the_reserve() -> None:
    """A reply that a user waits for is the last to be refused; and that, too, before the disk is
    full.
    """
    some = room(40 * MIB)
    assert some.refusal(0) is not None
    assert some.refusal(7 * MIB, is_urgent=True) is None
    assert some.refusal(7 * MIB, is_urgent=True) is not None


def test_it_does_not_come_and_go_with_every_byte() -> None:
    """A little more than the reserve must be free before all is let through again; then whoever
    waits for it is told.
    """
    some, calls = room(64 * MIB - 1), []
    some.on_again.append(lambda: calls.append(some.problem))
    for free in (64 * MIB, 71 * MIB):
        some.look(free)
        assert some.refusal(0) is not None
    some.look(72 * MIB)
    assert some.refusal(0) is None
    assert calls == [""]
    some.look(73 * MIB)
    assert calls == [""]


@pytest.mark.parametrize("some", [Room(), Room(64 * MIB), room(0, reserve=0)])
def test_there_is_no_end_where_nobody_looks_or_nothing_is_kept(some: Room) -> None:
    """With a Redis of one's own, whose disk is not ours."""
    assert some.refusal(1 << 60) is None
    assert some.problem == ""


def test_one_line_says_when_it_begins_and_one_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not one for every message."""
    caplog.set_level("INFO")
    some = room(MIB)
    for _ in range(5):
        some.refusal(1)
        some.look(MIB)
    some.look(1 << 40)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


async def test_what_each_store_does_when_the_disk_is_nearly_full(redis: Redis) -> None:
    """Nothing new is taken: journal, kv, contacts, groups, sends. What ends runs is: replies,
    opt-outs, logs, deletions. What is read is read, and what exists is found.
    """
    some = room(100 * MIB)
    ids = await open_message_ids(redis)
    keyspace, contacts, groups = Keyspace(redis, some), Contacts(redis, some), Groups(redis, some)
    optouts, logbook, journal = OptOuts(redis, some), Logbook(redis, some), Journal(redis, some)
    outbox = Outbox(redis, ids, Statistics(redis), room=some)
    sender, message = Sender("a", "app"), {"to_addr": "1", "content": "x", "in_reply_to": None}
    message["timestamp"] = "2026-01-01 00:00:00.000000"
    entry = Entry(
        "event", "a", "app", "ch", {"event_id": "e", "event_type": "ack", "user_message_id": "m"}
    )
    change = Change({"msisdn": "+27", "created_at": "2026-01-01 00:00:00.000000"}, {})
    await keyspace.set("a", "there", b"1", None, QUOTA)
    await contacts.create("a", "c0", change, 10)
    await groups.find_or_create("a", "g", "k", "now", 10)

    some.look(50 * MIB)
    with pytest.raises(NoRoom):
        await keyspace.set("a", "there", b"2", None, QUOTA)
    with pytest.raises(NoRoom):
        await keyspace.incr("a", "there", 1, QUOTA)
    with pytest.raises(NoRoom):
        await contacts.create("a", "c1", change, 10)
    with pytest.raises(NoRoom):
        await contacts.change("a", "c0", change)
    with pytest.raises(NoRoom):
        await contacts.create_many("a", [("c1", change)], 10)
    with pytest.raises(NoRoom):
        await groups.find_or_create("a", "new", "k2", "now", 10)
    with pytest.raises(NoRoom):
        await groups.update("a", "k", "h", None)
    with pytest.raises(NoRoom):
        await outbox.post("ch", sender, message)
    with pytest.raises(NoRoom):
        await journal.accept([entry])
    assert isinstance((await journal.attempt([entry]))[0], NoRoom)

    assert await keyspace.get("a", "there") == b"1"
    assert await contacts.find_or_create("a", "msisdn", "+27", "c9", change, 10) == (
        await contacts.get("a", "c0"),
        False,
    )
    assert (await groups.find_or_create("a", "g", "k9", "now", 10))[1] is False
    assert await outbox.post("ch", sender, message | {"in_reply_to": "m"}) == 1
    await outbox.acknowledge("ch", [1])
    await optouts.set("a", "msisdn", "+27", OptOut("m", "now"), 10)
    await optouts.cancel("a", "msisdn", "+27")
    await logbook.write("a", "app", 20, "a line", 10)
    assert await keyspace.delete("a", "there")

    some.look(10 * MIB)
    with pytest.raises(NoRoom):
        await outbox.post("ch", sender, message | {"in_reply_to": "m"})
    with pytest.raises(NoRoom):
        await logbook.write("a", "app", 20, "a line", 10)
    assert not logbook.write_soon("a", "app", 20, "a line", 10)
    await journal.finish(entry, "0-1")
    await trio.lowlevel.checkpoint()
