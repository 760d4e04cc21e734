"""Reads from Redis, for the search process, what has changed in an account. It blocks, and each
thread has a connection of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis
from attrs import define, field, frozen

from ..contacts import Contact, contacts_of, number_of
from ..direct import Command
from ..groups import FIRST, Group, groups_of, listing
from ..keys import account_key
from ..link import Link
from ..scripts import script


class StoreGone(Exception):
    """Redis did not answer, or refused."""


@frozen
class Changed:
    """A contact that was written; `seq` is its number in the account."""

    key: str
    seq: int
    contact: Contact


@frozen
class Page:
    """Contacts in the order of their last change.

    Attributes:
        epoch: Names the history that the change numbers belong to.
        newest: The account's newest change number.
        left: How many contacts have changed after the given number, including these.
        last: The change number up to which nothing is missing; the given one if nothing has
            changed.
    """

    epoch: str
    newest: int
    left: int
    last: int
    changed: Sequence[Changed]


@define(eq=False)
class Changes:
    """Reads from Redis for any number of threads. Every method raises StoreGone."""

    _make_link: Callable[[], Link]
    _links: threading.local = field(factory=threading.local, init=False)

    def after(self, account: str, number: int, limit: int) -> Page:
        """The first contacts, at most `limit`, that changed after a change number."""
        prefix = account_key(account, "")
        command = script("contacts_changed").call(
            [account_key(account, "contacts", "changed")], prefix, number, limit
        )
        ((epoch, newest, left, flat),) = self._exchange([command])
        changed = list[Changed]()
        for key, at, fields in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            number = int(at)
            changed += [
                Changed(contact["key"], number_of(fields), contact)
                for contact in contacts_of(account, [key.decode()], [fields])
            ]
        return Page(epoch.decode(), int(newest), int(left), number, changed)

    def state(self, account: str) -> tuple[str, int]:
        """The epoch of an account's change numbers, and the newest of them."""
        ((epoch, newest),) = self._exchange(
            [
                (
                    "MGET",
                    account_key(account, "contacts", "epoch"),
                    account_key(account, "contacts", "changes"),
                )
            ]
        )
        return (epoch or b"").decode(), int(newest or 0)

    def newest(self, accounts: Sequence[str]) -> list[int]:
        """The newest change number of each account."""
        commands: list[Command] = [
            ("GET", account_key(account, "contacts", "changes")) for account in accounts
        ]
        return [int(answer or 0) for answer in self._exchange(commands)]

    def contacts(self, account: str, keys: Sequence[str]) -> list[Contact]:
        """The contacts with those keys that exist."""
        answers = self._exchange(
            [("HGETALL", account_key(account, "contact", key)) for key in keys]
        )
        return contacts_of(account, keys, answers)

    def groups(self, account: str) -> Iterator[list[Group]]:
        """Every group, in pages; one may come twice."""
        cursor: bytes | None = FIRST
        while cursor is not None:
            keys, arguments = listing(account, cursor)
            (answer,) = self._exchange([script("group_list").call(keys, *arguments)])
            cursor, groups = groups_of(account, answer)
            yield groups

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        link: Link | None = getattr(self._links, "link", None)
        if link is None:
            link = self._links.link = self._make_link()
        try:
            try:
                answers = _ask(link, commands)
            except redis.ConnectionError:
                # The server closed a connection that was idle, or is another one by now. All of
                # this only reads, so it can be asked once more.
                link.close()
                answers = _ask(link, commands)
        except (redis.RedisError, OSError) as error:
            link.close()
            raise StoreGone(f"Redis did not answer: {error}") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise StoreGone(f"Redis refused: {answer}") from answer
        return answers


def _ask(link: Link, commands: Sequence[Command]) -> list[Any]:
    link.connect()
    return link.exchange(commands) if commands else []
