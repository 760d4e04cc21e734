"""Replies that are cut off: whether the user still waits for an answer."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from resources.contract import Caller
from resources.outbound import Outbound, OutboundSettings, Reply


class Stuck:
    """An outbox that never says whether it has a message."""

    async def post_once(self, *_: Any) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize(("origin", "replied"), [("journal:1-0", False), ("", True)])
async def test_a_reply_cut_off_in_the_middle(origin: str, *, replied: bool) -> None:
    """By the end of its process, say, while it waits behind other commands: nobody knows whether it
    was posted. The fallback reply takes its slot, so that the user gets one of them; a user whose
    replies have no slots might get both.
    """
    message = dict.fromkeys(
        ("transport_name", "transport_type", "provider", "group", "from_addr_type", "to_addr_type")
    ) | {
        "message_id": "m",
        "from_addr": "+1",
        "to_addr": "2",
        "helper_metadata": {},
        "transport_metadata": {},
        "routing_metadata": {},
    }
    settings = {OutboundSettings: OutboundSettings({}, ())}
    log: Any = None
    caller = Caller("run", "acct", "app", "phone", message, settings, log, origin)
    outbound = Outbound(Stuck())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbound.reply_to, caller, Reply(content="hi", in_reply_to="m"))
        await trio.testing.wait_all_tasks_blocked()
        assert caller.replied
        nursery.cancel_scope.cancel()
    assert caller.replied is replied
