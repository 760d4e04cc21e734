"""The admin port of a server that stands by."""

from __future__ import annotations

import hashlib

import httpx2
import pytest

from supervisor.admin.console import POLICY
from supervisor.config import Address, Config
from supervisor.config.model import Listen
from supervisor.config.tokens import plain_token
from supervisor.host.systemd import Systemd
from supervisor.standby import open_standby

TOKEN = "t0ken"


@pytest.mark.parametrize("is_guarded", [False, True])
async def test_it_shows_as_much_as_the_service_would(*, is_guarded: bool) -> None:
    """With tokens: who has the store is for those who have one."""
    tokens = (plain_token(hashlib.sha256(TOKEN.encode()).hexdigest()),) if is_guarded else ()
    listen = Listen(admin=Address("127.0.0.1", 0), admin_tokens=tokens)
    async with open_standby(Config(listen=listen), Systemd()) as standby:
        standby.problem = "the store is held by x"
        async with httpx2.AsyncClient(base_url=standby.url, trust_env=False) as http:
            assert (await http.get("/livez")).text == "ok\n"
            for path in ("/", "/ui/hosts", "/console.js"):
                page = await http.get(path)
                assert (page.status_code, "held by x" in page.text) == (200, False)
                assert page.headers["content-security-policy"] == POLICY
            shown = "not ok" if is_guarded else "the store is held by x"
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.text) == (503, f"not ready:\nstandby: {shown}\n")
            assert (await http.get("/v1/apps")).status_code == (401 if is_guarded else 503)
            http.headers["authorization"] = f"Bearer {TOKEN}"
            for method in ("GET", "POST", "DELETE"):
                answer = await http.request(method, "/v1/reload")
                assert answer.status_code == 503
                text = "this server stands by: the store is held by x"
                assert answer.json() == {"error": text, "standby": True}
            assert "held by x" in (await http.get("/readyz")).text
            assert "jsbox_lease_held 0.0" in (await http.get("/metrics")).text


async def test_the_port_goes_to_the_service_and_comes_back() -> None:
    """It never refuses a connection meanwhile: the socket listens all the time."""
    listen = Listen(admin=Address("127.0.0.1", 0))
    async with open_standby(Config(listen=listen), Systemd()) as standby:
        url = standby.url
        for _ in range(3):
            standby.show()
            standby.show()  # once is enough
            async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
                assert (await http.get("/livez")).text == "ok\n"
            (listener,) = standby.listeners()
            await standby.hide()
            await standby.hide()
            assert standby.url == url
            async with listener:
                pass
