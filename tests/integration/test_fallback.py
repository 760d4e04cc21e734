"""A reply of which nobody knows whether it was posted, since the store was lost at it: the user
gets one answer, the app's or the fallback, and never both.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..gateway_client import connect
from ..service import Folder, running
from ..store_faults import cut
from ..store_proxy import StoreProxy

THROWS = """
var reply = {content: 'from the app', in_reply_to: command.msg.message_id};
api.request('outbound.reply_to', reply, function (answer) {
    if (!answer.success) throw new Error(answer.reason);
    api.done();
});
"""


@pytest.mark.parametrize(
    ("is_posted", "answer", "cuts"),
    [(True, "from the app", 1), (False, "sorry", 1), (False, "sorry", 2)],
)
async def test_a_reply_that_may_be_posted(
    tmp_path: Path, proxy: StoreProxy, *, is_posted: bool, answer: str, cuts: int
) -> None:
    """The connection is cut at the app's reply, and again at the fallback."""
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{proxy.url}"\n'
    folder.app("phone", THROWS, 'limits = { fallback_reply = "sorry" }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        with proxy.fault(cut(after=is_posted), "outbox_post", times=cuts):
            outcome, _ = await client.say("hello", "new", message_id="m1")
        assert outcome["outcome"] == "app_error"
        reply = await client.expect("outbound")
        assert reply["msg"]["in_reply_to"] == "m1"
        assert reply["msg"]["content"] == answer
        outcome, replies = await client.say("hello", "new", message_id="m2")
        assert [one["content"] for one in replies] == ["from the app"]
        again = [frame for frame in client.frames if frame["type"] == "outbound"]
        assert {frame["msg"]["message_id"] for frame in again} <= {
            reply["msg"]["message_id"],
            replies[0]["message_id"],
        }
