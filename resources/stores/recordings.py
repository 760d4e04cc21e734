"""Recorded runs: what came in, and every command with its reply, so that the run can be played
again. For apps with `record = true`.

The newest of each app, for a bounded time: a recording holds whatever users wrote.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec
from attrs import field, frozen

from ..fence import fence
from .keys import account_key
from .redis import Redis, Unavailable
from .room import Room
from .scripts import Script, script

RECORDING_MAX = 1 << 20  # bytes of one, before it is packed; a larger one is not kept

log = logging.getLogger(__name__)


class Exchange(msgspec.Struct, frozen=True):
    """A command and its reply (None: the run ended first), or a console line. `at` and `seconds`
    are as in a trace.
    """

    name: str
    at: float
    request: dict[str, Any]
    reply: dict[str, Any] | None = None
    seconds: float | None = None


class Recording(msgspec.Struct, frozen=True):
    """A run. `payload` is what the app received, `began` is in seconds since 1970, and `source` is
    the SHA-256 of the app's text.
    """

    account: str
    app: str
    channel: str
    kind: str
    id: str
    payload: dict[str, Any]
    began: float
    outcome: str
    detail: str
    source: str
    exchanges: list[Exchange]
    left_out: int = 0  # commands beyond those that a trace has room for
    version: int = 1


def decode(text: bytes) -> Recording:
    """Decode a recording from its JSON. Raises ValueError if it is not one."""
    try:
        return msgspec.json.decode(text, type=Recording)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


@frozen
class Recordings:
    """The recordings of all apps. Methods that read may raise `redis.StoreError`."""

    redis: Redis
    room: Room = field(factory=Room)
    _put: Script = field(factory=lambda: script("recording_put"), init=False)

    def keep_soon(self, recording: Recording, kept: int, seconds: float) -> None:
        """Store a recording without waiting; a failure is logged. Never raises."""
        what = f"the recording of {recording.kind} {recording.id} of app {recording.app}"
        with fence("recording", what):
            self._keep_soon(recording, what, kept, seconds)

    def _keep_soon(self, recording: Recording, what: str, kept: int, seconds: float) -> None:
        text = msgspec.json.encode(recording)
        if len(text) > RECORDING_MAX:
            log.warning(
                "%s is not kept: it has %d bytes, more than %d", what, len(text), RECORDING_MAX
            )
            return

        def failed(error: Exception) -> None:
            log.warning("%s is not kept: %s", what, error)

        key = self._key(recording.account, recording.app, recording.id)
        listing = account_key(recording.account, "recordings", recording.app)
        packed = zlib.compress(text, 1)
        refused = self.room.refusal(len(packed))
        if refused is not None:
            failed(refused)
            return
        command = self._put.call([listing], key, packed, max(int(seconds), 1), kept)
        if not self.redis.post([command], failed):
            failed(Unavailable("too much waits for the store", sent=False))

    async def find(self, apps: Iterable[tuple[str, str]], message: str) -> bytes | None:
        """The JSON of the recording of a message or event: that of the first (account, app) that
        has one.
        """
        keys = [self._key(account, app, message) for account, app in apps]
        found = await self.redis.execute_many([("GET", key) for key in keys])
        texts = (_unpacked(packed) for packed in found if packed is not None)
        return next((text for text in texts if text is not None), None)

    @staticmethod
    def _key(account: str, app: str, message: str) -> str:
        return account_key(account, "recording", app, message)


def _unpacked(packed: bytes) -> bytes | None:
    """The text; None if it is not one of ours."""
    reader = zlib.decompressobj()
    try:
        text = reader.decompress(packed, RECORDING_MAX)
    except zlib.error as error:
        log.warning("a recording cannot be read: %s", error)
        return None
    return text if reader.eof else None
