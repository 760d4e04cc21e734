"""Reloading the config of a running service: what changes, when, and that nothing else does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from resources import fence
from supervisor.config import Config
from supervisor.jail.walls import Walls
from supervisor.sandboxes.pool import Pool
from supervisor.service import Service

from ..gateway_client import PATIENCE, connect
from ..programs import serve
from ..service import ECHO, REPLY, Folder, eventually, running

USERS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# A run that says that it has begun, and goes on when the test sets a key.
HELD = """
api.on_inbound_message = function (command) {
    var sleep = require('timers').setTimeout;
    function wait() {
        api.request('kv.get', {key: 'go'}, function (reply) { if (reply.value) { %s } else {
            sleep(wait, 20); } });
    }
    api.log_info('begun', wait);
};
"""


async def test_a_reload_changes_what_holds_and_disturbs_nothing(folder: Folder) -> None:
    """A run in progress ends as it began; the next has the new code and limits; a broken file
    changes nothing.
    """
    folder.app("phone", HELD % (REPLY % "'old'"), 'modules = ["timers"]')
    async with running(folder) as service, connect(service.gateway_url) as client:
        (folder.path / "phone.js").write_text(
            "api.on_inbound_message = function (command) { " + REPLY % "'new'" + " };"
        )
        async with trio.open_nursery() as nursery:
            results: list[Any] = []

            async def slow() -> None:
                results.append((await client.say("x", "new", from_addr="a"))[1][0]["content"])

            nursery.start_soon(slow)
            with trio.fail_after(PATIENCE):
                while not await service.stores.logbook.newest("acct", "phone", 1):
                    await trio.sleep(0.01)
            async with httpx2.AsyncClient(
                base_url=service.admin_url, trust_env=False, timeout=60
            ) as admin:
                answer = (await admin.post("/v1/reload")).json()
                assert answer == {
                    "ok": True,
                    "live": [],
                    "next_process": ["apps.phone.javascript (its text)"],
                    "restart": [],
                    "warnings": [
                        (
                            'apps.phone: account "acct" has no [accounts.acct]; the defaults hold'
                            " for it"
                        )
                    ],
                }
                assert (await client.say("x", "new", from_addr="b"))[1][0]["content"] == "new"
                folder.config.write_text(folder.text + "[broken]\n")
                refused = await admin.post("/v1/reload")
                assert refused.status_code == 422
                assert "unknown key `broken`" in refused.json()["errors"][0]
            assert results == []
            await service.stores.redis.execute("SET", "jsbox:{acct}:kv:go", "true")
        assert results == ["old"]
        assert (await client.say("x", "new", from_addr="c"))[1][0]["content"] == "new"


async def test_an_app_that_moves_to_another_account_gets_new_processes(folder: Folder) -> None:
    """What its processes remember of the old account's users stays behind."""
    folder.app("phone", ECHO, "pool = { max_processes = 1 }")
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("x", "new")
        (before,) = service.pool.sandboxes()
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        assert [one.pid for one in service.pool.sandboxes()] == [before.pid]
        folder.text = folder.text.replace('account = "acct"', 'account = "other"')
        folder.config.touch()
        assert (await service.reload())["next_process"] == ["apps.phone.account"]
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        assert before.pid not in [one.pid for one in service.pool.sandboxes()]


@pytest.mark.slow
async def test_reloads_under_load_disturb_nothing(folder: Folder) -> None:
    """Limits that are live, limits of the next process and code, changed again and again while
    twenty users talk: every message is answered once, in the old way or the new.
    """
    folder.app("phone", ECHO, "limits = LIMITS")
    template = folder.text
    folder.text = template.replace("LIMITS", "{}")
    async with running(folder) as service, connect(service.gateway_url) as client:
        told: list[str] = []
        users_told: set[int] = set()
        stop = trio.Event()

        async def user(number: int) -> None:
            count = 0
            while not stop.is_set():
                outcome, replies = await client.say(f"{number}.{count}", from_addr=f"+{number}")
                assert outcome["outcome"] == "ok", outcome
                told.extend(message["content"] for message in replies)
                count += 1
                users_told.add(number)

        async with trio.open_nursery() as nursery:
            for number in range(USERS):
                nursery.start_soon(user, number)
            seen: set[str] = set()
            for n in range(12):
                limits = f'{{ wall = "{30 + n}s", heap = "{48 + n % 3}MiB", commands = {500 + n} }}'
                folder.config.write_text(template.replace("LIMITS", limits))
                source = ECHO.replace("'you said '", f"'version {n}: '")
                (folder.path / "phone.js").write_text(
                    f"api.on_inbound_message = function (command) {{ {source} }};"
                )
                answer = await service.reload()
                assert answer["ok"]
                seen |= {*answer["live"], *answer["next_process"]}
                users_told.clear()
                await eventually(lambda: len(users_told) == USERS)
            # those were perhaps answers to messages from before the last reload; these are not
            users_told.clear()
            await eventually(lambda: len(users_told) == USERS)
            stop.set()
        assert {
            "apps.phone.limits.wall",
            "apps.phone.limits.heap",
            "apps.phone.javascript (its text)",
        } <= seen
        said = [text.rpartition(" ")[2] for text in told]
        assert len(said) == len(set(said)) >= 13 * USERS
        assert told[-1].startswith("version 11: ")
        assert service.dispatcher.programs["phone"].app.limits.commands == 511


