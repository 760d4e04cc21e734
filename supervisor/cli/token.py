"""`jsbox token`: bearer tokens for the ports."""

from __future__ import annotations

import hashlib
import secrets
import sys
from typing import Any

import click

from ..chats.update import toml
from ..config.tokens import SCOPES, parse_tokens
from .common import fail, json_option, print_json

BYTES = 32


@click.group()
def token() -> None:
    """Make bearer tokens. The config holds only their SHA-256: in the tokens of a channel, or in
    listen.admin_tokens.
    """


@token.command()
@click.option("--name", help="An operator's: whose it is, for the audit log.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What an operator's is good for: read only, or also to operate (default).",
)
@click.option("--expires", metavar="DAY", help="An operator's: its last day, such as 2027-12-31.")
@json_option
def new(*, name: str | None, scopes: tuple[str, ...], expires: str | None, as_json: bool) -> None:
    """Make a token. It is shown once and not stored."""
    if name is None and (scopes or expires):
        raise click.UsageError("--scope and --expires need --name")
    text = secrets.token_urlsafe(BYTES)
    digest = _digest(text)
    entry: dict[str, Any] = {"sha256": digest}
    if name is not None:
        entry = {"name": name, **entry}
        entry |= {"scopes": list(scopes)} if scopes else {}
        entry |= {"expires": expires} if expires else {}
        try:
            parse_tokens([entry])
        except ValueError as error:
            fail(str(error).partition(": ")[2], 2)
    if as_json:
        print_json({"token": text, **entry})
        return
    click.echo(f"token   {text}")
    click.echo(f"sha256  {digest}")
    if name is not None:
        fields = ", ".join(f"{key} = {toml(value)}" for key, value in entry.items())
        click.echo(f"in [listen] admin_tokens:  {{ {fields} }}")
        return
    click.echo(
        'for a gateway:  [channels.NAME] tokens = ["SHA256"];'
        " the gateway sends it in hello, or as Authorization: Bearer",
        err=True,
    )
    click.echo(
        'for operators:  [listen] admin_tokens = ["SHA256"];'
        " the commands take it from $JSBOX_TOKEN",
        err=True,
    )


@token.command("hash")
@json_option
def hash_(*, as_json: bool) -> None:
    """Print the SHA-256 of a token read from stdin."""
    try:
        text = sys.stdin.read().strip()
    except UnicodeDecodeError:
        fail("expected a token in UTF-8 on stdin", 2)
    if not text:
        fail("expected a token on stdin", 2)
    if as_json:
        print_json({"sha256": _digest(text)})
    else:
        click.echo(_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
