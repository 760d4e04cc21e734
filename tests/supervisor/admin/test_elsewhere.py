"""Requests that name another of the servers that share the work, or all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from supervisor.admin import elsewhere
from supervisor.cluster.asking import Question, Reply
from supervisor.service import Service
from supervisor.store import holding

from ...gateway_client import connect, inbound
from ...service import ECHO, Folder, eventually, running
from .admin_client import ask

USERS = 24  # so many that some fall to each of two servers
TOKENS = "".join(
    f'{{ name = "{name}", sha256 = "{sha256(name.encode()).hexdigest()}", {more} }},'
    for name, more in (("grafana", 'scopes = ["read"]'), ("thandi", 'scopes = ["operate"]'))
)
ME = {"authorization": "Bearer thandi"}
READER = {"authorization": "Bearer grafana"}


@asynccontextmanager
async def sharing(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Service, Service]]:
    """Two servers of one store, called one and two, in this process, that hear each other."""
    made = list[Service]()
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            monkeypatch.setattr(holding, "own_name", partial("{} (process 7)".format, name))
            (tmp_path / name).mkdir()
            folder = Folder(tmp_path / name)
            head = f"[listen]\nadmin_tokens = [{TOKENS}]\n"
            folder.text = folder.text.replace("[listen]\n", head)
            folder.text += f'[redis]\nurl = "{url}"\n[cluster]\nmode = "shared"\n[accounts.acct]\n'
            folder.app("phone", ECHO, "pool.max_processes = 1")
            made.append(await stack.enter_async_context(running(folder)))
        one, two = made
        for service in made:
            assert service.sharing is not None
            await eventually(partial(_knows_both, service))
        with trio.fail_after(60):
            while (await ask(one, "GET", "/readyz?host=two", **ME))[0] != 200:
                pass
            while (await ask(two, "GET", "/readyz?host=one", **ME))[0] != 200:
                pass
        yield one, two


def _knows_both(service: Service) -> bool:
    return service.sharing is not None and len(service.sharing.alive) == 2


@pytest.mark.slow
async def test_one_server_answers_for_the_others(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each has of its own, of the one that is named or of all; tokens and audit logs are
    respected.
    """
    monkeypatch.setattr(elsewhere, "SECONDS", 60.0)
    async with sharing(tmp_path, valkey, monkeypatch) as (one, two):
        async with connect(one.gateway_url) as client:
            for n in range(USERS):
                await client.send(inbound(f"m{n}", f"+{n}"))
            for n in range(USERS):
                await client.expect("outcome", message_id=f"m{n}")
        await _runs_are_found(one, two)
        await _deeds_are_written_down_on_both(one, two)
        await _mistakes_are_named(one)
        await _a_large_answer_is_left_out(one, monkeypatch)
        await _logs_are_of_one_or_all(one, two)
        await _one_is_silent(one, two, monkeypatch)


async def _runs_are_found(one: Service, two: Service) -> None:
    """Wherever they were: all together, each by its message, and in the figures of its server."""
    get = partial(ask, one, "GET", **ME)
    _, found = await get("/v1/traces?host=all&limit=50")
    ran = {
        row["name"]: {one["message"] for one in row["answer"]["traces"]} for row in found["hosts"]
    }
    assert all(ran.values())
    assert set.union(*ran.values()) == {f"m{n}" for n in range(USERS)}
    for name, messages in ran.items():
        assert (await get(f"/v1/traces/{min(messages)}"))[1]["host"] == name
    there = min(ran["two (process 7)"])
    assert (await get(f"/v1/traces/{there}?host=one"))[0] == 404
    assert (await get(f"/v1/traces/{there}?host=two"))[1]["message"] == there
    code, none = await get("/v1/traces/no%20such%2F?")
    assert (code, "there is no trace of 'no such/'" in none["error"]) == (404, True)
    assert two.sharing is not None
    other = two.sharing.record.id
    _, limits = await get(f"/v1/apps/phone/limits?host={other}&what_if=wall%3D1ms")
    assert limits["what_if"]["limits"]["wall"]["of"] == len(ran["two (process 7)"])


