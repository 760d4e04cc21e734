"""URLs and Locations as apps and servers write them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.egress import Egress, EgressError, open_egress, url_of
from resources.stores.egress.route import target_of
from resources.stores.egress.urls import joined
from resources.text import clean

from ..lag import step_bound
from .raw_server import LOCAL, Reply, get, plain, raw_server


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with open_egress() as egress:
        yield egress


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
        assert (await get(egress, f"{server.url}/to/here")).body == "ok"
        assert server.requests[1].split(b" ")[1].decode() == path


@pytest.mark.parametrize(
    "location",
    [
        b"//[",
        b"http://[::1",
        b"http://a:b/",
        b"http://xn--a/",
        b"\x01",
        b"http:///x",
        b"//a b/",
        b"http://h:99999/",
    ],
)
async def test_locations_that_lead_nowhere(egress: Egress, location: bytes) -> None:
    """A reason, whatever they are."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(redirect) as server:
        with pytest.raises(EgressError) as raised:
            await get(egress, server.url)
        assert "Error(" not in str(raised.value)


async def test_urls_take_no_time() -> None:
    """The longest that there may be, of the characters that take longest, as an app's URL and as a
    Location.
    """
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
    """By an error of its own kind; and it means the same as to httpx2, which takes longer."""
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
