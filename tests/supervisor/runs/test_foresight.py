"""What apps read first is read before they ask; they see nothing else than if they had asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from attrs import define, evolve, field
from trio.testing import MockClock

from resources.kv import KEY_MAX
from resources.stores.keyspace import Keyspace, Quota
from resources.stores.redis import Unavailable
from supervisor.config.model import App
from supervisor.runs.foresight import SURE, Foreseen, Foresight
from supervisor.sandboxes.protocol import Request

from ...apps import make_app
from ...gateway_client import Client, connect
from ...service import Folder, running

APP = make_app("")
TELLER = """
api.on_inbound_message = function (command) {
  var key = 'state.' + command.msg.from_addr;
  api.request('kv.get', {key: key}, function (got) {
    var seen = (got.value || []).concat(command.msg.content);
    api.request('kv.set', {key: key, value: seen}, function () {
      api.request('outbound.reply_to', {
        content: JSON.stringify(seen), in_reply_to: command.msg.message_id
      }, function () { api.done(); });
    });
  });
};
"""


@define
class Store:
    """A store with the same value everywhere."""

    value: bytes | None = b'{"a": 1}'
    is_at_hand: bool = True
    is_away: bool = False
    hangs: bool = False
    asked: list[str] = field(factory=list)

    @property
    def redis(self) -> Store:
        return self

    async def get(self, _: str, key: str) -> bytes | None:
        self.asked.append(key)
        if self.hangs:
            await trio.sleep_forever()
        if self.is_away:
            raise Unavailable("away", sent=True)
        return self.value


def foresight(store: Store | None = None) -> Foresight:
    return Foresight(cast("Keyspace", store or Store()))


def read(key: Any, name: str = "kv.get") -> Request:
    return Request(name, "1", {"key": key})


def test_a_key_is_expected_once_it_came_first_several_times_in_a_row() -> None:
    """With the address of the user in its place; a key without one is the same for all."""
    for key, expected in {"users.x.+27": "users.x.+28", "settings": "settings"}.items():
        known = foresight()
        for _ in range(SURE):
            assert known.key(APP, "+28") is None
            known.learn(APP, "+27", read(key))
        assert known.key(APP, "+28") == expected


@pytest.mark.parametrize(
    "other",
    [read("users.+27.x"), read("users.+27", "kv.set"), read(None), read(1), read(["+27"]), None],
)
def test_a_run_that_begins_otherwise_is_noticed(other: Request | None) -> None:
    """Nothing is expected until the app has a habit again."""
    known = foresight()
    for _ in range(5):
        known.learn(APP, "+27", read("users.+27"))
    known.learn(APP, "+27", other)
    assert known.key(APP, "+28") is None
    known.learn(APP, "+27", read("users.+27"))
    assert known.key(APP, "+28") is None
    known.learn(APP, "+27", read("users.+27"))
    assert known.key(APP, "+28") == "users.+28"


def test_a_key_that_is_too_long_to_be_answered_is_left_to_the_app() -> None:
    """Whether it always is, or for a user with a long address: asking for it is refused."""
    known = foresight()
    for _ in range(SURE):
        known.learn(APP, "+27", read("+27" + "x" * (KEY_MAX - 2)))
    assert known.key(APP, "+2") is None
    for _ in range(SURE):
        known.learn(APP, "+27", read("+27" + "x" * (KEY_MAX - 3)))
    assert len(known.key(APP, "+28") or "") == KEY_MAX
    assert known.key(APP, "+281") is None


def test_another_generation_of_an_app_has_habits_of_its_own() -> None:
    """As has another app."""
    known = foresight()
    for _ in range(SURE):
        known.learn(APP, "+27", read("users.+27"))
    assert known.key(make_app("", name="other"), "+27") is None
    assert known.key(evolve(APP, source="// changed"), "+27") is None


async def test_nothing_is_read_when_that_would_not_help() -> None:
    """A store that is not at hand is not asked; what it refuses, or is not JSON, is left to the
    app's own question.
    """
    store = Store()
    known = foresight(store)
    assert await known.read(APP, "+27") is None
    for _ in range(SURE):
        known.learn(APP, "+27", read("users.+27"))
    assert store.asked == []
    found = await known.read(APP, "+28")
    assert found is not None
    assert (found.key, store.asked) == ("users.+28", ["users.+28"])
    store.is_at_hand = False
    assert await known.read(APP, "+28") is None
    assert len(store.asked) == 1
    store.is_at_hand, store.value = True, b"{"
    assert await known.read(APP, "+28") is None
    store.is_away = True
    assert await known.read(APP, "+28") is None


async def test_a_store_that_hangs_is_not_waited_for_twice(autojump_clock: MockClock) -> None:
    """The app's own question has the whole of limits.command."""
    known = foresight(Store(hangs=True))
    for _ in range(SURE):
        known.learn(APP, "+27", read("users.+27"))
    assert await known.read(APP, "+28") is None
    assert trio.current_time() <= 1


async def test_an_app_sees_what_its_last_run_wrote_and_what_others_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Message by message, with what was read ahead; each read is traced and counted as such, and
    made once.
    """
    ahead: list[str] = []
    reads: list[str] = []
    real_read, real_get = Foresight.read, Keyspace.get

    async def read_ahead(self: Foresight, app: App, user: str) -> Foreseen | None:
        found = await real_read(self, app, user)
        if found is not None:
            ahead.append(found.key)
        return found

    async def get(self: Keyspace, account: str, name: str) -> bytes | None:
        reads.append(name)
        return await real_get(self, account, name)

    monkeypatch.setattr(Foresight, "read", read_ahead)
    monkeypatch.setattr(Keyspace, "get", get)
    folder = Folder(tmp_path)
    folder.app("teller", TELLER)
    async with running(folder) as service, connect(service.gateway_url, "teller") as client:
        said: list[str] = []
        for number in range(5):
            said.append(str(number))
            assert await _told(client, number) == said
        await service.stores.keyspace.set(
            "acct", "state.+27831234567", b'["x"]', None, Quota(10, 10)
        )
        assert await _told(client, 5) == ["x", "5"]
        trace = service.history.traces.find("m5")
        assert trace is not None
        assert [(step.name, step.outcome) for step in trace.steps] == [
            ("kv.get", "ok"),
            ("kv.set", "ok"),
            ("outbound.reply_to", "ok"),
        ]
        labels = {"app": "teller", "resource": "kv", "command": "get", "outcome": "success"}
        value = service.prometheus.registry.get_sample_value
        assert value("jsbox_resource_requests_total", labels) == 6
    assert len(reads) == 6
    assert len(ahead) == 6 - SURE


async def _told(client: Client, number: int) -> Any:
    _, replies = await client.say(str(number), "resume", message_id=f"m{number}")
    return json.loads(replies[0]["content"])
