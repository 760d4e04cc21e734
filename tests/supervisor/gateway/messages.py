"""Frames that a client of the gateway sends."""

from __future__ import annotations

from typing import Any


def inbound(message_id: str, **fields: Any) -> dict[str, Any]:
    msg = {"message_id": message_id, "from_addr": "+27", "content": "hi"} | fields
    return {"type": "inbound", "id": f"g-{message_id}", "msg": msg}
