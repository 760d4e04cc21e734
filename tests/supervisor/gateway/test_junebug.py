"""Channels of type http, against a scripted Junebug: both ways, and when it is slow or gone."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from resources.stores.foreign_ids import ForeignIds
from supervisor.gateway.intake import Answer, Rejected
from supervisor.gateway.junebug import link, poster

from ...gateway_client import connect
from ...junebug import Reply, ask, junebug, message, request
from ...programs import free_ports
from ...service import eventually, running
from .junebug_rig import emptied, events, folder_for, post, waiting


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, not after seconds."""
    monkeypatch.setattr(link, "BACKOFF", (0.01, 0.05))


async def test_a_conversation(tmp_path: Path) -> None:
    """A message is answered when it is in the journal, its reply is posted to Junebug; the second
    one ends the session; a message to another address is no reply.
    """
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        data = {"session_event": "new", "sms": {"x": 1}}
        result = await post(service, message("m1", channel_data=data))
        assert result == {"message_id": "m1", "duplicate": False}
        assert await post(service, message("m1")) == {"message_id": "m1", "duplicate": True}
        await june.has(1)
        await post(service, message("bye", channel_data={"session_event": "resume"}))
        await june.has(2)
        await post(service, message("send +27833 hello", channel_data={}))
        await june.has(3)
        assert [head.split("\r\n")[0] for head in june.heads] == [
            "POST /jb/channels/c1/messages/ HTTP/1.1"
        ] * 3
        first, second, third = june.posts
        assert {"reply_to", "content"} <= first.keys()
        assert "to" not in first
        assert (first["reply_to"], first["content"]) == ("m1", "you said m1")
        assert first["channel_data"]["sms"] == {"x": 1}
        assert not {"go", "session_event", "continue_session"} & first["channel_data"].keys()
        assert second["channel_data"]["session_event"] == "close"
        assert (third["to"], third["from"], third["content"]) == ("+27833", "*120*1#", "hello")
        assert "reply_to" not in third
        await emptied(service)
        assert service.channels.state("menu").state == "up"


async def test_events_reach_the_app_by_our_url_and_by_junebugs_id(tmp_path: Path) -> None:
    """Each kind; a repeated one once; after a restart, too; and one that is faster than the answer
    to the post that it is about.
    """
    async with junebug() as june:
        folder = folder_for(tmp_path, june.url)
        async with running(folder) as service:
            await post(service, message("m1"))
            await june.has(1)
            sent = june.posts[0]
            await emptied(service)
            at = {"channel_id": "c1", "timestamp": "2026-01-02 03:04:05.678900"}
            submitted = {"event_type": "submitted", "message_id": "jb1", **at}
            path = urlsplit(sent["event_url"]).path
            token = f"Token {sent['event_auth_token']}"
            assert (await ask(service.gateway.port, request(path, submitted, token))).status == 200
            await post(service, submitted, "events")
            failed = {"event_type": "delivery_failed", "message_id": "jb1", **at}
            await post(service, failed, "events")
            ack, report = await events(service, 2)
            assert ack["event_type"] == "ack"
            assert ack["user_message_id"] == path.split("/")[-1]
            assert (report["delivery_status"], report["user_message_id"]) == (
                "failed",
                ack["user_message_id"],
            )
            gate = trio.Event()
            june.script.append(Reply(wait=gate))
            await post(service, message("m2"))
            await june.has(2)
            async with trio.open_nursery() as nursery:
                early = {"event_type": "rejected", "message_id": "jb2", **at}
                early["event_details"] = {"reason": "no such number"}
                nursery.start_soon(post, service, early, "events")
                await trio.testing.wait_all_tasks_blocked(0.05)
                gate.set()
            nack = (await events(service, 3))[2]
            assert nack["nack_reason"] == "no such number"
            assert (
                nack["user_message_id"] == urlsplit(june.posts[1]["event_url"]).path.split("/")[-1]
            )
        async with running(folder) as service:
            late = {"event_type": "delivery_succeeded", "message_id": "jb1", **at}
            await post(service, late, "events")
            report = (await events(service, 4))[3]
            assert report["user_message_id"] == ack["user_message_id"]


