"""Message statistics: once per id, on the messages' own time, in memory that does not grow with the
traffic.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from resources.messages import vumi_date
from resources.stores.identity import MessageIds, Sender, open_message_ids
from resources.stores.journal import Entry, Journal
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics, Totals

SENDER = Sender("acct", "app")


def at(age: float) -> str:
    return vumi_date(datetime.fromtimestamp(time.time() - age, UTC))


def message(
    message_id: str, age: float | datetime = 0, address: str | None = "+27", *, counted: bool = True
) -> Entry:
    timestamp = vumi_date(age) if isinstance(age, datetime) else at(age)
    payload = {"message_id": message_id, "from_addr": address, "timestamp": timestamp}
    return Entry("message", "acct", "app", "phone", payload, counted)


def event(event_id: str, kind: str, status: str | None = None) -> Entry:
    payload = {
        "event_id": event_id,
        "event_type": kind,
        "user_message_id": "m",
        "delivery_status": status,
        "timestamp": at(0),
    }
    return Entry("event", "acct", "app", "phone", payload, counted=True)


async def test_messages_and_events_count_once_per_id(redis: Redis) -> None:
    """A duplicate, and what is not to be counted, changes nothing; a delivery report adds to two
    counters.
    """
    statistics, journal = Statistics(redis), Journal(redis)
    await journal.accept(
        [message("a"), message("a"), message("b", address="+28"), message("c", counted=False)]
    )
    await journal.accept([event("e1", "ack"), event("e1", "ack"), event("e2", "nack")])
    await journal.accept(
        [
            event(f"d{n}", "delivery_report", status)
            for n, status in enumerate(("delivered", "failed", "failed"))
        ]
    )
    for _ in range(2):
        statistics.count_outbound(SENDER, {"to_addr": "+29", "timestamp": at(0)})
    statistics.count_outbound(SENDER, {"to_addr": None, "timestamp": at(0)})
    assert await statistics.progress(SENDER) == {
        "sent": 3, "ack": 1, "nack": 1, "delivery_report": 3, "delivery_report_delivered": 1,
        "delivery_report_failed": 2,
        "delivery_report_pending": 0,
    }  # fmt: skip
    assert await statistics.totals([SENDER, Sender("acct", "other")]) == [
        Totals(3, 2, 2, 1),
        Totals(0, 0, 0, 0),
    ]
    assert await statistics.count(SENDER, "in") == 2
    assert await statistics.uniques(SENDER, "out") == 1
    assert await statistics.is_known(SENDER)
    assert not await statistics.is_known(Sender("acct", "other"))


async def test_a_throughput_looks_back_over_the_window(redis: Redis) -> None:
    """Messages a minute; the window is whole seconds, its first one included."""
    statistics, journal = Statistics(redis), Journal(redis)
    ages = [0, 5, 9, 12, 50, 100, 250, 400, 3000]
    await journal.accept([message(str(age), age) for age in reversed(ages)])
    for seconds, count in ((1, 1), (20, 4), (60, 5), (300, 7), (7200, 9)):
        assert await statistics.throughput(SENDER, "in", seconds) == pytest.approx(
            count * 60 / seconds
        )
    assert await statistics.throughput(SENDER, "out", 300) == 0


async def test_old_traffic_has_the_rate_that_it_had(redis: Redis) -> None:
    """A replayed campaign: the conversation's clock is that of its messages, and goes on from
    there.
    """
    statistics, journal = Statistics(redis), Journal(redis)
    await journal.accept([message(f"{age}", 10_000 + age) for age in range(10)])
    assert await statistics.throughput(SENDER, "in", 60) == 10
    # As much time passes as the window is long: nothing is left in it.
    behind = int(await redis.execute("HGET", "jsbox:{acct}:stats:app", "in:behind"))
    await redis.execute("HSET", "jsbox:{acct}:stats:app", "in:behind", behind - 80)
    assert await statistics.throughput(SENDER, "in", 60) == 0


async def test_a_clock_far_ahead_does_not_end_the_throughput(redis: Redis) -> None:
    """A message from the year 9999 counts as one of now."""
    statistics, journal = Statistics(redis), Journal(redis)
    far = Entry(
        "message",
        "acct",
        "app",
        "phone",
        {"message_id": "x", "from_addr": "+1", "timestamp": "9999-12-31 23:59:59.000000"},
        counted=True,
    )
    early = Entry(
        "message",
        "acct",
        "app",
        "phone",
        {"message_id": "y", "from_addr": "+1", "timestamp": "0001-01-01 00:00:00.000000"},
        counted=True,
    )
    await journal.accept([far, early, message("z")])
    assert await statistics.throughput(SENDER, "in", 60) == 2


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_traffic(redis: Redis) -> None:
    """After 11,000 messages of as many addresses over a week the same keys hold as many cells, and
    as many bytes, as after as many again: what the store makes of them is its own business.
    """
    statistics, journal = Statistics(redis), Journal(redis)
    ids: set[bytes] = set()

    async def held() -> dict[bytes, tuple[int, int]]:
        """Of each key but the ids and the journal itself: the number of its cells, and the bytes in
        them.
        """
        shape = {}
        for key in set(await redis.execute("KEYS", "jsbox:{acct}:*")) - ids:
            match await redis.execute("TYPE", key):
                case b"hash":
                    parts = await redis.execute("HGETALL", key)
                    shape[key] = len(parts) // 2, sum(map(len, parts))
                case b"string":
                    shape[key] = 1, int(await redis.execute("STRLEN", key))
        return shape

    async def send(first: int) -> None:
        # One each 59 seconds: after a week every cell of both rings has been used.
        for start in range(first, first + 11_000, 1000):
            times = [
                datetime(2014, 1, 1, tzinfo=UTC) + timedelta(seconds=59 * n)
                for n in range(start, start + 1000)
            ]
            await journal.accept(
                [
                    message(str(start + n), moment, f"+27{start + n}")
                    for n, moment in enumerate(times)
                ]
            )
        ids.update(await redis.execute("KEYS", "jsbox:{acct}:seen:*"))

    await send(0)
    before = await held()
    await send(11_000)
    after = await held()
    rings = {key.split(b":")[-2]: cells for key, (cells, _) in after.items() if b":rate:in:" in key}
    assert rings == {b"s": 3600, b"m": 10_080}
    assert {key: cells for key, (cells, _) in after.items()} == {
        key: cells for key, (cells, _) in before.items()
    }
    assert (
        sum(size for _, size in after.values()) <= sum(size for _, size in before.values()) * 1.02
    )
    assert await statistics.count(SENDER, "in") == 22_000
    assert await statistics.uniques(SENDER, "in") == pytest.approx(22_000, rel=0.05)


async def test_an_id_tells_whose_it_is(redis: Redis) -> None:
    """Only for that channel, account and app; nothing that a gateway makes up passes; the secret
    outlives a restart.
    """
    ids = await open_message_ids(redis)
    made = ids.new("phone", SENDER)
    assert len(made) == 32
    assert (made[12], made[16] in "89ab") == ("4", True)
    again = await open_message_ids(redis)
    assert again.is_from(made, "phone", SENDER)
    for channel, sender in (
        ("sms", SENDER),
        ("phone", Sender("acct", "other")),
        ("phone", Sender("other", "app")),
    ):
        assert not ids.is_from(made, channel, sender)
    forged = made[:-1] + ("0" if made[-1] != "0" else "1")
    for text in (forged, made[:-2], made + "00", "", "x" * 32, "☃"):
        assert not ids.is_from(text, "phone", SENDER)
    assert not MessageIds(b"another").is_from(made, "phone", SENDER)
    assert len({ids.new("phone", SENDER) for _ in range(1000)}) == 1000
