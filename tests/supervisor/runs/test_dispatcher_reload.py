"""A reload that removes an app, or moves it to another account, while messages wait for it."""

from __future__ import annotations

from resources.messages import complete_message
from resources.stores.journal import Entry, begun_key
from supervisor.service import Service

from ...gateway_client import connect, inbound
from ...service import ECHO, Folder, eventually, running


async def kill_busy(service: Service) -> None:
    """End the process that has a run, when it has come up."""
    await eventually(lambda: service.pool.statistics("phone").busy, 30)
    assert service.pool.kill(
        next(one.pid for one in service.pool.sandboxes() if one.state == "busy")
    )


SLOW = (
    f"require('timers').setTimeout(function () {{ {ECHO} }}, command.msg.content === 'slow'"
    f" ? 1e8 : 0);"
)
SLOW_APP = 'modules = ["timers"]\npool = { max_processes = 1 }\nlimits = { wall = "1h" }'


async def test_a_reload_that_removes_an_app_answers_what_waited(folder: Folder) -> None:
    """Credit comes back at once, each message has an outcome, nothing is counted as waiting; the
    run in progress ends as usual.
    """
    folder.text += "[gateway]\ncredit = 10\n"
    folder.app("other", ECHO)
    others = folder.text
    folder.app("phone", SLOW, SLOW_APP)
    whole = folder.text
    async with running(folder) as service:
        async with connect(service.gateway_url) as client:
            for number in range(10):
                await client.send(inbound("slow" if number == 0 else f"m{number}", f"+{number}"))
                await client.expect("accepted")
            await eventually(lambda: service.dispatcher.waiting("phone") == 9)
            await eventually(lambda: service.pool.statistics("phone").busy, 30)
            folder.text = others + '[channels.phone]\napp = ""\n'
            assert folder.config
            assert (await service.reload())["ok"]
            for number in range(1, 10):
                await client.expect("outcome", message_id=f"m{number}", outcome="shutdown")
            assert (await client.expect("credit"))["inbound"] == 5
            assert service.dispatcher.waiting("phone") == 0
            assert 'jsbox_queue_depth{app="phone"}' not in (await service.metrics()).decode()
            await client.send(inbound("x"))
            assert (await client.expect("rejected", id="x"))["code"] == "no_app"
            await kill_busy(service)
            await client.expect("outcome", message_id="slow", outcome="killed_by_operator")
            await eventually(lambda: "phone" not in service.dispatcher._lanes)
            assert service.dispatcher._known == set()
            folder.text = whole
            assert folder.config
            assert (await service.reload())["ok"]
            for number in range(1, 10):
                await client.expect("outcome", message_id=f"m{number}", outcome="ok")
            said = {
                frame["msg"]["content"] for frame in client.frames if frame["type"] == "outbound"
            }
            assert said == {f"you said m{number}" for number in range(1, 10)}


async def test_an_app_that_moves_to_another_account_takes_no_messages_along(folder: Folder) -> None:
    """What waited was for the app of the old account; it is run when the app is back there, and
    never by the new one's.
    """
    folder.app("phone", SLOW, SLOW_APP)
    whole = folder.text
    async with running(folder) as service, connect(service.gateway_url) as client:
        for name in ("slow", "m1"):
            await client.send(inbound(name, f"+{name}"))
            await client.expect("accepted")
        await eventually(lambda: service.dispatcher.waiting("phone") == 1)
        folder.text = whole.replace("acct", "another")
        assert folder.config
        assert (await service.reload())["ok"]
        await client.expect("outcome", message_id="m1", outcome="shutdown")
        await kill_busy(service)
        await client.expect("outcome", message_id="slow")
        outcome, _ = await client.say("hi", "new", message_id="m2")
        assert outcome["outcome"] == "ok"
        assert not [
            f for f in client.frames if f["type"] == "outbound" and f["msg"]["in_reply_to"] == "m1"
        ]
        folder.text = whole
        assert folder.config
        assert (await service.reload())["ok"]
        await client.expect("outcome", message_id="m1", outcome="ok")
        assert (
            await client.expect_that(
                lambda f: f["type"] == "outbound" and f["msg"]["in_reply_to"] == "m1"
            )
        )["msg"]["helper_metadata"]["go"]["user_account"] == "acct"


