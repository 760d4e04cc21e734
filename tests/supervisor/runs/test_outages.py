"""Runs are held back while the store cannot be used, and only there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from attrs import define, field

from resources import fence
from resources.stores.redis import Redis, Unavailable
from supervisor.runs.outages import AGAIN, Outages

from ...gateway_client import connect, inbound
from ...service import Folder, eventually, running
from ...store_faults import refuse
from ...store_proxy import StoreProxy

MESSAGES = 30
COUNT = """
api.on_inbound_message = function (command) {
    api.request('kv.incr', {key: 'n'}, function (reply) {
        if (!reply.success) {
            return api.done();
        }
        api.request('outbound.reply_to', {
            content: String(reply.value), in_reply_to: command.msg.message_id
        }, function () { api.done(); });
    });
};
"""


@define
class Store:
    """A store of which a part can be lost."""

    lost: set[str] = field(factory=set)
    tried: list[str] = field(factory=list)

    def is_usable(self, key: str) -> bool:
        """As `Redis.is_usable`."""
        return key not in self.lost

    async def try_out(self, key: str) -> None:
        """As `Redis.try_out`."""
        self.tried.append(key)
        if key in self.lost:
            raise Unavailable("it is lost", sent=False)

    def statistics(self) -> Any:
        """Only the problem."""
        return SimpleNamespace(problem="node three does not answer")


async def test_only_the_accounts_of_a_lost_part_are_held(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is resumed once, when its own part is back, whatever the others' do; one line says that
    runs are held, one that they are not any more.
    """
    del autojump_clock
    caplog.set_level("INFO")
    store = Store()
    resumed = list[str]()
    found = Outages(cast("Redis", store), resumed.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        assert not found.holds("a")
        store.lost |= {"jsbox:{a}:probe", "jsbox:{b}:probe"}
        assert [found.holds(name) for name in ("a", "b", "c", "a")] == [True, True, False, True]
        await trio.sleep(AGAIN * 4.5)
        assert resumed == []
        assert store.tried.count("jsbox:{a}:probe") == 4
        store.lost.remove("jsbox:{b}:probe")
        await trio.sleep(AGAIN)
        assert resumed == ["b"]
        assert found.holds("a")
        store.lost.clear()
        await trio.sleep(AGAIN * 10)
        assert resumed == ["b", "a"]
        tried = len(store.tried)
        await trio.sleep(AGAIN * 10)
        assert len(store.tried) == tried
        store.lost.add("jsbox:{a}:probe")
        assert found.holds("a")
        store.lost.clear()
        await trio.sleep(AGAIN * 2)
        assert resumed == ["b", "a", "a"]
        nursery.cancel_scope.cancel()
    lines = [record.message for record in caplog.records]
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == [
        "no runs are started",
        "runs are started again",
    ] * 2
    assert "node three does not answer (account a)" in lines[0]


async def test_an_account_that_cannot_be_resumed_stays_held_and_holds_up_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It is counted as an internal error, and resumed at a later look."""
    del autojump_clock
    store = Store({"jsbox:{a}:probe", "jsbox:{b}:probe"})
    resumed = list[str]()

    def resume(account: str) -> None:
        resumed.append(account)
        if resumed == ["a"]:
            raise RuntimeError("no nursery")

    found = Outages(cast("Redis", store), resume)
    before = fence.tally["outages"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        assert found.holds("a")
        assert found.holds("b")
        store.lost.clear()
        await trio.sleep(AGAIN * 1.5)
        assert resumed == ["a", "b"]
        await trio.sleep(AGAIN * 10)
        assert resumed == ["a", "b", "a"]
        assert not found._held
        nursery.cancel_scope.cancel()
    assert fence.tally["outages"] == before + 1


@pytest.mark.parametrize(
    "code",
    ["MISCONF", *(pytest.param(code, marks=pytest.mark.slow) for code in ("LOADING", "away"))],
)
async def test_what_waits_is_not_spent_on_a_store_that_cannot_be_used(
    proxy: StoreProxy, tmp_path: Path, code: str
) -> None:
    """Only what is in progress when it begins may fail. The others are run when it is over, once
    each and in order.
    """
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{proxy.url}"\n'
    folder.app("app", COUNT, "pool.max_processes = 1\n")
    async with running(folder) as service, connect(service.gateway_url, "app") as client:
        for n in range(MESSAGES):
            await client.send(inbound(f"m{n}", f"+{n}"))
        for _ in range(MESSAGES):
            await client.expect("accepted")
        rule = None if code == "away" else proxy.fault(refuse(code))
        if rule is None:
            proxy.stop()
        outages = service.dispatcher.outages
        await eventually(lambda: bool(outages._held), 20)
        await trio.sleep(3 * AGAIN)
        left = service.dispatcher.waiting("app")
        assert left > 0
        assert outages._held
        if rule is None:
            proxy.start()
        else:
            rule.lift()
        outcomes = [await client.expect("outcome", 20) for _ in range(MESSAGES)]
        failed = [frame for frame in outcomes if frame["outcome"] != "ok"]
        assert len(failed) <= 1
        assert not outages._held
