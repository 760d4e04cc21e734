"""`jsbox token`: bearer tokens for the ports."""

from __future__ import annotations

import hashlib
import secrets
import sys

import click

from .common import fail, json_option, print_json

BYTES = 32


@click.group()
def token() -> None:
    """Make bearer tokens. The config holds only their SHA-256: in the tokens of a channel, or in
    listen.admin_tokens.
    """


@token.command()
@json_option
def new(*, as_json: bool) -> None:
    """Make a token. It is shown once and not stored."""
    text = secrets.token_urlsafe(BYTES)
    digest = _digest(text)
    if as_json:
        print_json({"token": text, "sha256": digest})
        return
    click.echo(f"token   {text}")
    click.echo(f"sha256  {digest}")
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
    text = sys.stdin.read().strip()
    if not text:
        fail("expected a token on stdin", 2)
    if as_json:
        print_json({"sha256": _digest(text)})
    else:
        click.echo(_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
