"""Whose a message_id is. Ids of outbound messages carry a tag that only this service can make, so
that an event which names one is known to belong to the app that sent it, with nothing kept for each
message and nothing that a gateway could guess.
"""

from __future__ import annotations

import hmac
import os
from hashlib import blake2b

from attrs import frozen

from .redis import Redis, StoreError

SECRET = "jsbox:secret"  # noqa: S105  # the name of the key, of the whole service
_RANDOM, _TAG = 10, 6  # bytes of an id
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
        """The message_id of one certain outbound of the run of one certain inbound: the same
        whenever that is run again.

        In the same form as a fresh one, and no easier to guess.

        Args:
            channel: Where it goes.
            sender: Whose it is.
            origin: Names the inbound (see `resources.contract.Caller`).
            slot: Names one of the outbounds of its run.
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

    def _tag(self, random: bytes, channel: str, sender: Sender) -> bytes:
        # No name holds a NUL: the config sees to that.
        text = f"{channel}\0{sender.account}\0{sender.app}".encode()
        return blake2b(random + text, digest_size=_TAG, key=self._secret).digest()


async def open_message_ids(redis: Redis) -> MessageIds:
    """The ids of the service whose store this is; its secret is made at the first start. A store
    that takes no writes will do for every other start.

    Raises:
        StoreError: The store did not do it, or what it has is no secret.
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