async def test_an_event_that_is_looked_up_while_its_post_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's answer may be older than what the post left there, and is not asked again."""
    gate, asked = trio.Event(), 0
    ours = ForeignIds.ours

    async def slow(self: ForeignIds, channel: str, theirs: str) -> str | None:
        nonlocal asked
        asked += 1
        found = await ours(self, channel, theirs)
        if asked == 1:
            assert found is None
            gate.set()
            await eventually(lambda: not service.channels.link("menu")._names.posts)
        return found

    monkeypatch.setattr(ForeignIds, "ours", slow)
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.script.append(Reply(wait=gate))
        await post(service, message("m1"))
        await june.has(1)
        await post(service, {"event_type": "submitted", "message_id": "jb1"}, "events")
        (ack,) = await events(service, 1)
        assert ack["user_message_id"] == urlsplit(june.posts[0]["event_url"]).path.split("/")[-1]
        assert asked == 1


async def test_what_junebug_does_not_take_is_sent_again_in_order(tmp_path: Path) -> None:
    """Errors of its own, a channel that is not there, cut connections, answers that are none: the
    user's next message waits, another user's does not.
    """
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        bad = [
            Reply(500), Reply(404), Reply(429, headers="Retry-After: 0.01\r\n"), Reply(cut=True),
            Reply(raw=b"nonsense\r\n\r\n"), Reply(raw=b"HTTP/1.1 2"), Reply(302),
            Reply(503, headers="Retry-After: never\r\n"),
        ]  # fmt: skip
        june.by_content["you said a1"] = deque(bad)
        await post(service, message("a1", "+27a"))
        await june.has(1)
        await post(service, message("a2", "+27a"))
        await post(service, message("b1", "+27b"))
        await eventually(lambda: "you said a2" in june.contents)
        first = [text for text in june.contents if text != "you said b1"]
        assert first == ["you said a1"] * (len(bad) + 1) + ["you said a2"]
        assert "you said b1" in june.contents
        ids = {one["event_url"] for one in june.posts if one["content"] == "you said a1"}
        assert len(ids) == 1
        await emptied(service)
        # one that is cut off on a kept connection is sent again at once, on a new one
        assert len(bad) - 1 <= service.channels.state("menu").returned <= len(bad)


async def test_the_url_of_messages_may_have_no_slash_at_its_end(tmp_path: Path) -> None:
    """Junebug's has one, vumi2's has none: after a 404 the other one is tried, and kept."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.script.append(Reply(404))
        for number in range(2):
            await post(service, message(f"m{number}"))
            await june.has(number + 2)
        assert [head.split()[1].removeprefix("/jb/channels/c1") for head in june.heads] == [
            "/messages/",
            "/messages",
            "/messages",
        ]


async def test_taken_without_an_id_is_taken(tmp_path: Path) -> None:
    """Garbage, endless or no JSON with a 201: the message is not posted again."""
    answers = [
        Reply(body=b"{"), Reply(body=[]), Reply(body={"result": {"message_id": 5}}),
        Reply(body=b"[" * 9000), Reply(204, body=b""),
        Reply(raw=b"HTTP/1.1 201 X\r\nContent-Length: 999999\r\n\r\n" + b"x" * 200_000),
    ]  # fmt: skip
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.script.extend(answers)
        for number in range(len(answers) + 1):
            await post(service, message(f"m{number}"))
            await june.has(number + 1)
            await emptied(service)
        assert june.contents == [f"you said m{number}" for number in range(len(answers) + 1)]


async def test_a_refusal_is_a_nack_for_the_app(tmp_path: Path) -> None:
    """It leaves the outbox, with Junebug's reason, and holds nothing back."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        reason = {"result": {"errors": [{"type": "MessageNotFound", "message": "m1 not found\n"}]}}
        june.script.append(Reply(400, body=reason))
        await post(service, message("m1"))
        await post(service, message("m2"))
        (nack,) = await events(service, 1)
        assert nack["event_type"] == "nack"
        assert nack["nack_reason"] == "it answered 400: m1 not found"
        assert nack["user_message_id"] == june.posts[0]["event_url"].split("/")[-1]
        await june.has(2)
        await emptied(service)


