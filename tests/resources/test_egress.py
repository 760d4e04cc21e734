"""HTTP to the outside, against real servers: the gate, redirects, limits, TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from resources.contract import Caller, Refused
from resources.convert import strict_converter
from resources.http import Http, HttpSettings, Request
from resources.stores.allow import AllowList
from resources.stores.egress import Egress, EgressError, Forbidden, Policy, TooLarge, open_egress, url_of
from resources.stores.egress.route import target_of
from resources.stores.egress.urls import joined
from resources.text import clean

from ..echo_server import echo_server
from .raw_server import Reply, plain, raw_server, step_bound


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with echo_server() as url:
        yield url


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with open_egress() as egress:
        yield egress


def policy(*allow: str, **fields: Any) -> Policy:
    options = {"connect_to": {}, "proxy": "", "redirects": 20, "response_max": 131072} | fields
    return Policy(AllowList.parse(allow), **options)


LOCAL = policy("127.0.0.0/8")


async def get(egress: Egress, url: str, rules: Policy = LOCAL, method: str = "GET", **fields: Any) -> tuple[int, str]:
    with trio.fail_after(10):
        answer = await egress.fetch("app", httpx2.Request(method, url, **fields), rules, verify=True)
    return answer.code, answer.body


async def test_what_is_not_allowed_is_not_connected_to(egress: Egress, server: str) -> None:
    """By default no private address, under whatever name or spelling."""
    port = server.rpartition(":")[2]
    for host in (
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost.",
    ):
        with pytest.raises(EgressError) as raised:
            await get(egress, f"http://{host}:{port}/echo", policy())
        assert isinstance(raised.value, Forbidden) or "not known" in str(raised.value), (host, raised.value)
    with pytest.raises(Forbidden, match=r"127.0.0.1 is not a public address, and http.allow does not name it"):
        await get(egress, f"{server}/echo", policy())
    with pytest.raises(Forbidden, match=r"127.0.0.1:\d+ is not in this app's http.allow"):
        await get(egress, f"{server}/echo", policy("hub.example.org"))


async def test_a_redirect_goes_through_the_same_gate(egress: Egress, server: str) -> None:
    """An allowed server cannot lead to one that is not."""
    port = int(server.rpartition(":")[2])
    only = policy(f"127.0.0.1:{port}")
    with echo_server() as other:
        assert (await get(egress, f"{server}/to/302?{server}/echo", only))[0] == 200
        with pytest.raises(Forbidden):
            await get(egress, f"{server}/to/302?{other}/echo", only)


async def test_a_name_that_leads_to_a_private_address_is_refused(
    egress: Egress, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what counts is the address that the name has at the moment of the connection."""
    port = int(server.rpartition(":")[2])
    answers = ["93.184.216.34", "127.0.0.1"]

    def rebinding(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(Forbidden, match=r"innocent.example.org \(127.0.0.1\)"):
        await get(egress, f"http://innocent.example.org:{port}/echo", policy())
    assert (await get(egress, f"http://innocent.example.org:{port}/echo", policy("innocent.example.org")))[0] == 200


async def test_connect_to_goes_elsewhere_and_keeps_host_and_path(egress: Egress, server: str) -> None:
    """The operator names another place for a host; the request looks as if it had gone there. Others cannot use that door."""
    rules = policy(connect_to={"hub.example.org": server, "other.example.org:8000": server})
    code, body = await get(egress, "https://hub.example.org/echo?q=1", rules)
    assert code == 200
    said = __import__("json").loads(body)
    assert (said["headers"]["host"], said["path"], said["query"]) == ("hub.example.org", "/echo", "q=1")
    assert (await get(egress, "http://other.example.org:8000/echo", rules))[0] == 200
    with pytest.raises(Forbidden):
        await get(egress, f"{server}/echo", rules)


async def test_two_apps_do_not_share_connections(egress: Egress, server: str) -> None:
    """A connection that one app may have is not lent to another that may not."""
    assert (await get(egress, f"{server}/echo"))[0] == 200
    with pytest.raises(Forbidden):
        await egress.fetch("other", httpx2.Request("GET", f"{server}/echo"), policy(), verify=True)


@pytest.mark.parametrize(
    ("code", "method", "seen"),
    [
        (301, "GET", "GET"),
        (302, "HEAD", None),
        (303, "POST", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
    ],
)
async def test_redirects_are_followed(egress: Egress, server: str, code: int, method: str, seen: str | None) -> None:
    """GET and HEAD any of them; 303 makes a GET of a POST."""
    status, body = await get(egress, f"{server}/to/{code}?{server}/echo", method=method)
    assert status == 200
    assert seen is None or f'"method": "{seen}"' in body


@pytest.mark.parametrize(("code", "method"), [(301, "POST"), (302, "PUT"), (307, "DELETE"), (308, "PATCH")])
async def test_other_methods_are_not_redirected(egress: Egress, server: str, code: int, method: str) -> None:
    """A write is not repeated elsewhere; the reason says where it was sent."""
    with pytest.raises(EgressError, match=rf"{method} was redirected \({code}\) to http.*/echo"):
        await get(egress, f"{server}/to/{code}?{server}/echo", method=method)


async def test_redirects_have_an_end(egress: Egress, server: str) -> None:
    """At most so many; a relative one is resolved; one to nowhere is an error."""
    assert (await get(egress, f"{server}/redirect/3", policy("127.0.0.0/8", redirects=3)))[0] == 200
    with pytest.raises(EgressError, match="more than 3 redirects"):
        await get(egress, f"{server}/redirect/4", policy("127.0.0.0/8", redirects=3))
    assert (await get(egress, f"{server}/to/302?/echo"))[0] == 200
    with pytest.raises(EgressError, match="expected a URL of the form"):
        await get(egress, f"{server}/to/302?ftp://127.0.0.1/")


async def test_credentials_stay_with_their_origin(egress: Egress, server: str) -> None:
    """Authorization and Cookie are not sent to another origin, other headers are."""
    headers = {"Authorization": "secret", "Cookie": "a=1", "X-Other": "kept"}
    with echo_server() as other:
        for target, present in ((server, True), (other, False)):
            _, body = await get(egress, f"{server}/to/302?{target}/echo", headers=headers)
            assert ("secret" in body) is present
            assert ("a=1" in body) is present
            assert "kept" in body


async def test_bodies_are_bounded_also_when_they_are_packed(egress: Egress, server: str) -> None:
    """The limit is on what comes out: a small bomb is refused without being unpacked."""
    small = policy("127.0.0.0/8", response_max=1000)
    assert (await get(egress, f"{server}/bytes/1000", small)) == (200, "x" * 1000)
    for path in ("bytes/1001", "chunked/5000", "bomb/100000000"):
        with pytest.raises(TooLarge, match="maximum of 1000 bytes allowed"):
            await get(egress, f"{server}/{path}", small)
    assert (await get(egress, f"{server}/bomb/1000", small))[1] == "\0" * 1000


@pytest.mark.parametrize(
    ("path", "body"), [("unicode", "Zoë ☃"), ("latin", "Zoë"), ("gzip", "unzipped"), ("binary", "\ufffd\ufffd\0\ufffdabc"), ("status/204", "")]
)  # fmt: skip
async def test_bodies_become_text(egress: Egress, server: str, path: str, body: str) -> None:
    """By the declared charset, else UTF-8; what is neither still gives a reply."""
    assert (await get(egress, f"{server}/{path}"))[1] == body


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "not a url", "ftp://x/", "http:///x", ""]
)
async def test_what_cannot_be_had_says_why(egress: Egress, url: str) -> None:
    """In words, not in Python's."""
    with pytest.raises(EgressError) as raised:
        await get(egress, url)
    assert str(raised.value)
    assert "Error(" not in str(raised.value)


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answers every request with 200 and no body."""

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        except trio.BrokenResourceError:
            pass  # the client did not like the certificate

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        yield listeners[0].transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()


async def test_certificates_are_checked_unless_the_app_says_not_to(egress: Egress) -> None:
    """An unknown authority is refused, in words; VERIFY_NONE alone takes it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with tls_server(context) as port:
        with pytest.raises(EgressError, match="the certificate is not trusted: "):
            await get(egress, f"https://127.0.0.1:{port}/")
        answer = await egress.fetch("app", httpx2.Request("GET", f"https://127.0.0.1:{port}/"), LOCAL, verify=False)
        assert answer.body == "ok"


