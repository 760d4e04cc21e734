"""Both ports over TLS, and the secrets of the config: where they come from, and that they are shown
nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
import trio
import trustme

from supervisor.client.websocket import open_websocket
from supervisor.config import InvalidConfig, load

from ... import gateway_client
from ...programs import free_ports, jsbox, serve
from ...service import ECHO, Folder, running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    authority = trustme.CA()
    issued = authority.issue_cert("jsbox.example.org", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    folder = Folder(tmp_path)
    gateway, admin = free_ports(2)
    folder.text = (
        f'version = 1\n[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "0.0.0.0:{admin}"\n'
        'certificate = "cert.pem"\nkey = "key.pem"\n'
    )
    return folder


def problems(folder: Folder) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load(folder.config)
    return [problem.text for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("since", "until", "problem"),
    [
        (-30, -1, "it expired at 20.* UTC: clients refuse it"),
        (1, 30, "it is not valid before 20.* UTC: clients refuse it"),
        (-85, 5, "it expires at 20.* UTC"),
        (-5, 85, ""),
        (-5, 5, ""),  # a short one is renewed late
    ],
)
async def test_a_certificate_that_clients_refuse_is_named(
    folder: Folder, since: int, until: int, problem: str
) -> None:
    """By `check`, and by /readyz while the service runs: nothing said why nobody could connect."""
    now = datetime.now(UTC)
    begins, ends = now + timedelta(days=since), now + timedelta(days=until)
    issued = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
    issued.cert_chain_pems[0].write_to_path(folder.path / "cert.pem")
    issued.private_key_pem.write_to_path(folder.path / "key.pem")
    folder.text = folder.text.replace("0.0.0.0", "127.0.0.1")
    folder.app("phone", ECHO)
    found = [one for one in load(folder.config).warnings if "certificate" in one]
    assert bool(found) is bool(problem)
    if problem:
        assert re.fullmatch(f"listen.certificate: {problem}", found[0])
    async with running(folder) as service:
        async with httpx.AsyncClient(verify=False, base_url=service.admin_url) as admin:
            lines = (await admin.get("/readyz")).text.splitlines()[1:]
    assert [line for line in lines if "certificate" in line] == found


async def test_both_ports_speak_tls(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways by wss, operators by https, the commands by the certificate in the config; plain
    text gets nowhere.
    """
    made = json.loads(jsbox("token", "new", "--json").stdout)
    assert made["sha256"] == hashlib.sha256(made["token"].encode()).hexdigest()
    folder.text += f'admin_tokens = ["{made["sha256"]}"]\n'
    folder.app("phone", ECHO)
    ca = str(folder.path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", ca)  # of our WebSocket client
    with serve(folder.config) as server:
        assert server.gateway.startswith("wss://")
        assert server.admin.startswith("https://")
        async with gateway_client.connect(server.gateway) as client:
            _, (reply,) = await client.say("hi", "new")
            assert reply["content"] == "you said hi"
        address = server.admin.replace("0.0.0.0", "127.0.0.1")
        async with httpx.AsyncClient(
            base_url=address, verify=ssl.create_default_context(cafile=ca)
        ) as admin:
            assert (await admin.get("/livez")).status_code == 200
            assert (await admin.get("/v1/apps")).status_code == 401
            allowed = await admin.get(
                "/v1/apps", headers={"Authorization": f"Bearer {made['token']}"}
            )
            assert allowed.status_code == 200
        async with httpx.AsyncClient(base_url=address.replace("https", "http")) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get("/livez")
        began = trio.current_time()
        plain = await trio.open_tcp_stream(
            "127.0.0.1", int(server.gateway.split(":")[2].split("/")[0])
        )
        async with plain:
            await plain.send_all(b"GET /v1 HTTP/1.1\r\n\r\n")
            with pytest.raises(trio.BrokenResourceError):
                assert await plain.receive_some() == b"", "closed at once"
                raise trio.BrokenResourceError
        assert trio.current_time() - began < 5
        listed = await trio.to_thread.run_sync(lambda: jsbox("ps", "-c", str(folder.config)))
        assert (listed.returncode, "a bearer token is needed" in listed.stderr) == (1, True)
        monkeypatch.setenv("JSBOX_TOKEN", made["token"])
        listed = await trio.to_thread.run_sync(lambda: jsbox("ps", "-c", str(folder.config)))
        assert listed.returncode == 0, listed.stderr
        assert "phone" in listed.stdout


def test_beyond_loopback_the_admin_port_needs_both(folder: Folder) -> None:
    """A token alone would go over the wire in the clear."""
    folder.app("phone", ECHO)
    assert problems(folder) == [
        (
            f"listen.admin: {_admin(folder)} can be reached from other hosts:"
            " set listen.admin_tokens first"
        )
    ]
    folder.text = folder.text.replace(
        'certificate = "cert.pem"\nkey = "key.pem"\n', f'admin_tokens = ["{"a" * 64}"]\n'
    )
    assert problems(folder) == [
        (
            f"listen.admin: {_admin(folder)} can be reached from other hosts:"
            " set listen.certificate, listen.key first"
        )
    ]


def _admin(folder: Folder) -> str:
    return folder.text.split('admin = "')[1].split('"')[0]


def test_wrong_files_are_named(folder: Folder) -> None:
    """Missing, of another certificate, or one without the other."""
    folder.text = folder.text.replace("0.0.0.0", "127.0.0.1")
    folder.app("phone", ECHO)
    good = folder.text
    folder.text = good.replace('"cert.pem"', '"nope.pem"')
    assert "nope.pem or" in problems(folder)[0]
    folder.text = good.replace('key = "key.pem"\n', "")
    assert problems(folder) == ["listen.certificate: needs listen.key beside it"]
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(folder.path / "other.pem")
    folder.text = good.replace('"key.pem"', '"other.pem"')
    assert "is not the key of" in problems(folder)[0]


def test_a_credential_of_systemd_stands_in_for_a_variable(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment comes first; what neither has is an error that names both places; no error
    shows a value.
    """
    folder.text = folder.text.replace("0.0.0.0", "127.0.0.1")
    folder.app("phone", ECHO, 'config = { token = "${HUB_TOKEN}" }')
    monkeypatch.delenv("HUB_TOKEN", raising=False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder.path))
    assert "nor is it among systemd's credentials" in problems(folder)[0]
    (folder.path / "HUB_TOKEN").write_text("from systemd\n")
    assert load(folder.config).apps["phone"].config["token"] == "from systemd"
    monkeypatch.setenv("HUB_TOKEN", "from the environment")
    assert load(folder.config).apps["phone"].config["token"] == "from the environment"
    folder.text = folder.text.replace(
        'config = { token = "${HUB_TOKEN}" }', 'timezone = "${HUB_TOKEN}"'
    )
    assert "from the environment" not in "".join(problems(folder))


def test_a_token_of_ones_own_is_hashed() -> None:
    """From stdin, so that it stands in no process list."""
    done = jsbox("token", "hash", input="secret\n")
    assert done.stdout.strip() == hashlib.sha256(b"secret").hexdigest()
    assert jsbox("token", "hash", input="").returncode == 2


def test_a_context_of_ones_own_takes_no_other_certificate(folder: Folder) -> None:
    """Commands trust exactly the config's certificate, and none that only has the same name."""
    from supervisor.config.tls import pinned_context, server_context

    other = trustme.CA().issue_cert("127.0.0.1")
    other.cert_chain_pems[0].write_to_path(folder.path / "other.pem")
    server = server_context(folder.path / "cert.pem", folder.path / "key.pem")
    for file, works in (("cert.pem", True), ("other.pem", False)):
        assert _handshake(server, pinned_context(folder.path / file)) is works


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a)]
    for _ in range(10):
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


