"""Services with a channel of type http whose Junebug is scripted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from supervisor.service import Service

from ...gateway_client import PATIENCE
from ...junebug import ask, request
from ...service import ECHO, Folder

APP = """
var timers = require('timers');
api.on_inbound_message = function (command) {
  var msg = command.msg, done = function () { api.done(); };
  var words = msg.content.split(' ');
  if (words[0] === 'send') {
    api.request('outbound.send_to_endpoint',
      {endpoint: 'default', to_addr: words[1], content: words[2]}, done);
  } else {
    api.request('outbound.reply_to', {content: 'you said ' + msg.content,
      in_reply_to: msg.message_id, continue_session: msg.content !== 'bye'}, done);
  }
};
api.on_inbound_event = function (command) {
  api.log_info(JSON.stringify(command.msg), function () { api.done(); });
};
"""


def folder_for(path: Path, url: str, more: str = "") -> Folder:
    folder = Folder(path)
    folder.text += '[gateway]\nmax_frame = "8KiB"\n'
    folder.app("menu", APP, 'events = "always"\nmodules = ["timers"]')
    folder.text += f'type = "http"\nurl = "{url}"\nfrom_addr = "*120*1#"\n{more}\n'
    folder.app("phone", ECHO)
    return folder


async def post(service: Service, body: Any, what: str = "messages") -> dict[str, Any]:
    answer = await ask(service.gateway.port, request(f"/channels/menu/{what}", body))
    assert answer.status == 200, answer
    assert answer.body["status"] == 200
    result: dict[str, Any] = answer.body["result"]
    return result


async def events(service: Service, count: int) -> list[dict[str, Any]]:
    """The events that the app has had, oldest first."""
    while True:
        entries = await service.stores.logbook.newest("acct", "menu", 100)
        found = [json.loads(one.message) for one in entries if one.message.startswith("{")]
        if len(found) >= count:
            return found[::-1]
        await trio.sleep(0.01)


async def waiting(service: Service) -> int:
    return await service.stores.outbox.waiting("menu")


async def emptied(service: Service) -> None:
    """Wait until nothing is in the outbox."""
    with trio.fail_after(PATIENCE):
        while await waiting(service):
            await trio.sleep(0.01)