async def test_a_proxy_is_used_for_what_is_allowed(egress: Egress, server: str) -> None:
    """Requests go to the proxy whole; private addresses are refused before it is asked."""
    rules = policy(proxy=server)
    code, body = await get(egress, "http://service.example.org/echo", rules)
    assert (code, "service.example.org" in body) == (
        200,
        True,
    ) or code == 404  # the echo server sees an absolute URL
    for host in ("127.0.0.1", "10.0.0.1", "localhost", "169.254.169.254"):
        with pytest.raises(Forbidden):
            await get(egress, f"http://{host}/echo", rules)


STRUCTURE = strict_converter().get_structure_hook(Request)


async def command(server: str, **fields: Any) -> Any:
    """http.post through the resource, with its own checks."""

    async def log(level: int, message: str) -> None: ...

    settings = {HttpSettings: HttpSettings(LOCAL, 5.0)}
    caller = Caller("r1", "acct", "app", "phone", None, settings, log)
    async with open_egress() as egress:
        return await Http(egress).post(caller, STRUCTURE({"url": f"{server}/echo"} | fields, Request))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": 5}, "No URL given"),
        ({"headers": "x"}, "'headers' must be an object"),
        ({"headers": {"X": 5}}, "'headers' must be an object"),
        ({"headers": {"X": ["a", 5]}}, "'headers' must be an object"),
        ({"headers": {"X": "a\r\nEvil: 1"}}, "cannot be sent as a header"),
        ({"headers": {"X Y": "a"}}, "cannot be sent as a header"),
        ({"headers": {"": "a"}}, "cannot be sent as a header"),
        ({"data": {"a": 1}}, "'data' must be a string"),
        ({"verify_options": "VERIFY_NONE"}, "'verify_options' must be a list"),
        ({"verify_options": ["VERIFY_FOO"]}, "VERIFY_FOO"),
        ({"verify_options": [1]}, "'verify_options' may only contain"),
        ({"ssl_method": "SSLv9"}, "SSLv9"),
        ({"files": "x"}, "'files' must be an object"),
        ({"files": {"f": "x"}}, "'files' must be an object"),
        ({"files": {"f": {"data": "%%%"}}}, "is not base64"),
        ({"files": {"f": {"data": "eA==", "file_name": 5}}}, "must be strings"),
        ({"files": {"f": {"data": "eA=="}}, "data": "no form"}, "'data' must be a form"),
        ({"url": "http://[::1"}, "'url' is no URL"),
        ({"url": "http://a b/"}, "is no host name"),
        ({"url": "http://127.0.0.1:0/"}, "0 is no port"),
        ({"url": "http://127.0.0.1:99999/"}, "99999 is no port"),
        ({"url": "http://127.0.0.1:-1/"}, "-1 is no port"),
        ({"url": "http://xn--a/"}, "xn--a"),
        ({"url": "http://h/" + "é" * 40_000}, "'url' is no URL: longer than 32768 bytes"),
        ({"url": "http://h/" + "é" * 8_000}, "'url' is no URL: longer than 32768 bytes"),
        ({"url": "http://" + "@" * 30_000}, "'url' is no URL: a host of more than 2048 characters"),
        ({"url": "http://" + "é" * 2_000}, "'url' is no URL"),
        ({"url": "http://" + "a." * 500}, "is no host name"),
        ({"headers": {"X": "a\0b"}}, "cannot be sent as a header"),
        ({"headers": {"X": "a\nb"}}, "cannot be sent as a header"),
        ({"headers": {"X": ["a"] * 600}}, "'headers' may have 500 lines"),
        ({"files": {"f": {"data": "eA==", "content_type": "text/plain\r\nEvil: 1"}}}, "the content_type of 'f' has a line break"),
        ({"files": {"f": {"data": "eA==", "content_type": "a\0"}}}, "the content_type of 'f' has a line break"),
        ({"files": {"f": {"data": "eA"}}}, "the data of 'f' is not base64"),
        ({"files": {"f": {"data": "eA==", "content_type": 5}}}, "must be strings"),
        ({"files": {f"f{n}": {"data": ""} for n in range(1200)}}, "'files' may have 1000 files"),
        ({"files": {"f": {"data": ""}}, "data": "a=1&" * 1200 + "a=1"}, "'data' must be a form (a=1&b=2) of at most 1000 fields"),
        ({"files": {f"f{n}": {"data": ""} for n in range(600)}, "data": "a=1&" * 600 + "a=1"}, "1000 fields and files together"),
    ],
)  # fmt: skip
async def test_bad_fields_are_refused_by_name(server: str, fields: dict[str, Any], reason: str) -> None:
    """The reason names the field and what is wrong with it."""
    with pytest.raises(Refused) as raised:
        await command(server, **fields)
    assert reason in raised.value.reason


