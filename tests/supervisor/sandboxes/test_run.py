"""What one run asks for: what waits for what, and what a failure leaves of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from supervisor.errors import AppFailed
from supervisor.sandboxes.protocol import ConsoleLine, Request

from ...apps import make_app
from .processes import booted


async def test_commands_with_large_answers_are_carried_out_one_after_the_other() -> None:
    """Nothing else waits for them; who asks for the list of groups thirty times at once has one
    answer of megabytes in memory.
    """
    app = make_app(
        "var left = 12; ['groups.list', 'kv.get', 'contacts.search', 'groups.search']"
        ".forEach(function (name) { for (var i = 0; i < 3; i++) api.request(name, {n: i}, "
        "function () { if (--left === 0) api.done(); }); });"
    )
    large, most, order = 0, 0, list[tuple[str, int]]()
    small = trio.Event()

    async def answer(asked: Request | ConsoleLine) -> dict[str, object]:
        nonlocal large, most
        assert isinstance(asked, Request)
        if asked.name == "kv.get":
            small.set()
            return {"success": True}
        order.append((asked.name, asked.fields["n"]))
        large += 1
        most = max(most, large)
        await small.wait()
        await trio.testing.wait_all_tasks_blocked()
        large -= 1
        return {"success": True}

    async with booted(app) as sandbox:
        with trio.fail_after(60):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert most == 1
    names = ("groups.list", "contacts.search", "groups.search")
    assert order == [(name, n) for name in names for n in range(3)]


async def test_what_cannot_be_written_takes_nothing_else_with_it() -> None:
    """A run that fails for two commands that are no JSON has sent what came with them."""
    app = make_app(
        "api.request('a.before', {}); api.request('a.b', {f: 1n}); api.request('a.b', {f: 1n}); "
        "api.request('a.b', {toJSON: function () { return 1; }}); api.request('a.after', {});"
    )
    asked = list[str]()

    def answer(request: Request | ConsoleLine) -> dict[str, object]:
        assert isinstance(request, Request)
        asked.append(request.name)
        return {"success": True}

    async with booted(app) as sandbox:
        with pytest.raises(AppFailed, match="BigInt"):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert asked == ["a.before", "a.after"]
