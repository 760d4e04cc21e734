"""The http commands: what they refuse, and what they send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from resources.contract import Caller, Refused
from resources.http import Http, HttpSettings, Request
from resources.parameters import command_converter
from resources.stores.egress import open_egress

from ..echo_server import echo_server
from .raw_server import LOCAL, plain, raw_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with echo_server() as url:
        yield url


STRUCTURE = command_converter().get_structure_hook(Request)


async def command(server: str, **fields: Any) -> Any:
    """http.post through the resource, with its own checks."""

    async def log(level: int, message: str) -> None: ...

    settings = {HttpSettings: HttpSettings(LOCAL, 5.0)}
    caller = Caller("r1", "acct", "app", "phone", None, settings, log)
    async with open_egress() as egress:
        return await Http(egress).post(
            caller, STRUCTURE({"url": f"{server}/echo"} | fields, Request)
        )


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
        ({"url": "http://a b/"}, "is not a host name"),
        ({"url": "http://127.0.0.1:0/"}, "0 is not a port"),
        ({"url": "http://127.0.0.1:99999/"}, "99999 is not a port"),
        ({"url": "http://127.0.0.1:-1/"}, "-1 is not a port"),
        ({"url": "http://xn--a/"}, "xn--a"),
        ({"url": "http://h/" + "é" * 40_000}, "'url' is no URL: longer than 32768 bytes"),
        ({"url": "http://h/" + "é" * 8_000}, "'url' is no URL: longer than 32768 bytes"),
        ({"url": "http://" + "@" * 30_000}, "'url' is no URL: a host of more than 2048 characters"),
        ({"url": "http://" + "é" * 2_000}, "'url' is no URL"),
        ({"url": "http://" + "a." * 500}, "is not a host name"),
        ({"headers": {"X": "a\0b"}}, "cannot be sent as a header"),
        ({"headers": {"X": "a\nb"}}, "cannot be sent as a header"),
        ({"headers": {"X": ["a"] * 600}}, "'headers' may have 500 lines"),
        ({"files": {"f": {"data": "eA==", "content_type": "text/plain\r\nEvil: 1"}}},
            "the content_type of 'f' has a line break"),
        ({"files": {"f": {"data": "eA==", "content_type": "a\0"}}},
            "the content_type of 'f' has a line break"),
        ({"files": {"f": {"data": "eA"}}}, "the data of 'f' is not base64"),
        ({"files": {"f": {"data": "eA==", "content_type": 5}}}, "must be strings"),
        ({"files": {f"f{n}": {"data": ""} for n in range(1200)}}, "'files' may have 1000 files"),
        ({"files": {"f": {"data": ""}}, "data": "a=1&" * 1200 + "a=1"},
            "'data' must be a form (a=1&b=2) of at most 1000 fields"),
        ({"files": {f"f{n}": {"data": ""} for n in range(600)}, "data": "a=1&" * 600 + "a=1"},
            "1000 fields and files together"),
    ],
)  # fmt: skip
async def test_bad_fields_are_refused_by_name(
    server: str, fields: dict[str, Any], reason: str
) -> None:
    """The reason names the field and what is wrong with it."""
    with pytest.raises(Refused) as raised:
        await command(server, **fields)
    assert reason in raised.value.reason


async def test_headers_files_and_fields_arrive(server: str) -> None:
    """Header values as strings or lists, files as an object or the documented list, data beside
    files as form fields.
    """
    file = {"file_name": "a.txt", "content_type": "text/x", "data": "aMOp"}
    said = json.loads(
        (
            await command(
                server, headers={"X-A": "1", "X-B": ["2", "3"], "Content-Length": "999"}, data="é"
            )
        ).body
    )
    assert (said["headers"]["x-a"], said["headers"]["x-b"], said["body"]) == ("1", "2, 3", "é")
    assert "content-type" not in said["headers"]
    for files in ({"one": file, "two": file}, [{"one": file}, {"two": file}]):
        said = json.loads(
            (
                await command(
                    server, files=files, data="a=1&b=x+y", headers={"Content-Type": ["wrong"]}
                )
            ).body
        )
        assert said["files"] == {
            name: {"file_name": "a.txt", "content_type": "text/x", "data": "hé"}
            for name in ("one", "two")
        }
        assert said["fields"] == {"a": "1", "b": "x y"}


async def test_base64_may_have_line_breaks(server: str) -> None:
    """As the old sandbox took it, and as mail programs write it; other characters are refused."""
    said = json.loads((await command(server, files={"f": {"data": "aM\r\n Op\n\t"}})).body)
    assert said["files"]["f"]["data"] == "hé"


async def sent(**fields: Any) -> bytes:
    """What a command sends, to the byte."""
    async with raw_server(plain(b"ok")) as server:
        await command(server.url, **fields)
        return server.requests[0]


async def test_header_values_are_sent_in_utf_8() -> None:
    """Empty ones too; spaces round a value, which HTTP does not count, are left out; a half of a
    surrogate pair becomes U+FFFD.
    """
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
        "X-Name: Zoë", "Authorization: Bearer", "X-Empty: ", "X-Spaces: a b", "X-Half: a\ufffd",
        "X-C: a\x01b"
    ):  # fmt: skip
        assert f"\r\n{line}\r\n".encode() in head


async def test_bodies_with_halves_of_pairs_are_sent() -> None:
    """With U+FFFD in their place, in data, fields, names and contents of files alike."""
    assert (await sent(data="a\ud83d😀")).endswith("\r\n\r\na\ufffd😀".encode())
    body = await sent(
        data="a=\ud83d",
        files={"\ud83d": {"file_name": "\ud83d.x", "data": "eA==", "content_type": "x\ud83d"}},
    )
    assert body.count("\ufffd".encode()) == 4
