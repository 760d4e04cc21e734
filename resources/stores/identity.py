"""Whom a message_id belongs to. Ids of outbound messages carry a tag that only this service can
make. So an event that names one is known to belong to the app that sent it, without storing
anything per message, and without anything that a gateway could guess.
"""

from __future__ import annotations

import hmac
import os
from hashlib import blake2b

from attrs import frozen

from .redis import Redis, StoreError

SECRET = "jsbox:secret"  # noqa: S105  # the name of the key, one for the whole service
_RANDOM, _TAG = 10, 6  # bytes of an id
_TOKEN = 20  # bytes
_SECRET_BYTES = 32


@frozen
class Sender:
    """An app of an account."""

    account: str
    app: str


@frozen
class MessageIds:
    """Makes and recognises the ids of outbound messages. Made by `open_message_ids`."""

    _secret: bytes

    def new(self, channel: str, sender: Sender) -> str:
        """A fresh message_id in the form of a random UUID: 32 hexadecimal digits."""
        return self._tagged(bytearray(os.urandom(_RANDOM)), channel, sender)

    def _tagged(self, random: bytearray, channel: str, sender: Sender) -> str:
        random[6] = random[6] & 0x0F | 0x40
        random[8] = random[8] & 0x3F | 0x80
        return (random + self._tag(bytes(random), channel, sender)).hex()

    def derived(self, channel: str, sender: Sender, origin: str, slot: str) -> str:
        """The message_id of one outbound of the run of one inbound, the same whenever it is run
        again. It has the form of a fresh one, and is no easier to guess.

        Args:
            channel: Where it goes.
            sender: The app that sends it.
            origin: Names the inbound (see `resources.contract.Caller`).
            slot: Names the outbound within the run.
        """
        text = f"{channel}\0{sender.account}\0{sender.app}\0{origin}\0{slot}".encode()
        digest = blake2b(text, digest_size=_RANDOM, key=self._secret, person=b"outbound").digest()
        return self._tagged(bytearray(digest), channel, sender)

    def is_from(self, message_id: str, channel: str, sender: Sender) -> bool:
        """Whether this app sent the message with that id over that channel."""
        try:
            raw = bytes.fromhex(message_id)
        except ValueError:
            return False
        if len(raw) != _RANDOM + _TAG:
            return False
        return hmac.compare_digest(raw[_RANDOM:], self._tag(raw[:_RANDOM], channel, sender))

    def token_of(self, channel: str) -> str:
        """A secret for this channel: whoever presents it must have got it from us."""
        text = f"token\0{channel}".encode()
        return blake2b(text, digest_size=_TOKEN, key=self._secret, person=b"token").hexdigest()

    def _tag(self, random: bytes, channel: str, sender: Sender) -> bytes:
        # No name contains a NUL: the config checks that.
        text = f"{channel}\0{sender.account}\0{sender.app}".encode()
        return blake2b(random + text, digest_size=_TAG, key=self._secret).digest()


async def open_message_ids(redis: Redis) -> MessageIds:
    """Open the ids of the service that this store belongs to. The first start makes the secret;
    later ones also work with a store that takes no writes.

    Raises:
        StoreError: The store failed, or the stored value is not a secret.
    """
    secret = await redis.execute("GET", SECRET)
    if secret is None:
        _, secret = await redis.execute_many(
            [("SET", SECRET, os.urandom(_SECRET_BYTES), "NX"), ("GET", SECRET)]
        )
    if not isinstance(secret, bytes) or len(secret) != _SECRET_BYTES:
        raise StoreError(
            f"the key {SECRET} does not hold the {_SECRET_BYTES} bytes of a secret", sent=False
        )
    return MessageIds(secret)
