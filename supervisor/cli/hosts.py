"""What the commands share that ask one of several servers, or all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import httpx2
from attrs import field, frozen

from resources.text import visible

from .client import error_of, json_of
from .codes import EXIT_UNREACHABLE

ALL = "all"

host_option = click.option(
    "--host",
    metavar="HOST",
    help="Of this server, or of all, if several share the work: its id, name or machine.",
)


@frozen
class Found:
    """What one server answers.

    Attributes:
        id, name: Of the server; empty if none was named.
        bodies: What it answers to each path; empty if it did not answer.
        error: Why it did not.
    """

    id: str = ""
    name: str = ""
    is_this: bool = False
    bodies: Sequence[Any] = field(factory=list)
    error: str = ""

    def row(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One of the rows that are printed as JSON for all hosts."""
        who = {"id": self.id, "name": self.name, "is_this": self.is_this}
        return {**who, "error": self.error} if self.error else {**who, **body}

    def show_name(self) -> None:
        """Print a line above what belongs to this server, or why there is nothing."""
        if self.error:
            click.echo(click.style(visible(self.error), fg="red"))
        else:
            this = ", this one" if self.is_this else ""
            click.echo(click.style(f"host {visible(self.name)}{this}", bold=True))


def ask_hosts(
    client: httpx2.Client, paths: Sequence[str], host: str | None, **asked: Any
) -> list[Found]:
    """What the servers answer that are asked for: this one, another, or each that lives.

    Args:
        client: Of the admin port.
        paths: What each is asked for.
        host: Its name, or `all`; None: the one whose port it is.
        asked: Added to the query of each path.
    """
    if host != ALL:
        more = asked if host is None else asked | {"host": host}
        return [Found(bodies=[_body(client.get(path, params=more)) for path in paths])]
    found = list[Found]()
    rows = json_of(client.get(paths[0], params=asked | {"host": ALL}))["hosts"]
    for row in rows:
        who = Found(row["id"], row["name"], row["is_this"])
        if "error" in row:
            found.append(_silent(who, row["error"]))
            continue
        if row["status"] >= httpx2.codes.BAD_REQUEST and isinstance(row["answer"], dict):
            error = row["answer"].get("error", str(row["answer"]))
            found.append(_silent(who, f"host {who.name}: {error}"))
            continue
        found.append(_rest(client, who, row["answer"], paths[1:], asked))
    return found


def _rest(
    client: httpx2.Client, who: Found, first: Any, paths: Sequence[str], asked: Mapping[str, Any]
) -> Found:
    """The other answers of a server; a host that is alone has no id to ask it by."""
    more = {**asked, "host": who.id} if who.id else asked
    bodies = [first]
    for path in paths:
        answer = client.get(path, params=more)
        if answer.is_error and not _is_text(answer):
            return _silent(who, f"host {who.name}: {error_of(answer)}")
        bodies.append(_body(answer))
    return Found(who.id, who.name, who.is_this, bodies)


def _silent(who: Found, error: str) -> Found:
    return Found(who.id, who.name, who.is_this, error=error)


def _body(answer: httpx2.Response) -> Any:
    """JSON, or the text of /readyz."""
    return answer.text if _is_text(answer) else json_of(answer)


def _is_text(answer: httpx2.Response) -> bool:
    return answer.headers.get("content-type", "").startswith("text/plain")


def exit_if_silent(found: Sequence[Found]) -> None:
    """Exit with the code for unreachable if a server did not answer."""
    if any(one.error for one in found):
        sys.exit(EXIT_UNREACHABLE)
