"""`jsbox contacts import | export | get | search`, through a running server."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx2
from attrs import define, field

from resources.contact_fields import LENGTHS
from resources.stores.contacts import EXTRAS, SUBSCRIPTIONS
from resources.text import visible

from .client import admin_client, json_of, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json
from .groups import all_groups
from .importing import (
    SECONDS,
    Asked,
    Kind,
    Rows,
    exit_if_incomplete,
    is_csv,
    list_path,
    nothing,
    options,
    pages,
    run_import,
    write_rows,
)
from .rows import GROUPS_SPLIT, Columns, Unreadable, read_header

COLUMNS = Columns(
    ("key", *LENGTHS, "dob", "created_at", "groups"), prefixes=(EXTRAS, SUBSCRIPTIONS)
)
CONTACTS = Kind("contacts", COLUMNS, is_keyed=True)


@click.group()
def contacts() -> None:
    """Import, export and look up an account's contacts. The server must be running."""


@contacts.command("import")
@options
def import_(**given: Any) -> None:
    """Import contacts from a CSV or JSON Lines file, each row wholly or not at all.

    CSV has a header row: columns are the fields of a contact, and extras-NAME and
    subscription-NAME. The cell of `groups` has names of groups (or their keys) with semicolons
    between them; groups that are missing are made. A line of JSON has the same fields, `groups` as
    a list of keys, and perhaps `extra` and `subscription` as objects.

    `key` and `created_at` are kept; a contact whose key exists already is replaced. Invalid rows
    are listed in FILE.errors with the reason. Call it again to resume an interrupted import.
    """
    asked = Asked(**given)
    names = _GroupNames(asked.account, is_dry=asked.dry_run)
    run_import(CONTACTS, asked, names.to_keys if asked.is_csv else nothing)


@define
class _GroupNames:
    """Turns names of groups into their keys; makes those that are missing, unless `is_dry`."""

    account: str
    is_dry: bool
    _keys: set[str] | None = field(default=None, init=False)
    _by_name: dict[str, list[str]] = field(factory=dict, init=False)

    def to_keys(self, client: httpx2.Client, rows: Rows) -> Mapping[int, str]:
        """Replace the names in rows; give what is wrong with some, by line."""
        keys = self._known(client)
        wanted = {name for _, row in rows for name in row.get("groups", ())}
        self._make(client, sorted(wanted - keys - self._by_name.keys()))
        errors = {}
        for line, row in rows:
            names = row.get("groups", ())
            several = [name for name in names if len(self._by_name.get(name, ())) > 1]
            if several:
                errors[line] = f"several groups are named {several[0]!r}: write the key of one"
            elif names:
                row["groups"] = [name if name in keys else self._by_name[name][0] for name in names]
        return errors

    def _known(self, client: httpx2.Client) -> set[str]:
        if self._keys is None:
            found = all_groups(client, self.account)
            self._keys = {group["key"] for group in found}
            for group in found:
                self._by_name.setdefault(group["name"], []).append(group["key"])
        return self._keys

    def _make(self, client: httpx2.Client, names: list[str]) -> None:
        if self.is_dry:
            self._by_name |= {name: [name] for name in names}
            return
        for name in names:
            answer = client.post(
                list_path(self.account, "groups"),
                json={"groups": [{"name": name}]},
                timeout=SECONDS,
            )
            found = json_of(answer)
            if found.get("errors"):
                fail(f"the group {name!r} cannot be made: {found['errors']['0']}")
            self._by_name[name] = [found["keys"]["0"]]


@contacts.command()
@click.argument("account")
@click.option("-o", "--output", type=click.File("wb"), default="-", help="A file; .csv makes CSV.")
@config_option
def export(account: str, output: BinaryIO, config_file: Path) -> None:
    """Write every contact as a file that `import` takes. In CSV, `groups` has their keys."""
    unreadable: list[str] = []
    with admin_client(load_or_exit(config_file)) as client:
        found = pages(client, account, "contacts", unreadable=unreadable)
        if is_csv(output):
            _write_csv(found, output)
        else:
            output.writelines(map(_line, found))
    exit_if_incomplete(unreadable)


def _line(contact: Mapping[str, Any]) -> bytes:
    return json.dumps(contact, ensure_ascii=False).encode() + b"\n"


def _write_csv(found: Iterable[Mapping[str, Any]], output: BinaryIO) -> None:
    """All are read before the first is written: any may have a field that needs a column."""
    own = set[str]()
    with tempfile.TemporaryFile() as kept:
        for contact in found:
            own |= {name for name in contact if name.startswith(COLUMNS.prefixes)}
            kept.write(_line(contact))
        columns = (*COLUMNS.names, *sorted(own))
        header = io.BytesIO()
        write_rows([], columns, header, as_csv=True)
        try:
            fits = tuple(read_header(header, COLUMNS).columns) == columns
        except Unreadable:
            fits = False
        if not fits:
            fail("the names of some extras or subscriptions do not fit CSV: export JSON Lines")
        kept.seek(0)
        write_rows((_cells(json.loads(line), columns) for line in kept), columns, output)


def _cells(contact: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    groups = contact["groups"]
    if wrong := next((key for key in groups if key != key.strip() or GROUPS_SPLIT in key), None):
        fail(f"the key of a group does not fit CSV ({wrong!r}): export JSON Lines")
    return dict.fromkeys(columns) | contact | {"groups": GROUPS_SPLIT.join(groups)}


@contacts.command()
@click.argument("account")
@click.argument("key")
@config_option
def get(account: str, key: str, config_file: Path) -> None:
    """Print the contact with a key."""
    with admin_client(load_or_exit(config_file)) as client:
        answer = client.get(list_path(account, "contacts") + path_of(key))
        print_json(json_of(answer)["contact"])


@contacts.command()
@click.argument("account")
@click.argument("query")
@config_option
@json_option
def search(account: str, query: str, config_file: Path, as_json: bool) -> None:
    """Print the contacts that match a Lucene query."""
    with admin_client(load_or_exit(config_file)) as client:
        found = pages(client, account, "contacts", {"query": query})
        if as_json:
            print_json(list(found))
            return
        for contact in found:
            names = " ".join(contact[name] for name in ("name", "surname") if contact[name])
            msisdn = visible(contact["msisdn"] or "-", keep="")
            click.echo(f"{visible(contact['key'])}  {msisdn:16} {visible(names, keep='')}")
