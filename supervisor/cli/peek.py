"""What `jsbox dev` shows of the app's data beside the conversation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from attrs import frozen

from resources.stores.keys import account_key

if TYPE_CHECKING:
    from ..service import Service

KEYS_SHOWN = 100
NOTHING = "nothing yet"


@frozen
class Peek:
    """Looks into the store of a service that has one app. Its methods may raise StoreError."""

    service: Service

    async def state(self, number: str) -> str:
        """Where the toolkit vumigo has a user, with the answers so far."""
        users = [key for key in await self._keys("users.*") if key.endswith(f".{number}")]
        texts = [_user(await self._value(key)) for key in users]
        return "\n".join(texts) or f"the toolkit has stored nothing of {number}"

    async def kv(self, key: str) -> str:
        """A value; without a key, all keys."""
        if key:
            value = await self._value(key)
            return NOTHING if value is None else json.dumps(value, ensure_ascii=False, indent=2)
        keys = sorted(await self._keys("*"))
        more = [f"and {len(keys) - KEYS_SHOWN} more"] if len(keys) > KEYS_SHOWN else []
        return "\n".join([*keys[:KEYS_SHOWN], *more]) or NOTHING

    @property
    def _account(self) -> str:
        (app,) = self.service.config.apps.values()
        return app.account

    async def _keys(self, pattern: str) -> list[str]:
        prefix = account_key(self._account, "kv", "")
        found = await self.service.stores.redis.execute("KEYS", prefix + pattern)
        return [key.decode("utf-8", "replace").removeprefix(prefix) for key in found]

    async def _value(self, key: str) -> Any:
        text = await self.service.stores.keyspace.get(self._account, key)
        return None if text is None else json.loads(text)


def _user(user: Any) -> str:
    if not isinstance(user, dict):
        return json.dumps(user, ensure_ascii=False)
    state = user.get("state")
    name = state.get("name") if isinstance(state, dict) else None
    lines = [f"state     {name or 'none'}", f"language  {user.get('lang') or 'none'}"]
    answers = user.get("answers")
    for asked, answer in answers.items() if isinstance(answers, dict) else ():
        lines.append(f"answer    {asked} = {json.dumps(answer, ensure_ascii=False)}")
    return "\n".join(lines)
