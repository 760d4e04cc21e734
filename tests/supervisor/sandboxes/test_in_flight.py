"""Several messages in one process (pool.messages_in_flight): each run is its own, and when one must
be ended the others are told why.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trio

from supervisor.service import Service

from ...gateway_client import Client, connect
from ...service import ECHO, Folder, eventually, running

# Waits as long as the message says, without computing; then replies, and counts in a global that
# every run has for itself.
WAITING = """
api.on_inbound_message = function (command) {
    var parts = command.msg.content.split(' '), timers = require('timers'), q = require('q');
    var began = Date.now();
    globalThis.mine = (globalThis.mine || 0) + 1;
    q.delay(Number(parts[1])).then(function () {
        if (parts[0] === 'throw') throw new Error('of ' + command.msg.from_addr);
        if (parts[0] === 'loop') for (;;) {}
        if (parts[0] === 'heap') { var all = []; for (;;) all.push({a: [all.length]}); }
        if (parts[0] === 'shout') {
            for (var i = 0; i < 400; i++) api.log_info(new Array(1000).join('x') + i);
        }
        var content = parts[0] + ' ' + globalThis.mine, id = command.msg.message_id;
        api.request('outbound.reply_to', {content: content, in_reply_to: id},
            function () {
                if (parts[0] === 'times') api.log_info('times ' + began + ' ' + Date.now());
                api.done();
            });
    }).done();
};
"""
POOL = 'modules = ["q", "timers"]\npool = { max_processes = 1, messages_in_flight = 4 }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def message(user: str, content: str) -> dict[str, Any]:
    return {
        "type": "inbound",
        "id": user,
        "msg": {
            "message_id": user,
            "from_addr": user,
            "to_addr": "1",
            "content": content,
            "session_event": "new",
        },
    }


async def together(client: Client, **contents: str) -> dict[str, tuple[str, list[str]]]:
    """Send one message of each user at once; the outcome of each, and the replies."""
    for user, content in contents.items():
        await client.send(message(user, content))
    outcomes = {
        user: (await client.expect("outcome", message_id=user))["outcome"] for user in contents
    }
    sent = [frame["msg"] for frame in client.frames if frame["type"] == "outbound"]
    return {
        user: (outcome, [msg["content"] for msg in sent if msg["in_reply_to"] == user])
        for user, outcome in outcomes.items()
    }


async def log_of(service: Service) -> list[str]:
    return [entry.message for entry in await service.stores.logbook.newest("acct", "phone", 50)]


async def test_runs_that_wait_share_a_process(folder: Folder) -> None:
    """Four users wait at the same time, in one process; no run sees another's globals."""
    folder.app("phone", WAITING, POOL)
    async with running(folder) as service, connect(service.gateway_url) as client:
        await together(client, warm="ok 1")
        found = await together(client, **dict.fromkeys("abcd", "times 500"))
        assert found == dict.fromkeys("abcd", ("ok", ["times 1"]))
        times = [line.split()[1:] for line in await log_of(service) if line.startswith("times ")]
        assert len(times) == 4
        assert max(int(began) for began, _ in times) < min(int(ended) for _, ended in times)
        assert len(service.pool.sandboxes()) == 1


async def test_no_more_than_may_be_in_flight_are(folder: Folder) -> None:
    """The fifth waits for one of the four; there is never a second process."""
    folder.app("phone", WAITING, POOL)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for user in "abcde":
            await client.send(message(user, "ok 400"))
        await eventually(
            lambda: (
                service.pool.statistics("phone").busy == 1
                and service.dispatcher.waiting("phone") == 1
            )
        )
        assert service.pool.sandboxes()[0].runs <= 4
        for user in "abcde":
            await client.expect("outcome", message_id=user, outcome="ok")
        assert len(service.pool.sandboxes()) == 1


async def test_one_that_throws_leaves_the_others_alone(folder: Folder) -> None:
    """Its process still talks: the others come to their end in it, and only then it goes."""
    folder.app("phone", WAITING, POOL)
    async with running(folder) as service, connect(service.gateway_url) as client:
        found = await together(client, a="ok 400", b="throw 100", c="ok 300")
        assert found == {"a": ("ok", ["ok 1"]), "b": ("app_error", []), "c": ("ok", ["ok 1"])}
        assert any("of b" in line for line in await log_of(service))
        await eventually(lambda: service.pool.sandboxes() == [])
        assert (await together(client, e="ok 1"))["e"] == ("ok", ["ok 1"])


@pytest.mark.parametrize(
    ("what", "limits", "outcome"),
    [
        ("loop", 'cpu = "300ms"', "cpu"),
        ("heap", 'heap = "16MiB", cpu = "20s"', "heap"),
        ("shout", 'output = "256KiB"', "output"),
        ("never", 'wall = "3s"', "wall"),
    ],
)
async def test_one_that_must_be_ended_takes_the_others_along_and_they_are_told(
    folder: Folder, what: str, limits: str, outcome: str
) -> None:
    """It has the outcome of the limit that it hit; the others are `crashed`, with the reason, and
    their users get the fallback.
    """
    delay = {"never": 60_000}.get(what, 200)
    folder.app("phone", WAITING, POOL + f'limits = {{ fallback_reply = "Sorry", {limits} }}')
    async with running(folder) as service, connect(service.gateway_url) as client:
        await together(client, warm="ok 1")
        await client.send(message("bad", f"{what} {delay}"))
        # what hits its wall must not take along those whose own is near
        await trio.sleep(1.5 if what == "never" else 0.1)
        found = await together(client, a="ok 3000", c="ok 3000")
        assert (await client.expect("outcome", message_id="bad"))["outcome"] == outcome
        assert found == dict.fromkeys("ac", ("crashed", ["Sorry"]))
        lines = [line for line in await log_of(service) if line.startswith("[crashed]")]
        assert len(lines) == 2
        assert all(
            f"another run in the same process ended it ({outcome}: " in line for line in lines
        )
        assert (await together(client, e="ok 1"))["e"] == ("ok", ["ok 1"])


