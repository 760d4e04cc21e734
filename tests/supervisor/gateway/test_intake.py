"""Messages that wait for the journal: it is slow, it fails, and nothing of it is lost or holds a
client.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import define, evolve, field

from resources.fence import tally
from resources.stores.redis import StoreRefused
from supervisor.gateway import intake
from supervisor.service import Service

from ...gateway_client import connect
from ...service import eventually
from .inside import is_empty


@define
class SlowJournal:
    """The journal, which answers when the test says so."""

    journal: Any
    asked: trio.Event = field(factory=trio.Event)
    go_on: trio.Event = field(factory=trio.Event)

    async def attempt(self, entries: Any) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await self.journal.attempt(entries)


async def test_what_was_being_journalled_when_its_client_left_is_run(service: Service) -> None:
    """The intake is not cut off: the reply waits for the next client."""
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        await client.send(
            {
                "type": "inbound",
                "id": "x",
                "msg": {"message_id": "m1", "session_event": "new", "content": "x"},
            }
        )
        await slow.asked.wait()
    slow.go_on.set()
    async with connect(service.gateway_url) as client:
        assert (await client.expect("outbound"))["msg"]["in_reply_to"] == "m1"


async def test_a_journal_that_never_answers_does_not_hold_a_client_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is rejected, to be sent again; and it may leave."""
    monkeypatch.setattr(intake, "JOURNAL_SECONDS", 0.3)
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        await client.send({"type": "inbound", "id": "x", "msg": {"session_event": "new"}})
        rejected = await client.expect("rejected")
        assert (rejected["code"], rejected["retry_after"]) == ("unavailable", 1.0)
        await client.send({"type": "inbound", "id": "y", "msg": {"session_event": "new"}})
    await eventually(lambda: is_empty(service))


async def test_one_entry_that_breaks_the_journal_takes_no_other_with_it(service: Service) -> None:
    """Entries that came together are tried one by one; a refusal by the store is of one alone."""
    journal = service.stores.journal

    class Picky:
        async def attempt(self, entries: Any) -> Any:
            if any(entry.id == "bad" for entry in entries):
                raise OverflowError("an error of ours")
            return [
                StoreRefused("WRONGTYPE")
                if one.id == "refused"
                else (await journal.attempt([one]))[0]
                for one in entries
            ]

    service.gateway.services = evolve(service.gateway.services, journal=Picky())
    before = tally["gateway.intake"]
    async with connect(service.gateway_url) as client:
        for name in ("a", "bad", "refused", "b"):
            await client.send(
                {
                    "type": "inbound",
                    "id": name,
                    "msg": {"message_id": name, "content": "x", "from_addr": name},
                }
            )
        assert (await client.expect("rejected", id="bad"))["code"] == "unavailable"
        refused = await client.expect("rejected", id="refused")
        assert (refused["code"], refused["detail"], refused["retry_after"]) == (
            "unavailable",
            "WRONGTYPE",
            5.0,
        )
        for name in ("a", "b"):
            await client.expect("outcome", message_id=name, outcome="ok")
    assert tally["gateway.intake"] > before


async def test_entries_that_are_journalled_as_the_journal_fails_are_run(service: Service) -> None:
    """Their second try finds duplicates: they are accepted, and nothing else would run them."""
    journal = service.stores.journal

    class Forgetful:
        async def attempt(self, entries: Any) -> Any:
            answers = await journal.attempt(entries)
            if len(entries) > 1:
                raise TypeError("an error of ours")
            return answers

    services = evolve(service.gateway.services, journal=Forgetful())
    way_in = intake.Intake(service.config.channels["phone"], services, None)
    answers: list[intake.Answer] = []
    for name in ("a", "b", "c"):
        msg = {"message_id": name, "content": "x", "from_addr": name, "session_event": "new"}
        way_in.offer(intake.Offer("message", msg, 10, answers.append, lambda: None))
    async with connect(service.gateway_url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(way_in.run)
        replied = {(await client.expect("outbound"))["msg"]["in_reply_to"] for _ in range(3)}
        nursery.cancel_scope.cancel()
    assert replied == {"a", "b", "c"}
    assert [type(answer) for answer in answers] == [intake.Accepted] * 3
    assert way_in.held == 0


async def test_messages_in_progress_are_bounded_in_bytes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that wait for the journal stop the reading; past a bound of bytes in progress they
    are rejected, whatever credit is left.
    """
    monkeypatch.setattr(intake, "WORK_MAX", 2000)
    monkeypatch.setattr(intake, "HELD_MAX", 15_000)
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        for n in range(3):
            msg = {"message_id": f"m{n}", "content": "x" * 6000, "from_addr": str(n)}
            await client.send({"type": "inbound", "id": str(n), "msg": msg})
        await slow.asked.wait()
        (ours,) = service.gateway._connections
        assert ours._intake.work_size < 2000 + 7000
        slow.go_on.set()
        answers = [await client.expect_that(lambda f, n=n: f.get("id") == str(n)) for n in range(3)]
        assert {frame["type"] for frame in answers[:2]} == {"accepted"}
        for n in range(2):
            await client.expect("outcome", message_id=f"m{n}")
        await eventually(lambda: ours._intake.held == 0)
