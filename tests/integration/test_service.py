"""The whole service: neighbours that never meet, load, sudden death, a store that goes away,
reloads.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx2
import pytest
import trio

from supervisor.config import load
from supervisor.service import open_service

from ..gateway_client import PATIENCE, Client, connect
from ..programs import Server, serve
from ..service import ECHO, HEAD, REPLY, Folder, eventually, running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


SECRETIVE = """
api.on_inbound_message = function (command) {
    var mine = command.msg.content;
    api.request('kv.get', {key: 'who'}, function (before) {
        api.request('kv.set', {key: 'who', value: mine}, function () {
            api.request('config.get', {key: 'owner'}, function (owner) {
                api.request('kv.incr', {key: 'count'}, function () {
                    api.request('outbound.reply_to', {in_reply_to: command.msg.message_id,
                        content: JSON.stringify({
                        before: before.value, owner: owner.value,
                            go: command.msg.helper_metadata.go, leaked: typeof leaked
                    })}, function () { leaked = mine; api.done(); });
                });
            });
        });
    });
};"""


async def test_two_apps_of_two_accounts_never_meet(folder: Folder) -> None:
    """Interleaved load on both: keys, config, messages and processes stay each one's own."""
    for name in ("red", "blue"):
        folder.app(name, SECRETIVE, f'config = {{ owner = "{name}" }}', account=f"acct-{name}")
    pids: dict[str, set[int]] = {"red": set(), "blue": set()}
    async with running(folder) as service:

        async def load_one(name: str, client: Client) -> None:
            for n in range(60):
                _, replies = await client.say(f"{name}{n}", from_addr=f"+{n % 7}")
                said = json.loads(replies[0]["content"])
                assert said["owner"] == name
                assert (said["before"] or name).startswith(name)
                assert said["go"] == {
                    "user_account": f"acct-{name}",
                    "conversation_type": "jsbox",
                    "conversation_key": name,
                }
                assert said["leaked"] == "undefined"
                for status in service.pool.sandboxes():
                    pids[status.app].add(status.pid)
            assert {
                f["msg"]["transport_name"] for f in client.frames if f["type"] == "outbound"
            } == {name}

        async with (
            connect(service.gateway_url, "red") as red,
            connect(service.gateway_url, "blue") as blue,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(load_one, "red", red)
            nursery.start_soon(load_one, "blue", blue)
        assert pids["red"]
        assert pids["blue"]
        assert not pids["red"] & pids["blue"]
        for name in ("red", "blue"):
            assert (
                await service.stores.redis.execute("GET", f"jsbox:{{acct-{name}}}:kv:count")
                == b"60"
            )


async def test_two_hundred_runs_on_one_sandbox(folder: Folder) -> None:
    """Every reply right, one process from the first to the last."""
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for n in range(200):
            outcome, replies = await client.say(f"{n}", "resume")
            assert (outcome["outcome"], replies[0]["content"]) == ("ok", f"you said {n}")
        (status,) = service.pool.sandboxes()
        assert status.runs == 200


@pytest.mark.slow
async def test_fifty_users_at_once(folder: Folder) -> None:
    """Each types five times; every reply is right, and in its own order; no process, task or
    descriptor is left over.
    """
    folder.text += "[gateway]\ncredit = 1000\n"
    folder.app(
        "phone",
        "var key = 'u' + command.msg.from_addr; api.request('kv.incr', {key: key}, function (r) {"
        + REPLY % "command.msg.content + ':' + r.value"
        + "});",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        for step in range(5):
            for user in range(50):
                msg = {
                    "message_id": f"{user}-{step}",
                    "from_addr": f"+{user}",
                    "content": f"{user}-{step}",
                    "session_event": "resume",
                }
                await client.send({"type": "inbound", "id": f"{user}-{step}", "msg": msg})
        for user in range(50):
            for step in range(5):
                await client.expect("outcome", message_id=f"{user}-{step}", outcome="ok")
        replies: dict[str, list[str]] = {}
        for frame in client.frames:
            if frame["type"] == "outbound":
                replies.setdefault(frame["msg"]["to_addr"], []).append(frame["msg"]["content"])
        assert replies == {
            f"+{user}": [f"{user}-{step}:{step + 1}" for step in range(5)] for user in range(50)
        }
        assert service.dispatcher.waiting("phone") == 0
        assert [
            place async for place, _ in service.stores.journal.unfinished("acct", "phone")
        ] == []
        await eventually(lambda: service.pool.statistics("phone").busy == 0)
        assert len(service.pool.sandboxes()) <= 4


async def test_what_was_accepted_survives_a_killed_supervisor(folder: Folder) -> None:
    """kill -9 in the middle of runs: the next start handles everything that was accepted, and
    nothing is left running.
    """
    folder.app(
        "phone",
        "require('timers').setTimeout(function () { " + ECHO + " }, 400);",
        'modules = ["timers"]\npool = { max_processes = 2 }',
    )
    sent = [f"m{n}" for n in range(8)]
    with serve(folder.config, expect_code=None) as server:
        async with connect(server.gateway) as client:
            for name in sent:
                msg = {
                    "message_id": name,
                    "from_addr": name,
                    "content": name,
                    "session_event": "new",
                }
                await client.send({"type": "inbound", "id": name, "msg": msg})
                await client.expect("accepted")
            await client.expect("outcome")
            processes = await _processes(server)
            # two sandboxes, the search process, Valkey, and perhaps a spare one
            assert len(processes) in (4, 5)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            done = {f["msg"]["in_reply_to"] for f in client.frames if f["type"] == "outbound"}
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            with trio.fail_after(PATIENCE):
                while done != set(sent):
                    done.add((await client.expect("outbound"))["msg"]["in_reply_to"])
            await client.send({"type": "inbound", "id": "again", "msg": {"message_id": "m0"}})
            assert (await client.expect("accepted"))["duplicate"] is True


async def _processes(server: Server) -> list[int]:
    """The pids of a server's sandboxes, its Valkey and its search process."""
    async with httpx2.AsyncClient(
        base_url=server.admin, trust_env=False, timeout=PATIENCE
    ) as admin:
        sandboxes = (await admin.get("/v1/sandboxes")).json()["sandboxes"]
    children = (
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    )
    return sorted({*(sandbox["pid"] for sandbox in sandboxes), *map(int, children)})


async def test_a_second_supervisor_is_refused(folder: Folder) -> None:
    """One data directory, one supervisor; the second says who has it."""
    from ..programs import jsbox

    folder.app("phone", ECHO)
    with serve(folder.config) as server:
        answer = await trio.to_thread.run_sync(jsbox, "serve", "-c", str(folder.config))
        assert answer.returncode == 1
        assert f"is used by process {server.process.pid}" in answer.stderr


async def test_a_port_that_is_taken_is_one_clear_line(folder: Folder) -> None:
    """Not a traceback."""
    from ..programs import jsbox

    folder.app("phone", ECHO)
    async with running(folder) as service:
        other = folder.path / "other"
        other.mkdir()
        (other / "jsbox.toml").write_text(
            f'[listen]\ngateway = "127.0.0.1:{service.gateway.port}"\nadmin = "127.0.0.1:0"\n'
        )
        answer = await trio.to_thread.run_sync(jsbox, "serve", "-c", str(other / "jsbox.toml"))
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert str(service.gateway.port) in answer.stderr


async def test_the_store_goes_away_and_comes_back(folder: Folder) -> None:
    """The embedded Valkey is killed: apps are told, nothing hangs, it is started again, and nothing
    accepted is lost.
    """
    folder.app(
        "phone",
        "api.request('kv.incr', {key: 'n'}, function (r) {"
        + REPLY % "r.success ? 'ok' : r.reason"
        + "});",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await client.say("x", "new"))[1][0]["content"] == "ok"
        pid = int(
            (await service.stores.redis.execute("INFO", "server"))
            .split(b"process_id:")[1]
            .split()[0]
        )
        os.kill(pid, signal.SIGKILL)
        accepted = 0
        with trio.fail_after(PATIENCE):
            for n in range(50):
                await client.send(
                    {
                        "type": "inbound",
                        "id": str(n),
                        "msg": {"message_id": str(n), "from_addr": str(n), "session_event": "new"},
                    }
                )
                answer = await client.expect_that(
                    lambda f, n=n: f.get("id") == str(n)  # type: ignore[misc]
                )
                accepted += answer["type"] == "accepted"
                if answer["type"] == "accepted":
                    await client.expect("outcome", message_id=str(n))
                else:
                    assert answer["code"] == "unavailable"
                    await trio.sleep(0.2)
                if accepted > 5:
                    break
            assert accepted > 5
            # What was refused as unavailable may be in the journal nevertheless: then it is run,
            # too.
            while [place async for place, _ in service.stores.journal.unfinished("acct", "phone")]:
                await trio.sleep(0.05)


async def test_a_channel_that_is_removed_is_closed(folder: Folder) -> None:
    """Its clients are told why."""
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        folder.config.write_text(HEAD)
        assert (await service.reload())["live"] == ["channels.phone", "apps.phone (removed)"]
        assert await client.expect_close() == 4403


async def test_helper_metadata_of_a_command_does_not_stick(folder: Folder) -> None:
    """What one reply sets is not in the next one of the same run."""
    reply = (
        "api.request('outbound.reply_to', {content: '%s', in_reply_to:"
        " command.msg.message_id%s}, function () { %s });"
    )
    folder.app(
        "phone",
        reply % ("a", ", helper_metadata: {voice: 1}", reply % ("b", "", "api.done();")),
        'allowed_helper_metadata = ["voice"]',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        _, replies = await client.say("x")
        assert ["voice" in message["helper_metadata"] for message in replies] == [True, False]


@pytest.mark.parametrize(
    ("javascript", "limits", "outcome"),
    [
        ("while (true) {}", 'cpu = "300ms"', "cpu"),
        ("", 'wall = "300ms"', "wall"),
        ("throw new Error('x');", "", "app_error"),
        ("api.done();", "", "no_reply"),
        ("var a = []; while (true) a.push([1, 2, 3]);", 'heap = "16MiB"', "heap"),
        ("api.request('a.b', {x: 'y'.repeat(1 << 19)});", "", "protocol"),
    ],
)
async def test_whatever_ends_a_run_the_user_is_answered(
    folder: Folder, javascript: str, limits: str, outcome: str
) -> None:
    """The outcome is named to the gateway and in the app's log, the fallback closes the session,
    and the next message is handled.
    """
    folder.app(
        "phone",
        f"if (command.msg.content === 'ok') {{ {ECHO} }} else {{ {javascript} }}",
        f'[apps.phone.limits]\nfallback_reply = "Sorry."\n{limits}',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        result, replies = await client.say("bad", "resume")
        assert result["outcome"] == outcome
        assert [(m["content"], m["session_event"]) for m in replies] == [("Sorry.", "close")]
        (entry,) = await service.stores.logbook.newest("acct", "phone", 10)
        assert entry.message.startswith(f"[{outcome}] ")
        result, replies = await client.say("ok", "resume")
        assert (result["outcome"], replies[0]["content"]) == ("ok", "you said ok")
        result, replies = await client.say("bad", None)
        # no session, nobody waits
        assert (result["outcome"] in (outcome, "ok"), replies) == (True, [])


async def test_a_process_that_cannot_boot_is_said_so(folder: Folder) -> None:
    """The outcome is boot, with what Node said."""
    # At the other levels the probe at the start would have found out.
    folder.text += '[isolation]\nlevel = "none"\n[node]\npath = "/bin/false"\n'
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, _ = await client.say("x", "new")
        assert outcome["outcome"] == "boot"


async def test_a_command_that_takes_too_long_is_answered(folder: Folder) -> None:
    """Its handler is cancelled, the reply says so, and the run goes on."""
    folder.app(
        "phone",
        "api.request('http.get', {url: 'http://127.0.0.1:9/'}, function (r) { "
        + REPLY % "r.reason"
        + " });",
        (
            'http = { allow = ["127.0.0.1"] }\nlimits = { command_timeouts = { "http.get" ='
            ' "200ms" } }'
        ),
    )
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        source = (folder.path / "phone.js").read_text().replace(":9/", f":{port}/")
        (folder.path / "phone.js").write_text(source)
        async with running(folder) as service, connect(service.gateway_url) as client:
            _, replies = await client.say("x")
            assert (
                replies[0]["content"] == "http.get took longer than limits.command allows (0.2 s)"
            )
        for listener in listeners:
            await listener.aclose()
        nursery.cancel_scope.cancel()


async def test_a_push_makes_the_app_begin(folder: Folder) -> None:
    """Each address gets a trigger; what the app replies is a fresh send with session_event new."""
    folder.app("phone", REPLY % "'hello ' + command.msg.inbound_push_trigger")
    async with running(folder) as service, connect(service.gateway_url) as client:
        async with httpx2.AsyncClient(
            base_url=service.admin_url, trust_env=False, timeout=PATIENCE
        ) as admin:
            answer = await admin.post("/v1/apps/phone/push", json={"addrs": ["+1", "+2"]})
            assert (answer.status_code, answer.json()) == (
                200,
                {"queued": 2, "opted_out": 0, "no_address": 0, "already": 0},
            )
            for bad in ({}, {"addrs": "x"}, {"addrs": [1]}, {"addrs": [""]}, []):
                assert (await admin.post("/v1/apps/phone/push", json=bad)).status_code == 400
        sent = sorted(
            [(await client.expect("outbound"))["msg"] for _ in range(2)], key=lambda m: m["to_addr"]
        )
        assert [
            (m["to_addr"], m["content"], m["session_event"], m["in_reply_to"]) for m in sent
        ] == [("+1", "hello true", "new", None), ("+2", "hello true", "new", None)]


async def test_it_starts_with_an_empty_file(tmp_path: Path) -> None:
    """No apps, no channels: it serves, and says so."""
    file = tmp_path / "jsbox.toml"
    file.write_text(HEAD)
    async with open_service(load(file), lambda: load(file)) as service:
        async with httpx2.AsyncClient(
            base_url=service.admin_url, trust_env=False, timeout=PATIENCE
        ) as admin:
            assert (await admin.get("/v1/apps")).json() == {"apps": []}
            assert (await admin.get("/readyz")).text == "ok\n"
