"""`jsbox push`: makes an app start conversations, through a running server.

A push to a group, to the addresses of a file, or with a rate is sent in parts by this command. Its
list of addresses and how far it has come are in a file: called again after an interruption, it goes
on. The server knows the push by an id, so that a part whose answer was lost is not sent twice.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import httpx2
import msgspec
from attrs import define, field

from resources.text import visible

from ..config import Config
from .client import admin_client, error_of, json_of, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json
from .groups import all_groups

PART = 100  # addresses in one request
FILE_MAX = 64 << 20  # bytes of a file of addresses
RESUMABLE = 23 * 3600  # seconds since it was written; the server knows a push for a day
KEEP_SECONDS = 1.0  # between two writes of how far it has come: all addresses are in the file
SECONDS = 120.0  # for one answer: a full queue is waited for
COUNTS = ("queued", "opted_out", "no_address", "already")


class _State(msgspec.Struct):
    """What is kept of a push; `done` of the addresses were answered for."""

    app: str
    target: str
    id: str
    addresses: list[str]
    counts: dict[str, int]
    done: int = 0
    at: float = 0.0  # when it was written, seconds since 1970


def _number(_context: click.Context, _parameter: click.Parameter, rate: Any) -> Any:
    if rate is not None and math.isnan(rate):  # in no range, and refused by none
        raise click.BadParameter("expected a number, got nan")
    return rate


@click.command()
@click.argument("app")
@click.argument("addresses", nargs=-1)
@click.option("--group", help="Push to every contact of this group, by its name or key.")
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Push to the addresses of this file, one a line.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 10_000),
    callback=_number,
    help="Addresses a second, at most.",
)
@click.option("--dry-run", is_flag=True, help="Only count who would get it.")
@click.option("--restart", is_flag=True, help="Begin anew, even if a push was interrupted.")
@config_option
@json_option
def push(
    *,
    app: str,
    addresses: tuple[str, ...],
    group: str | None,
    file: Path | None,
    rate: float | None,
    dry_run: bool,
    restart: bool,
    config_file: Path,
    as_json: bool,
) -> None:
    """Make an app start a conversation with each address that has not opted out.

    A push to a group or with a rate is sent in parts. What it has done is kept in push-APP-ID.json
    in the current folder until its end; after an interruption, call it again to go on. For a day
    nobody gets it twice.
    """
    if sum(map(bool, (addresses, group, file))) != 1:
        raise click.UsageError("expected ADDRESSES, or --group NAME, or --file FILE")
    config = load_or_exit(config_file)
    with admin_client(config) as client:
        target = f"group {_group_key(client, config, app, group)}" if group else "addresses"
        given = _read(file) if file else list(addresses)
        work = _Work(client, app, _state_file(app, target, given), rate, as_json)
        if dry_run:
            counts = work.dry_run(target, given)
        elif addresses and rate is None and len(addresses) <= PART:
            body = json_of(client.post(work.path, json={"addrs": given}, timeout=SECONDS))
            counts = {name: body[name] for name in COUNTS}
        else:
            counts = work.run(target, given, restart=restart)
    if as_json:
        print_json(counts | ({"dry_run": True} if dry_run else {}))
        return
    queued = "would be queued" if dry_run else "queued"
    again = f", {counts['already']} queued before" if counts["already"] else ""
    click.echo(
        f"{'dry run: ' if dry_run else ''}{counts['queued']} {queued},"
        f" {counts['opted_out']} opted out, {counts['no_address']} without address{again}"
    )


def _group_key(client: httpx2.Client, config: Config, app: str, given: str) -> str:
    """The key of a group that is given by its key or name."""
    settings = config.apps.get(app)
    if settings is None:
        fail(f"there is no app {app!r}")
    groups = all_groups(client, settings.account)
    if any(one["key"] == given for one in groups):
        return given
    named = [one["key"] for one in groups if one["name"] == given]
    if len(named) > 1:
        fail(f"several groups are named {given!r}; give the key of one: {', '.join(named)}")
    if not named:
        fail(f"account {settings.account} has no group {given!r}; see: jsbox groups list")
    return str(named[0])


def _read(file: Path) -> list[str]:
    if file.stat().st_size > FILE_MAX:
        fail(f"{file} has more than {FILE_MAX} bytes")
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8")
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        fail(f"{file} has no addresses: expected one a line")
    return found


def _state_file(app: str, target: str, given: Sequence[str]) -> Path:
    digest = hashlib.sha256("\n".join([target, *given]).encode()).hexdigest()[:12]
    return Path(f"push-{re.sub(r'[^A-Za-z0-9._-]', '_', app)}-{digest}.json")


@define
class _Work:
    """One push, sent in parts."""

    client: httpx2.Client
    app: str
    file: Path
    rate: float | None
    is_quiet: bool
    _due: float = field(default=0.0, init=False)  # when the next part may go

    @property
    def path(self) -> str:
        """Where pushes are posted."""
        return path_of("v1", "apps", self.app, "push")

    def dry_run(self, target: str, given: list[str]) -> dict[str, int]:
        """Count who would get it."""
        state = self._begin(target, given)
        for start in range(0, len(state.addresses), PART):
            part = state.addresses[start : start + PART]
            _count(state, self._post(state, part, is_dry=True))
        return state.counts

    def run(self, target: str, given: list[str], *, restart: bool) -> dict[str, int]:
        """Push to all that is left; return the counts of the whole push."""
        state = None if restart else self._left(target)
        if state is None:
            state = self._begin(target, given)
            self._keep(state)
        elif not self.is_quiet:
            click.echo(f"{self.file}: going on after {state.done} addresses", err=True)
        with self._progress(state) as show:
            try:
                self._send(state, show)
            except httpx2.TransportError:
                done = f"{state.done} of {len(state.addresses)} addresses are done"
                click.echo(f"{self.file}: {done}; call it again to go on", err=True)
                raise
            finally:
                self._keep(state)
        self.file.unlink()
        return state.counts

    def _send(self, state: _State, show: Callable[[int], None]) -> None:
        size = PART if self.rate is None else max(1, min(PART, int(self.rate)))
        while state.done < len(state.addresses):
            part = state.addresses[state.done : state.done + size]
            self._pace(len(part))
            _count(state, self._post(state, part))
            state.done += len(part)
            if time.time() - state.at >= KEEP_SECONDS:
                self._keep(state)
            show(state.done)

    def _begin(self, target: str, given: list[str]) -> _State:
        """A new push: the addresses of a group, each person once, are read now."""
        counts = dict.fromkeys(COUNTS, 0)
        if given:
            return _State(self.app, target, uuid4().hex, list(dict.fromkeys(given)), counts)
        seen: dict[str, str] = {}
        cursor: str | None = "0"
        while cursor is not None:
            asked = {"group": target.removeprefix("group "), "cursor": cursor}
            url = path_of("v1", "apps", self.app, "audience")
            page = json_of(self.client.get(url, params=asked, timeout=SECONDS))
            for address, same in page["addrs"]:
                seen.setdefault(same, address)
            counts["no_address"] += page["no_address"]
            cursor = page["cursor"]
        return _State(self.app, target, uuid4().hex, list(seen.values()), counts)

    def _left(self, target: str) -> _State | None:
        """A push that was interrupted."""
        if not self.file.exists():
            return None
        try:
            state = msgspec.json.decode(self.file.read_bytes(), type=_State)
        except (ValueError, OSError) as error:
            fail(f"{self.file} cannot be read ({error}): use --restart")
        if (state.app, state.target) != (self.app, target):
            fail(f"{self.file} is of another push: use --restart")
        if time.time() - state.at > RESUMABLE:
            fail(
                f"{self.file}: this push was interrupted more than a day ago, after {state.done} of"
                f" {len(state.addresses)} addresses; it can only be begun anew: use --restart"
            )
        return state

    def _keep(self, state: _State) -> None:
        state.at = time.time()
        draft = self.file.with_name(self.file.name + ".new")
        draft.write_bytes(msgspec.json.encode(state))
        draft.replace(self.file)

    def _pace(self, count: int) -> None:
        """Wait until `count` more may go."""
        if self.rate is None:
            return
        now = time.monotonic()
        time.sleep(max(self._due - now, 0))
        self._due = max(self._due, now) + count / self.rate

    def _post(self, state: _State, part: list[str], *, is_dry: bool = False) -> dict[str, Any]:
        body: dict[str, Any] = {"addrs": part, "id": state.id}
        if is_dry:
            body["dry_run"] = True
        answer = self.client.post(self.path, json=body, timeout=SECONDS)
        if answer.is_error:
            resume = "" if is_dry else "; call it again to go on"
            fail(f"{error_of(answer)}{resume}")
        return dict(answer.json())

    @contextmanager
    def _progress(self, state: _State) -> Iterator[Callable[[int], None]]:
        from rich.console import Console
        from rich.progress import Progress

        title = f"push to {visible(self.app)}"
        with Progress(console=Console(stderr=True), disable=self.is_quiet) as progress:
            bar = progress.add_task(title, total=len(state.addresses), completed=state.done)
            yield lambda done: progress.update(bar, completed=done)


def _count(state: _State, answer: dict[str, Any]) -> None:
    for name in COUNTS:
        state.counts[name] += answer.get(name, 0)