async def test_what_is_accepted_while_its_app_is_removed_gives_its_credit_back(
    folder: Folder,
) -> None:
    """An entry that comes when its app is gone already stays in the journal, and whoever brought it
    is told at once.
    """
    folder.app("phone", ECHO)
    async with running(folder) as service:
        told: list[str] = []
        fields = {"message_id": "m1", "from_addr": "+1"}
        message = complete_message(
            fields, transport_name="phone", transport_type="ussd", endpoint="default"
        )
        for account, app in (("acct", "gone"), ("another", "phone")):
            service.dispatcher.submit(
                Entry("message", account, app, "phone", message), "1-1", lambda: told.append("then")
            )
        assert told == ["then", "then"]
        assert service.dispatcher._known == set()
        assert not service.dispatcher.has_room("gone")
        assert not service.dispatcher.is_tripped("gone")


async def test_an_app_that_is_removed_while_its_process_boots(folder: Folder) -> None:
    """Its run has not begun: it ends as what waits does, with no word to the user and no mark
    against the app or the message, and is run when the app is back.
    """
    folder.app("other", ECHO)
    others = folder.text
    limits = 'limits = { boot = "60s", cpu = "60s", fallback_reply = "sorry" }'
    folder.app("phone", f"while (true) ;\n{ECHO}", limits)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for name in ("m1", "m2"):
            await client.send(inbound(name, f"+{name}"))
            await client.expect("accepted")
        await eventually(lambda: service.pool.statistics("phone").booting, 30)
        assert not service.dispatcher.waiting("phone")
        before = await service.stores.redis.execute("HGETALL", begun_key("acct", "phone"))
        assert sorted(before[1::2]) in (["1", "1"], [b"1", b"1"])
        folder.text = others + '[channels.phone]\napp = ""\n'
        assert folder.config
        assert (await service.reload())["ok"]
        for name in ("m1", "m2"):
            await client.expect("outcome", message_id=name, outcome="shutdown")
        assert service.dispatcher._known == set()
        assert "phone" not in service.dispatcher._lanes
        counts = await service.stores.redis.execute("HGETALL", begun_key("acct", "phone"))
        assert {int(count) for count in counts[1::2]} <= {0}
        log = await service.stores.logbook.newest("acct", "phone", 50)
        assert not [entry for entry in log if "reload" in entry.message]
        folder.text = others
        folder.app("phone", ECHO)
        assert folder.config
        assert (await service.reload())["ok"]
        for name in ("m1", "m2"):
            await client.expect("outcome", message_id=name, outcome="ok")
        said = [f["msg"]["content"] for f in client.frames if f["type"] == "outbound"]
        assert sorted(said) == ["you said m1", "you said m2"]
        assert not service.pool.crashes.in_trouble(service.dispatcher.programs["phone"].app)


async def test_an_app_that_is_back_before_its_removal_was_noticed(folder: Folder) -> None:
    """Two reloads in a row while its process boots: its message is still run, once."""
    slow = f"var end = Date.now() + 2000; while (Date.now() < end) ;\n{ECHO}"
    folder.app("phone", slow, 'limits = { boot = "60s", cpu = "60s" }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.send(inbound("m1"))
        await client.expect("accepted")
        await eventually(lambda: service.pool.statistics("phone").booting, 30)
        programs = service.dispatcher.programs
        service.dispatcher.update({})
        service.dispatcher.update(programs)
        await client.expect("outcome", message_id="m1", outcome="shutdown")
        await client.expect("outcome", message_id="m1", outcome="ok")
        said = [f["msg"]["content"] for f in client.frames if f["type"] == "outbound"]
        assert said == ["you said m1"]
