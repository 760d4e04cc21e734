"""What one user's message leaves behind in a process never reaches another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..gateway_client import Client, connect
from ..service import Folder, running

ONE_PROCESS = "\npool.max_processes = 1"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# Does what the message says, as an app does that compiles templates; replies with the result.
APP = """
var _ = require('lodash'), moment = require('moment'), Q = require('q');
api.on_inbound_message = function (command) {
    var said = String(eval(command.msg.content));
    var reply = {content: said, in_reply_to: command.msg.message_id};
    api.request('outbound.reply_to', reply, function () { api.done(); });
};"""


async def say(client: Client, code: str) -> str:
    outcome, replies = await client.say(code, "new")
    assert outcome["outcome"] == "ok", outcome
    return str(replies[0]["content"])


async def test_another_users_language_and_hooks_do_not_reach_the_next(folder: Folder) -> None:
    folder.app("phone", APP, f'modules = ["lodash", "moment", "q"]{ONE_PROCESS}')
    date = "moment.utc(0).format('dddd')"
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert await say(client, date) == "Thursday"
        assert await say(client, f"moment.locale('fr'); {date}") == "jeudi"
        assert await say(client, date) == "Thursday"
        hook = "_.template = function (text) { return function () { return 'hooked'; }; }; 1"
        assert await say(client, hook) == "1"
        assert await say(client, "_.template('<%= a %>')({a: 'mine'})") == "mine"


async def test_a_process_that_cannot_be_put_back_takes_no_other_run(folder: Folder) -> None:
    """Its message is answered; the next one gets a new process, and the app's log says why."""
    folder.app("phone", APP, f'modules = ["lodash", "moment", "q"]{ONE_PROCESS}')
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert await say(client, "Object.freeze(_); Object.isFrozen(_)") == "true"
        assert await say(client, "Object.isFrozen(_)") == "false"
        entries = await service.stores.logbook.newest("acct", "phone", 1000)
        warned = [entry.message for entry in entries if entry.level == "WARNING"]
        what = "lodash was frozen by a run, and cannot be put back"
        assert warned == [f"this process takes no more messages: {what}"]


@pytest.mark.slow
async def test_rejections_that_nobody_handles_in_q_do_not_fill_the_heap(folder: Folder) -> None:
    folder.app(
        "phone",
        APP,
        f'modules = ["lodash", "moment", "q"]{ONE_PROCESS}\nlimits.heap = "32MiB"',
    )
    keep = "var data = []; for (var i = 0; i < 20000; i++) data.push(i); Q.reject(data); 1"
    async with running(folder) as service, connect(service.gateway_url) as client:
        for _ in range(150):
            assert await say(client, keep) == "1"
