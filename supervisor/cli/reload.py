"""`jsbox reload`, of one server, or of all that share the work, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import httpx2

from resources.text import visible

from ..config import Config
from .client import Unreachable, admin_client, error_of, json_of, reaching
from .codes import EXIT_CONFIG, EXIT_FAILED, EXIT_UNREACHABLE
from .common import config_option, json_option, load_or_exit, print_json
from .hosts import host_option

SECONDS = 130.0  # for the answer to one reload; the server gives up after 120 s
READY_SECONDS = 60.0  # that a server has to be ready again
SAME_SECONDS = 5.0  # until each has said which config it runs
LOOK = 0.2  # seconds between two looks
PARTS = (("live", "live"), ("next process", "next_process"), ("needs a restart", "restart"))
CODES = {
    "reloaded": 0,
    "refused": EXIT_CONFIG,
    "not reloaded": EXIT_FAILED,
    "not ready": EXIT_FAILED,
}
DONE = (httpx2.codes.OK, httpx2.codes.UNPROCESSABLE_CONTENT)

Host = Mapping[str, Any]


@click.command()
@click.option(
    "--all",
    "of_all",
    is_flag=True,
    help="Of all servers that share the work: one after the other, each when the one before is"
    " ready again. One that refuses stops the rest.",
)
@host_option
@config_option
@json_option
def reload(*, of_all: bool, host: str | None, config_file: Path, as_json: bool) -> None:
    """Make the server reload its config, wholly or not at all.

    Each server reads the config file of its own machine.
    """
    config = load_or_exit(config_file)
    if of_all:
        if host is not None:
            raise click.UsageError("--all and --host: expected one of them")
        _Rolling(config, as_json=as_json).run()
    with admin_client(config, SECONDS) as client:
        asked = {} if host is None else {"host": host}
        body = json_of(client.post("/v1/reload", params=asked))
    if as_json:
        print_json(body)
    else:
        _show(body)
    sys.exit(0 if body["ok"] else EXIT_CONFIG)


def _show(body: Mapping[str, Any]) -> None:
    if body["ok"]:
        for title, key in PARTS:
            for name in body[key]:
                click.echo(f"{title:16} {name}")
        if not any(body[key] for _, key in PARTS):
            click.echo("nothing has changed")
        return
    for error in body["errors"]:
        click.echo(visible(error), err=True)
    click.echo("jsbox: the server keeps its old config", err=True)


class _Rolling:
    """A reload of all servers, one after the other. Each gets a state: `reloaded`, `refused` (it
    keeps its old config), `not reloaded` (it was not tried: the token may only read, say), `not
    ready` (reloaded, but it is not ready again), `no answer` (whether it has reloaded is not
    known), or `not asked`.
    """

    def __init__(self, config: Config, *, as_json: bool) -> None:
        self.config = config
        self.as_json = as_json

    def run(self) -> None:
        """Do it, and exit with the code for what came of it."""
        with admin_client(self.config) as client:
            found = json_of(client.get("/v1/hosts"))["hosts"]
        # This one last: a token that the new config no longer has is good for the others.
        hosts = sorted(found, key=lambda one: (one["is_this"], one["name"], one["id"]))
        hosts = [one for one in hosts if one["state"] == "serving"]
        hosts = hosts or [{"id": "", "name": "this server", "is_this": True}]
        rows, state = list[dict[str, Any]](), "reloaded"
        for host in hosts:
            who = {"id": host["id"], "name": host["name"]}
            more: Mapping[str, Any] = {}
            if state == "reloaded":
                state, more = self._one(host)
                rows.append({**who, "state": state, **more})
            else:
                rows.append({**who, "state": "not asked"})
            if not self.as_json:
                _show_row(rows[-1])
        differ = self._difference() if state == "reloaded" and len(hosts) > 1 else ""
        if self.as_json:
            print_json({"ok": state == "reloaded", "hosts": rows, "difference": differ})
        else:
            _show_end(rows, differ)
        sys.exit(CODES.get(state, EXIT_UNREACHABLE))

    def _one(self, host: Host) -> tuple[str, Mapping[str, Any]]:
        """Reload one; its state, and what its answer says."""
        # By its name, this one could not be asked whether it is ready with a token that it lost.
        named = {} if host["is_this"] else {"host": host["id"]}
        try:
            with reaching(self.config, SECONDS) as client:
                answer = client.post("/v1/reload", params=named)
                if answer.status_code == httpx2.codes.GATEWAY_TIMEOUT:
                    return "no answer", {"errors": [error_of(answer)]}
                if answer.status_code not in DONE:
                    return "not reloaded", {"errors": [error_of(answer)]}
                body = json_of(answer)
        except Unreachable as error:
            return "no answer", {"errors": [str(error)]}
        if not body["ok"]:
            return "refused", {"errors": body["errors"]}
        changed = {key: body[key] for _, key in PARTS}
        problem = self._wait_ready(named)
        return ("not ready", {**changed, "errors": [problem]}) if problem else ("reloaded", changed)

    def _wait_ready(self, named: Mapping[str, str]) -> str:
        """Wait until a server is ready; what is wrong if it is not in time."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with reaching(self.config) as client:
                    answer = client.get("/readyz", params=dict(named))
                if answer.status_code == httpx2.codes.OK:
                    return ""
                problem = " ".join(answer.text.split())
            except Unreachable as error:
                problem = str(error)
            if time.monotonic() > deadline:
                return f"it is not ready after {READY_SECONDS:g} s: {problem}"
            time.sleep(LOOK)

    def _difference(self) -> str:
        """What is different between the configs that the servers run now; "" if nothing, or if our
        token is none any more.
        """
        with admin_client(self.config) as client:
            deadline = time.monotonic() + SAME_SECONDS
            while True:
                answer = client.get("/v1/hosts")
                if answer.status_code == httpx2.codes.UNAUTHORIZED:
                    return ""
                hosts = json_of(answer)["hosts"]
                if len({one["config"] for one in hosts}) <= 1:
                    return ""
                if time.monotonic() > deadline:
                    return ", ".join(f"{one['name']} {one['config']}" for one in hosts)
                time.sleep(LOOK)


def _show_row(row: Mapping[str, Any]) -> None:
    changed = [name for _, key in PARTS for name in row.get(key, ())]
    what = f": {', '.join(changed)}" if changed else ""
    click.echo(f"{visible(row['name'])}  {row['state']}{what}")
    for error in row.get("errors", ()):
        click.echo(f"    {visible(error)}", err=True)


def _show_end(rows: Sequence[Mapping[str, Any]], differ: str) -> None:
    count = sum(row["state"] in ("reloaded", "not ready") for row in rows)
    if rows[-1]["state"] == "not asked" or count < len(rows):
        text = f"stopped: {count} of {len(rows)} servers have reloaded their config"
        click.echo(f"jsbox: {text}", err=True)
    if differ:
        click.echo(
            f"jsbox: warning: the servers run different configs ({visible(differ)}):"
            " is the file, and each app, the same on all machines?",
            err=True,
        )