async def test_chat_trusts_the_certificate_of_the_config(folder: Folder) -> None:
    """Without its authority, as `ps` does; and it says what is wrong with another one, at once."""
    made = json.loads(jsbox("token", "new", "--json").stdout)
    folder.text += f'admin_tokens = ["{made["sha256"]}"]\n'
    folder.app("phone", ECHO)
    with serve(folder.config) as server:
        chat = ("chat", "phone", "-c", str(folder.config))
        talked = jsbox(*chat, input="hello\n")
        assert (talked.returncode, "you said hello" in talked.stdout) == (0, True), talked.stderr
        named = jsbox(*chat, "--url", server.gateway, input="hello\n")
        assert named.returncode == 4
        assert "its certificate is not trusted: unable to get local issuer" in named.stderr


async def test_a_port_that_speaks_no_tls_is_said_to(folder: Folder) -> None:
    """Not after ten seconds, and the connection is closed."""
    async with trio.open_nursery() as nursery:
        serve_plain = partial(trio.serve_tcp, _speak_plain, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve_plain)
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConnectionError, match="it does not speak TLS with us"):
            async with open_websocket(f"wss://127.0.0.1:{port}/v1"):
                pass
        nursery.cancel_scope.cancel()


async def _speak_plain(stream: trio.SocketStream) -> None:
    await stream.receive_some(1)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