async def test_a_nack_that_the_app_cannot_take_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is offered several times; then its message leaves the outbox all the same."""
    monkeypatch.setattr(link, "NACK_TRIES", 3)
    take_in, tries = link.JunebugLink.take_in, 0

    async def full(self: link.JunebugLink, kind: str, payload: Any, size: int) -> Answer:
        nonlocal tries
        if kind == "message":
            return await take_in(self, kind, payload, size)
        tries += 1
        return Rejected("overloaded", "the app is full", retry_after=1.0)

    monkeypatch.setattr(link.JunebugLink, "take_in", full)
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.script.append(Reply(400))
        await post(service, message("m1"))
        await june.has(1)
        await emptied(service)
        sent = june.posts[0]["event_url"].split("/")[-1]
    assert tries == 3
    assert f"channel menu: the app gets no nack for message {sent}: the app is full" in caplog.text


async def test_a_message_that_junebug_never_takes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, if it takes others: else it would hold back its user for ever."""
    monkeypatch.setattr(link, "GIVE_UP_SECONDS", 0.2)
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.by_content["you said a1"] = deque([Reply(500)] * 100_000)
        await post(service, message("a1", "+27a"))
        await post(service, message("a2", "+27a"))
        await june.has(20)
        await post(service, message("b1", "+27b"))
        await eventually(lambda: "you said a2" in june.contents)
        (nack,) = await events(service, 1)
        assert nack["nack_reason"].startswith("it answered 500")


async def test_a_junebug_that_is_gone_costs_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The channel says so; its messages are still taken, and wait; other channels are served; when
    it is back it gets all of them.
    """
    (port,) = free_ports(1)
    async with running(folder_for(tmp_path, f"http://u:secret@127.0.0.1:{port}/c")) as service:
        for number in range(5):
            await post(service, message(f"m{number}", f"+27{number}"))
        await eventually(lambda: service.channels.state("menu").state == "down")
        problem = service.channels.state("menu").problem
        assert problem == (f"Junebug, http://127.0.0.1:{port}/c: no answer: Connection refused")
        assert "secret" not in caplog.text
        async with connect(service.gateway_url) as client:
            assert (await client.say("hi"))[0]["outcome"] == "ok"
        assert await waiting(service) == 5
        async with junebug(port) as june:
            await june.has(5)
            assert sorted(june.contents) == [f"you said m{number}" for number in range(5)]
            assert "Basic dTpzZWNyZXQ=" in june.heads[0]
            await eventually(lambda: service.channels.state("menu").state == "up")


async def test_a_slow_junebug_holds_up_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posts that are not answered are given up and made again; messages are taken meanwhile."""
    monkeypatch.setattr(poster, "SECONDS", 0.2)
    never = trio.Event()
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        june.script.extend([Reply(wait=never)] * 20)
        for number in range(20):
            await post(service, message(f"m{number}", f"+27{number}"))
        async with connect(service.gateway_url) as client:
            assert (await client.say("hi"))[0]["outcome"] == "ok"
        await eventually(lambda: not june.script)
        monkeypatch.setattr(poster, "SECONDS", 60.0)  # a busy machine may need more than 0.2
        await eventually(lambda: len(set(june.contents)) == 20 and len(june.posts) >= 40)
        await emptied(service)


async def test_a_reload_sends_what_waits_to_the_new_junebug(tmp_path: Path) -> None:
    """A post in progress may finish: it is not made again at the other one."""
    gate = trio.Event()
    async with junebug() as old, junebug() as new:
        folder = folder_for(tmp_path, old.url)
        async with running(folder) as service:
            old.script.append(Reply(wait=gate))
            old.by_content["you said m2"] = deque([Reply(500)] * 10_000)
            await post(service, message("m1", "+27a"))
            await post(service, message("m2", "+27b"))
            await old.has(3)
            folder.text = folder.text.replace(old.url, new.url)
            assert folder.config.exists()
            assert (await service.reload())["ok"]
            gate.set()
            await new.has(1)
            await emptied(service)
            assert new.contents == ["you said m2"]
            assert old.contents.count("you said m1") == 1