async def test_headers_files_and_fields_arrive(server: str) -> None:
    """Header values as strings or lists, files as an object or the documented list, data beside files as form fields."""
    import json

    file = {"file_name": "a.txt", "content_type": "text/x", "data": "aMOp"}
    said = json.loads(
        (await command(server, headers={"X-A": "1", "X-B": ["2", "3"], "Content-Length": "999"}, data="é")).body
    )
    assert (said["headers"]["x-a"], said["headers"]["x-b"], said["body"]) == ("1", "2, 3", "é")
    assert "content-type" not in said["headers"]
    for files in ({"one": file, "two": file}, [{"one": file}, {"two": file}]):
        said = json.loads(
            (await command(server, files=files, data="a=1&b=x+y", headers={"Content-Type": ["wrong"]})).body
        )
        assert said["files"] == {
            name: {"file_name": "a.txt", "content_type": "text/x", "data": "hé"} for name in ("one", "two")
        }
        assert said["fields"] == {"a": "1", "b": "x y"}


async def test_base64_may_have_line_breaks(server: str) -> None:
    """As the old sandbox took it, and as mail programs write it; other characters are refused."""
    import json

    said = json.loads((await command(server, files={"f": {"data": "aM\r\n Op\n\t"}})).body)
    assert said["files"]["f"]["data"] == "hé"