async def _deeds_are_written_down_on_both(one: Service, two: Service) -> None:
    """A process of the other server is killed, by somebody who may do that."""
    _, rows = await ask(one, "GET", "/v1/sandboxes?host=all", **ME)
    assert [(row["name"], row["is_this"], row["status"]) for row in rows["hosts"]] == [
        ("one (process 7)", True, 200), ("two (process 7)", False, 200),
    ]  # fmt: skip
    here, pids = (
        {sandbox["pid"] for sandbox in row["answer"]["sandboxes"]} for row in rows["hosts"]
    )
    assert not here & pids
    (pid, *_) = pids
    kill = f"/v1/sandboxes/{pid}/kill?host=two"
    assert (await ask(one, "POST", kill, **READER))[0] == 403
    assert (await ask(one, "POST", kill))[0] == 401
    assert (await ask(one, "GET", "/readyz?host=two"))[0] == 401
    assert await ask(one, "POST", kill, **ME) == (200, {"killed": pid})
    for service, what, source in (
        (one, kill, "127.0.0.1"),
        (two, kill.partition("?")[0], "host one (process 7)"),
    ):
        _, audit = await ask(service, "GET", "/v1/audit", **READER)
        (deed,) = audit["deeds"]
        assert (deed["who"], deed["what"], deed["source"]) == ("thandi", f"POST {what}", source)
        assert (deed["status"], deed["result"]) == (200, f"killed {pid}")
    asked = await ask(one, "GET", "/v1/audit?host=two&limit=1", **ME)
    assert asked == await ask(two, "GET", "/v1/audit", **ME)


async def _a_large_answer_is_left_out(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(elsewhere, "ALL_MAX", 10)
        _, found = await ask(one, "GET", "/v1/info?host=all", **ME)
        here, there = found["hosts"]
        assert here["answer"]["version"]
        assert there["error"] == "the answer of host two (process 7) is too large, and left out"


async def _one_is_silent(one: Service, two: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were frozen: it is named, and the rest is shown."""
    assert two.sharing is not None
    serve = two.sharing.asking.serve

    async def silence(_: Question) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(elsewhere, "SECONDS", 0.3)
        two.sharing.asking.serve = silence
        why = "host two (process 7) did not answer within 0.3 s"
        _, found = await ask(one, "GET", "/v1/apps?host=all", **ME)
        here, there = found["hosts"]
        assert [app["name"] for app in here["answer"]["apps"]] == ["phone"]
        assert (there["status"], there["error"]) == (0, why)
        assert await ask(one, "GET", "/v1/apps?host=two", **ME) == (504, {"error": why})
        code, none = await ask(one, "GET", "/v1/traces/nope", **ME)
        assert (code, none["error"].endswith(f"; {why}")) == (404, True)
        two.sharing.asking.serve = serve
    assert (await ask(one, "GET", "/v1/apps?host=two", **ME))[0] == 200


async def test_a_server_alone_is_all_of_them(service: Service) -> None:
    code, found = await ask(service, "GET", "/v1/host?host=all")
    (row,) = found["hosts"]
    assert (code, row["is_this"], row["answer"]["mode"]) == (200, True, "single")
    code, none = await ask(service, "GET", "/v1/host?host=two")
    assert (code, "shares the work with no other" in none["error"]) == (404, True)


async def _mistakes_are_named(one: Service) -> None:
    assert one.sharing is not None
    for method, path, status, error in (
        ("GET", "/v1/host?host=three", 404, f"no host is 'three': {one.sharing.host} one"),
        ("GET", "/v1/host?host=", 404, "no host is ''"),
        ("GET", "/v1/host?host=one&host=two", 400, "expected one host, or all"),
        ("GET", "/v1/deadletters?host=two", 400, "/v1/deadletters is the same on every host"),
        ("POST", "/v1/apps/phone/push?host=two", 400, "is the same on every host"),
        ("POST", "/v1/reload?host=all", 400, "one host after the other"),
        ("GET", "/v1/apps/nope/limits?host=two", 404, "there is no app 'nope'"),
        ("GET", "/v1/apps/phone/logs?host=nobody", 404, "no host is 'nobody'"),
        ("GET", "/v1/apps/phone/logs?host=nobody&follow=1", 404, "no host is 'nobody'"),
    ):
        code, body = await ask(one, method, path, **ME)
        assert (code, error in body["error"]) == (status, True), body


async def _logs_are_of_one_or_all(one: Service, two: Service) -> None:
    assert one.sharing is not None
    assert two.sharing is not None
    get, other = partial(ask, one, "GET", **ME), two.sharing.record.id
    _, logged = await get(f"/v1/apps/phone/logs?host={other}&limit=1")
    assert logged == {"entries": []}  # it has written nothing yet
    await two.stores.logbook.write("acct", "phone", 20, "here I am", 100)
    for called in (other, "two", "two%20(process%207)"):
        _, logged = await get(f"/v1/apps/phone/logs?host={called}")
        assert [one["message"] for one in logged["entries"]] == ["here I am"]
    # Other servers may ask for what is bounded, and needs no body.
    ask_other = one.sharing.asking.ask
    for method, path in (("GET", "/v1/apps/phone/logs"), ("DELETE", "/v1/audit")):
        question = Question(method, path, "follow=1", "me", "one")
        assert (await ask_other(two.sharing.record, question, 60)).status == 404
