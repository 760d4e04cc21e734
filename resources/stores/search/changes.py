"""Reads from Redis, for the search process, what has changed in an account. It blocks, and each
thread has a connection of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis
from attrs import define, field, frozen

from ...fence import fence
from ..contacts import Contact, contacts_of, number_of
from ..errors import code_of
from ..groups import Group, Listing
from ..keys import account_key
from ..link import Link
from ..resp import Command
from ..scripts import script

PAGE_BYTES = 1 << 20  # of the contacts that are read at once; then the page ends
CONTACTS_READ = 100  # by their keys, at once: 25 MiB if each is as large as can be
DIGITS_MAX = 18  # of a number of changes: Redis counts no further than 2**63
TEXT_MAX = 40  # bytes of another program's value that are shown


class StoreGone(Exception):
    """Redis did not answer, or refused, or another program has overwritten what was asked for."""


@frozen
class Changed:
    """A contact that was written.

    Attributes:
        seq: Its number in the account.
        size: Of its values in the store, in bytes.
    """

    key: str
    seq: int
    contact: Contact
    size: int


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
        """The first contacts, at most `limit`, that changed after a change number: fewer if they
        are large, but at least one.
        """
        prefix = account_key(account, "")
        command = script("contacts_changed").call(
            [account_key(account, "contacts", "changed")], prefix, number, limit, PAGE_BYTES
        )
        ((epoch, newest, left, flat),) = self._exchange([command])
        changed = list[Changed]()
        for key, at, fields in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            number = _count(at, f"the change number of contact {key!r} of account {account}")
            with fence("contacts", f"contact {key!r} of account {account} is not searched"):
                for contact in contacts_of(account, [key.decode()], [fields]):
                    size = sum(map(len, fields[1::2]))
                    changed.append(Changed(contact["key"], number_of(fields), contact, size))
        return Page(_text(epoch), int(newest), int(left), number, changed)

    def state(self, account: str) -> tuple[str, int]:
        """The epoch of an account's change numbers, and the newest of them."""
        ((epoch, newest),) = self._exchange(
            [
                (
                    "MGET",
                    account_key(account, "contacts", "epoch"),
                    _changes_key(account),
                )
            ]
        )
        return _text(epoch or b""), _newest(account, newest)

    def newest(self, accounts: Sequence[str]) -> list[int | StoreGone]:
        """The newest change number of each account; what is wrong with it if another program has
        overwritten it.
        """
        commands: list[Command] = [("GET", _changes_key(account)) for account in accounts]
        found = list[int | StoreGone]()
        for account, answer in zip(accounts, self._answers(commands), strict=True):
            try:
                found.append(_newest(account, answer))
            except StoreGone as error:
                found.append(error)
        return found

    def contacts(self, account: str, keys: Sequence[str]) -> Iterator[Contact]:
        """The contacts with those keys that exist, read as they are needed."""
        for start in range(0, len(keys), CONTACTS_READ):
            some = keys[start : start + CONTACTS_READ]
            answers = self._answers(
                [("HGETALL", account_key(account, "contact", key)) for key in some]
            )
            hashes = [[] if isinstance(answer, Exception) else answer for answer in answers]
            yield from contacts_of(account, some, hashes)

    def groups(self, account: str) -> Iterator[list[Group]]:
        """Every group, in pages; one may come twice."""
        listing = Listing(account)
        while not listing.is_over:
            command = script("group_list").call(listing.keys, *listing.arguments)
            (answer,) = self._exchange([command])
            yield listing.take(answer)

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands, none of which may be refused."""
        return [_not_refused(answer) for answer in self._answers(commands)]

    def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands; the error itself if another program has overwritten the key of
        one with a value of another type.
        """
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
            if isinstance(answer, Exception) and code_of(str(answer)) != "WRONGTYPE":
                _not_refused(answer)
        return answers


def _changes_key(account: str) -> str:
    return account_key(account, "contacts", "changes")


def _newest(account: str, answer: Any) -> int:
    what = f"the number of changes of account {account}, {_changes_key(account)}"
    return 0 if answer is None else _count(answer, what)


def _not_refused(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise StoreGone(f"Redis refused: {answer}") from answer
    return answer


def _count(answer: Any, what: str) -> int:
    """A number of changes as the store has it. Raises StoreGone: it is something else."""
    if isinstance(answer, Exception):
        raise StoreGone(f"{what}, cannot be read: Redis refused: {answer}") from answer
    if not answer.isdigit() or len(answer) > DIGITS_MAX:
        shown = repr(answer[:TEXT_MAX])
        raise StoreGone(f"{what}, is {shown}: another program has overwritten it")
    return int(answer)


def _text(answer: bytes) -> str:
    """An epoch, which another program may have overwritten: any text will do."""
    return answer.decode(errors="backslashreplace")


def _ask(link: Link, commands: Sequence[Command]) -> list[Any]:
    link.connect()
    return link.exchange(commands) if commands else []
