"""`jsbox types`: what the sandbox gives an app, for TypeScript. Made from the tables of the
resources, so it is always what this version has.
"""

from __future__ import annotations

import types as python
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import click

from resources.config import ConfigResource
from resources.contacts import ContactsResource
from resources.contract import Command, Resource
from resources.groups import GroupsResource
from resources.http import Http
from resources.kv import Kv
from resources.log import LogResource
from resources.messagestore import Messagestore
from resources.metrics import Metrics
from resources.optout import OptoutResource
from resources.outbound import Outbound

RESOURCES: Sequence[type[Resource]] = (
    ConfigResource,
    ContactsResource,
    GroupsResource,
    Http,
    Kv,
    LogResource,
    Messagestore,
    Metrics,
    OptoutResource,
    Outbound,
)
PLAIN: Mapping[Any, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
HEAD = """\
// What the sandbox of jsbox gives an app; made by `jsbox types`. docs/resources.md explains it.

interface InboundMessage {
  message_id: string;
  from_addr: string | null;
  to_addr: string | null;
  content: string | null;
  session_event: 'new' | 'resume' | 'close' | null;
  in_reply_to: string | null;
  timestamp: string;
  transport_name: string | null;
  transport_type: string | null;
  helper_metadata: { [key: string]: any };
  [field: string]: any;
}

interface InboundEvent {
  event_id: string;
  event_type: 'ack' | 'nack' | 'delivery_report';
  user_message_id: string;
  [field: string]: any;
}

/** What each command takes, and what its reply has if it succeeds. */
interface Commands {
"""
TAIL = """\
}

type Command = keyof Commands;
type RequestOf<C extends Command> = Commands[C]['request'];
type SuccessOf<C extends Command> = { success: true } & Commands[C]['reply'];
type ReplyOf<C extends Command> = SuccessOf<C> | { success: false; reason: string };

interface Api {
  /** Ask for something; the callback gets the reply. */
  request<C extends Command>(
    command: C, fields: RequestOf<C>, callback?: (reply: ReplyOf<C>) => void,
  ): void;
  log_info(message: any, callback?: (reply: ReplyOf<'log.info'>) => void): void;
  /** The run is over: call it once, after everything else. */
  done(): void;
  on_inbound_message: (command: { msg: InboundMessage }) => void;
  on_inbound_event: (command: { msg: InboundEvent }) => void;
  on_unknown_command: (command: { [field: string]: any }) => void;
}

/** Lines in the app's log; an error is shown with the places in its source. */
interface Console {
  log(...values: any[]): void;
  info(...values: any[]): void;
  debug(...values: any[]): void;
  warn(...values: any[]): void;
  error(...values: any[]): void;
}

declare const api: Api;
declare var console: Console;
declare function require(name: string): any;
"""


@click.command()
def types() -> None:
    """Print the types of `api` and of every command, for TypeScript."""
    click.echo(declarations(), nl=False)


def declarations() -> str:
    """The text of a .d.ts file."""
    rows = [
        f"  '{name}': {{ request: {_request(command)}; reply: {_reply(command)} }};\n"
        for resource in RESOURCES
        for name, command in resource.COMMANDS.items()
    ]
    return HEAD + "".join(rows) + TAIL


def _request(command: Command) -> str:
    """The fields that a command takes; those with a default may be left out."""
    known = attrs.fields(attrs.resolve_types(command.request))
    fields = (
        f"{a.name}{'' if a.default is attrs.NOTHING else '?'}: {_type(a.type)}" for a in known
    )
    return _object(fields)


def _reply(command: Command) -> str:
    return _type(get_type_hints(command.handle)["return"])


def _type(kind: Any) -> str:
    """The TypeScript of a type; `any` if JSON of any kind is meant."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        found = PLAIN[kind]
    elif attrs.has(kind):
        known = attrs.fields(attrs.resolve_types(kind))
        found = _object(f"{a.name}: {_type(a.type)}" for a in known)
    elif origin is Coroutine:
        found = _type(inner[2])
    elif origin in {Union, python.UnionType}:
        found = _either(list(dict.fromkeys(map(_type, inner))))
    elif origin in {dict, Mapping}:
        found = f"{{ [key: string]: {_type(inner[1])} }}"
    elif origin in {list, tuple, Sequence}:
        found = f"Array<{_type(inner[0])}>"
    else:
        found = "any"
    return found


def _either(kinds: Sequence[str]) -> str:
    return "any" if "any" in kinds else " | ".join(kinds)


def _object(fields: Any) -> str:
    text = "; ".join(fields)
    return f"{{ {text} }}" if text else "{}"