async def sent(**fields: Any) -> bytes:
    """What a command sends, to the byte."""
    async with raw_server(plain(b"ok")) as server:
        await command(server.url, **fields)
        return server.requests[0]


async def test_header_values_are_sent_as_they_are() -> None:
    """In UTF-8, empty, with spaces about them; a half of a surrogate pair becomes U+FFFD."""
    values = {
        "X-Name": ["Zoë"],
        "Authorization": "Bearer ",
        "X-Empty": "",
        "X-Spaces": "  a b\t",
        "X-Half": "a\ud83d",
        "X-C": "a\x01b",
    }
    head = await sent(headers=values)
    for line in (
        "X-Name: Zoë", "Authorization: Bearer ", "X-Empty: ", "X-Spaces:   a b\t", "X-Half: a\ufffd", "X-C: a\x01b"
    ):  # fmt: skip
        assert f"\r\n{line}\r\n".encode() in head


async def test_bodies_with_halves_of_pairs_are_sent() -> None:
    """With U+FFFD in their place, in data, fields, names and contents of files alike."""
    assert (await sent(data="a\ud83d😀")).endswith("\r\n\r\na\ufffd😀".encode())
    body = await sent(
        data="a=\ud83d", files={"\ud83d": {"file_name": "\ud83d.x", "data": "eA==", "content_type": "x\ud83d"}}
    )
    assert body.count("\ufffd".encode()) == 4


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/fin é/☃?q=ü".encode(), "/fin%20%C3%A9/%E2%98%83?q=%C3%BC"),
        ("/é".encode("latin-1"), "/%C3%A9"),
        (b"/a%20b?c=%C3%A9&d=[]{}|#frag", "/a%20b?c=%C3%A9&d=[]{}|"),
        (b"other", "/to/other"),
        (b"?x", "/to/here?x"),
        (b"../x/./y", "/x/y"),
        (b"", "/to/here"),
    ],
)  # fmt: skip
async def test_locations_lead_where_browsers_go(egress: Egress, location: bytes, path: str) -> None:
    """UTF-8 is UTF-8, else it is Latin-1; what is escaped stays."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(lambda _, index: Reply(plain(b"ok") if index else redirect)) as server:
        assert (await get(egress, f"{server.url}/to/here"))[1] == "ok"
        assert server.requests[1].split(b" ")[1].decode() == path


@pytest.mark.parametrize(
    "location",
    [b"//[", b"http://[::1", b"http://a:b/", b"http://xn--a/", b"\x01", b"http:///x", b"//a b/", b"http://h:99999/"],
)
async def test_locations_that_lead_nowhere(egress: Egress, location: bytes) -> None:
    """A reason, whatever they are."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(redirect) as server:
        with pytest.raises(EgressError) as raised:
            await get(egress, server.url)
        assert "Error(" not in str(raised.value)


async def test_urls_take_no_time() -> None:
    """The longest that there may be, of the characters that take longest, as an app's URL and as a Location."""
    for text in (
        "é" * 5400,
        " " * 10_000,
        "%A9a" * 8000,
        "a/../" * 6500,
        "?" + "`" * 10_000,
        "#" + "{" * 32_000,
        ":" * 32_000,
    ):
        for front in ("http://h/", "", "http://"):
            began = time.thread_time()
            try:
                url_of(front + text)
                joined(httpx2.URL("http://h/x"), front + text)
            except httpx2.InvalidURL:
                pass
            assert time.thread_time() - began < 2 * step_bound()


@given(
    st.text(alphabet=st.characters(codec=None), max_size=60),
    st.sampled_from(["", "http://", "http://h/", "//", "http://h?", "http:"]),
)
def test_any_text_is_a_url_or_refused(text: str, front: str) -> None:
    """By an error of its own kind; and it means the same as it does to httpx2, which takes longer."""
    try:
        url = url_of(front + text)
    except httpx2.InvalidURL:
        return
    assert url == httpx2.URL(clean(front + text))
    try:
        target_of(url, LOCAL)
        joined(url, text)
    except (EgressError, httpx2.InvalidURL):
        pass
