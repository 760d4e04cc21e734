"""The outboxes: bounded, numbered for good, and true about how often a message was handed out."""

from __future__ import annotations

import pytest

from resources.messages import send
from resources.stores import outbox as outbox_module
from resources.stores.identity import MessageIds, Sender
from resources.stores.keys import channel_key
from resources.stores.outbox import Outbox, OutboxFull, Parcel
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics

SENDER = Sender("acct", "app")


def open_outbox(redis: Redis) -> Outbox:
    return Outbox(redis, MessageIds(b"secret"), Statistics(redis))


async def post(outbox: Outbox, *texts: str) -> list[int]:
    return [
        await outbox.post(
            "phone", SENDER, send("+27", text, endpoint="default", helper_metadata={})
        )
        for text in texts
    ]


def never(error: Exception) -> None:
    raise AssertionError from error


async def size_of(redis: Redis) -> int:
    return int(await redis.execute("GET", channel_key("phone", "size")) or 0)


async def test_a_channel_holds_so_many_bytes(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond them the app is told; what is acknowledged makes room, to the byte; one message fits,
    however large.
    """
    monkeypatch.setattr(outbox_module, "WAITING_SIZE", 3000)
    outbox = open_outbox(redis)
    assert await post(outbox, "x" * 5000) == [1]
    with pytest.raises(OutboxFull, match="wait on channel phone"):
        await post(outbox, "small")
    await outbox.acknowledge("phone", [1])
    assert await size_of(redis) == 0
    assert await post(outbox, "a" * 500, "b" * 500) == [2, 3]
    with pytest.raises(OutboxFull):
        await post(outbox, "c" * 2000)
    await outbox.acknowledge("phone", [2, 2, 99])
    await outbox.acknowledge("phone", [2])
    left = await outbox.after("phone", 0, 10)
    assert [parcel.delivery for parcel in left] == [3]
    assert await size_of(redis) == len(left[0].message)


async def test_the_bytes_are_right_again_when_nothing_waits(redis: Redis) -> None:
    """Whatever made them wrong: an outbox of an older version, keys that were lost."""
    outbox = open_outbox(redis)
    await post(outbox, "a", "b")
    await redis.execute("SET", channel_key("phone", "size"), 10**12)
    await redis.execute("DEL", channel_key("phone", "out"))
    assert await post(outbox, "c") == [3]
    (parcel,) = await outbox.after("phone", 0, 10)
    assert await size_of(redis) == len(parcel.message)


@pytest.mark.parametrize("lost", [["FLUSHALL"], ["SET", channel_key("phone", "posted"), 1]])
async def test_a_number_is_never_used_again(redis: Redis, lost: list[object]) -> None:
    """By a store that forgot all of them, or the newest ones."""
    outbox = open_outbox(redis)
    assert await post(outbox, "a", "b", "c", "d") == [1, 2, 3, 4]
    await redis.execute(*lost)
    assert await post(outbox, "e", "f") == [5, 6]
    assert await post(open_outbox(redis), "g") == [7]


async def test_numbers_that_were_lost_go_on_after_the_stream(redis: Redis) -> None:
    """Evicted, say: also where the newest messages were acknowledged."""
    await post(open_outbox(redis), "a", "b", "c")
    await open_outbox(redis).acknowledge("phone", [3])
    await redis.execute("DEL", channel_key("phone", "posted"))
    assert await post(open_outbox(redis), "d", "e") == [4, 5]


async def test_a_page_has_so_many_bytes(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at least one message; it says whether there are more."""
    monkeypatch.setattr(outbox_module, "PAGE_SIZE", 2500)
    outbox = open_outbox(redis)
    await post(outbox, *("x" * 1000 for _ in range(30)), "y" * 5000)
    sizes, last = [], 0
    for _ in range(40):
        page = await outbox.page("phone", last, 500)
        sizes.append(len(page.parcels))
        last = page.parcels[-1].delivery if page.parcels else last
        if page.is_last:
            break
    assert last == 31
    assert max(sizes) == 2
    assert (await outbox.page("phone", 31, 500)).is_last
    assert len(await outbox.after("phone", 0, 1)) == 1
    monkeypatch.setattr(outbox_module, "PAGE_SIZE", 1 << 20)
    assert len(await outbox.after("phone", 0, 25)) == 25
    assert len(await outbox.after("phone", 0, 40)) == 31


async def test_how_often_a_message_was_handed_out_is_kept(redis: Redis) -> None:
    """Once for those up to the newest one handed out, more where that was noted; it goes with the
    message.
    """
    outbox = open_outbox(redis)
    await post(outbox, "a", "b", "c", "d")
    assert outbox.note_handed("phone", 2, {1: 3, 4: 1}, never)
    page = await open_outbox(redis).page("phone", 0, 10)
    assert page.handed == 2
    assert [parcel.attempts for parcel in page.parcels] == [3, 1, 0, 1]
    await outbox.acknowledge("phone", [1, 4])
    assert await redis.execute("EXISTS", channel_key("phone", "attempts")) == 0


async def test_what_a_message_replies_to_is_known_again(redis: Redis) -> None:
    """When it is read; what is no message at all is empty."""
    outbox = open_outbox(redis)
    message = send("+27", "x", endpoint="default", helper_metadata={}) | {"in_reply_to": "m1"}
    await outbox.post("phone", SENDER, message)
    await redis.execute("XADD", channel_key("phone", "out"), "2-1", "m", b"\xff{")
    await redis.execute("XADD", channel_key("phone", "out"), "3-1", "m", b'{"in_reply_to":7}')
    first, second, third = await outbox.after("phone", 0, 10)
    assert first.in_reply_to == "m1"
    assert second == Parcel(2, b"")
    assert third == Parcel(3, b'{"in_reply_to":7}')