def state_of(service: Service) -> list[Any]:
    """All that a reload changes."""
    pool = service.pool
    return [
        service.config,
        service.dispatcher.programs,
        pool.apps,
        service.search.settings,
        service.search._accounts,
    ]


async def refused(service: Service) -> str:
    """Reload by the admin port; return the one reason why not."""
    async with httpx2.AsyncClient(
        base_url=service.admin_url, trust_env=False, timeout=PATIENCE
    ) as admin:
        answer = await admin.post("/v1/reload")
    assert answer.status_code == 422
    (reason,) = answer.json()["errors"]
    return str(reason)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("read", RecursionError("deep")),
        ("prepare", OSError(24, "Too many open files")),
        ("update", KeyError("what")),
    ],
)
async def test_a_reload_that_nobody_foresaw_keeps_the_old_config_whole(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    """Wherever it fails, by SIGHUP or admin port: nothing is half applied, the reason is answered
    and counted, messages are answered.
    """
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        before = state_of(service)
        folder.text += (
            '[accounts.other]\n[search]\ntimeout = "1s"\n[apps.second]\naccount ='
            ' "b"\njavascript = "phone.js"\n'
        )
        assert folder.config.exists()

        def fails(*_: Any) -> Any:
            raise error

        update = Pool.update

        def fails_after_the_first_step(pool: Pool, apps: Any) -> None:
            update(pool, apps)
            if "second" in apps:
                raise error

        with monkeypatch.context() as patch:
            if place == "read":
                patch.setattr(service.reloads, "read_config", fails)
            elif place == "prepare":
                patch.setattr(Walls, "prepare", fails)
            else:
                patch.setattr(Pool, "update", fails_after_the_first_step)
            caught = fence.tally["reload"]
            reason = await refused(service)
            assert type(error).__name__ in reason
            assert "the old config stays" in reason
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.reload)  # as SIGHUP does
            assert fence.tally["reload"] == caught + 2
        assert state_of(service) == before
        assert service.config is before[0]
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        assert (await service.reload())["ok"]
        assert sorted(service.dispatcher.programs) == ["phone", "second"]
        assert (await client.say("y"))[1][0]["content"] == "you said y"


async def test_reloads_wait_for_each_other(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten at a time: each reads the config after the one before has applied its own."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        at_work, most, read = 0, 0, service.reloads.read_config

        def counted() -> Config:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            try:
                return read()
            finally:
                at_work -= 1

        monkeypatch.setattr(service.reloads, "read_config", counted)
        answers = []

        async def reload() -> None:
            answers.append(await service.reload())

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(reload)
        assert (most, [answer["ok"] for answer in answers]) == (1, [True] * 10)


async def test_a_reload_while_the_server_stops_is_refused(folder: Folder) -> None:
    """With the reason; nothing is read, and systemd hears nothing that would contradict
    STOPPING=1.
    """
    folder.app("phone", ECHO)
    async with running(folder) as service:
        await service.drain()
        before = state_of(service)
        folder.text += "[nonsense\n"
        assert folder.config.exists()
        assert (
            await refused(service) == "the server is about to stop: its next start reads the config"
        )
        assert state_of(service) == before


BROKEN = (
    'http = { proxy = "http://[::1" }',
    'http = { connect_to = { a = "http://h:99999" } }',
    'modules = ["' + "m" * 300 + '"]',
    'modules_dir = "a\\u0000b"',
    'config = { a = { file = "a\\u0000b" } }',
    f'modules_dir = "{"m" * 300}"',
    "x = " + "[" * 500 + "]" * 500,
    ".".join("a" * 1200) + " = 1",
    "\n[[apps]]",
    'config = { a = "${JSBOX_LATIN}" }',
    'config = { a = { file = "/dev/zero" } }',
    'timezone = "' + "z" * 300 + '"',
    "pool = { queue = 0x" + "f" * 5000 + " }",
)


async def test_a_signal_with_a_config_that_cannot_be_ends_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server and SIGHUP: each is refused in its log, without a traceback; messages are
    answered, and the right config is taken.
    """
    monkeypatch.setenv("JSBOX_LATIN", os.fsdecode(b"caf\xe9"))
    folder.app("phone", ECHO)
    right = folder.text
    with serve(folder.config) as server:
        for number, line in enumerate(BROKEN, 1):
            folder.text = right.replace(
                'javascript = "phone.js"\n', f'javascript = "phone.js"\n{line}\n'
            )
            assert folder.config.exists()
            server.process.send_signal(signal.SIGHUP)
            await eventually(
                lambda n=number: server.log.read_text().count("the config was not reloaded") == n,
                60,
            )
        async with connect(server.gateway) as client:
            assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        folder.text = right
        assert folder.config.exists()
        server.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "the config was reloaded" in server.log.read_text(), 60)
        said = server.log.read_text()
        assert "Traceback" not in said
        assert "internal error" not in said
