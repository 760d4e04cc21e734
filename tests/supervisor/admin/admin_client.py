"""Requests to the admin port of a service in this process, also by their bytes."""

from __future__ import annotations

import ssl
from typing import Any

import httpx2
import trio

from supervisor.service import Service

CONTACTS = "/v1/accounts/acct/contacts"
PUSH = "/v1/apps/phone/push"
_TLS = ssl.create_default_context()  # made once: it takes 30 ms


async def ask(
    service: Service, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """The status and the JSON (else the text) of an answer."""
    async with httpx2.AsyncClient(
        base_url=service.admin_url, trust_env=False, headers=headers, verify=_TLS
    ) as client:
        answer = await client.request(method, path, content=body or None)
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, answer.text


async def raw(service: Service, request: bytes) -> bytes:
    """The answer to some bytes, up to the close."""
    async with await trio.open_tcp_stream("127.0.0.1", service.admin_port) as stream:
        await stream.send_all(request)
        await stream.send_eof()
        data = b""
        with trio.fail_after(60):
            while more := await stream.receive_some(1 << 20):
                data += more
    return data