async def test_an_operator_ends_them_all(folder: Folder) -> None:
    """Each is killed_by_operator."""
    folder.app("phone", WAITING, POOL)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for user in "ab":
            await client.send(message(user, "ok 5000"))
        await eventually(
            lambda: len(service.pool.sandboxes()) == 1 and service.pool.sandboxes()[0].runs == 2
        )
        async with httpx.AsyncClient(base_url=service.admin_url) as admin:
            await admin.post(f"/v1/sandboxes/{service.pool.sandboxes()[0].pid}/kill")
        for user in "ab":
            await client.expect("outcome", message_id=user, outcome="killed_by_operator")


async def test_a_reload_replaces_a_process_that_is_never_idle(folder: Folder) -> None:
    """New runs go to a new process of the new generation, while the old one's come to their end."""
    folder.app("phone", WAITING, POOL)
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.send(message("old", "ok 1500"))
        await eventually(lambda: service.pool.statistics("phone").busy == 1)
        (folder.path / "phone.js").write_text(
            "api.on_inbound_message = function (command) { " + ECHO + " };"
        )
        assert (await service.reload())["ok"]
        assert (await together(client, new="hi"))["new"] == ("ok", ["you said hi"])
        await client.expect("outcome", message_id="old", outcome="ok")


async def test_many_users_talk_at_once_and_none_gets_what_is_anothers(folder: Folder) -> None:
    """Conversations of a vumigo_v02 app, interleaved at random in two processes: each user sees its
    own answers, in order.
    """
    from ...integration.test_backup import STATEFUL

    folder.app(
        "phone",
        STATEFUL,
        'config = { config = \'{"name": "survey"}\' }\n'
        "pool = { max_processes = 2, messages_in_flight = 8 }",
    )
    seen: dict[str, list[str]] = {}
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        trio.open_nursery() as nursery,
    ):

        async def talk(user: str) -> None:
            shuffled = random.Random(user)
            for step, (content, event) in enumerate(
                [(None, "new"), (f"name{user}", "resume"), (f"town{user}", "resume")]
            ):
                name = f"{user}-{step}"
                await client.send(
                    {
                        "type": "inbound",
                        "id": name,
                        "msg": {
                            "message_id": name,
                            "from_addr": user,
                            "to_addr": "1",
                            "content": content,
                            "session_event": event,
                        },
                    }
                )
                reply = await client.expect_that(
                    lambda f, name=name: (
                        f["type"] == "outbound" and f["msg"]["in_reply_to"] == name
                    ),
                    60,
                )
                seen.setdefault(user, []).append(reply["msg"]["content"])
                await client.expect("outcome", 60, message_id=name, outcome="ok")
                await trio.sleep(shuffled.random() * 0.02)

        for number in range(40):
            nursery.start_soon(talk, f"u{number}")
        await eventually(lambda: sum(map(len, seen.values())) == 120, 60)
        assert len(service.pool.sandboxes()) <= 2
    assert seen == {
        f"u{n}": ["Your name?", "Your town?", f"nameu{n} of townu{n}"] for n in range(40)
    }


async def test_a_process_that_was_started_for_one_message_at_a_time_stays_so(
    folder: Folder,
) -> None:
    """After a reload that allows several, they go to new processes: the old one's harness takes one
    at a time.
    """
    folder.app("phone", WAITING, 'modules = ["q", "timers"]\npool = { max_processes = 1 }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        await together(client, warm="ok 1")
        (before,) = service.pool.sandboxes()
        folder.config.write_text(
            folder.text.replace("max_processes = 1", "max_processes = 1, messages_in_flight = 4")
        )
        assert (await service.reload())["next_process"] == ["apps.phone.pool.messages_in_flight"]
        assert await together(client, a="ok 300", b="ok 300", c="ok 300") == dict.fromkeys(
            "abc", ("ok", ["ok 1"])
        )
        (after,) = service.pool.sandboxes()
        assert after.pid != before.pid


async def test_what_a_run_said_before_it_was_ended_is_not_held_against_the_only_other(
    folder: Folder,
) -> None:
    """Its last lines are still in the pipe when it is over: they are no violation of the protocol
    by the one that is left.
    """
    folder.app("phone", WAITING, POOL + 'limits = { fallback_reply = "Sorry", output = "256KiB" }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        await together(client, warm="ok 1")
        found = await together(client, bad="shout 200", other="ok 3000")
        assert found == {"bad": ("output", ["Sorry"]), "other": ("crashed", ["Sorry"])}


async def test_a_run_that_waits_for_long_does_not_pay_for_its_neighbours(folder: Folder) -> None:
    """CPU time counts from one sign of life to the next, also where the neighbours come one after
    the other.
    """
    work = "var end = Date.now() + 60; while (Date.now() < end) {} "
    folder.app(
        "phone",
        WAITING.replace(
            "if (parts[0] === 'throw')",
            "if (parts[0] === 'work') { " + work + "} if (parts[0] === 'throw')",
        ),
        POOL + 'limits = { cpu = "300ms" }',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.send(message("long", "ok 2500"))
        for number in range(15):
            assert (await together(client, **{f"w{number}": "work 1"}))[f"w{number}"][0] == "ok"
        assert (await client.expect("outcome", message_id="long"))["outcome"] == "ok"
