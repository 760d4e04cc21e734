"""http: calls to outside services, as far as the operator allows."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import trio
from attrs import frozen

from .contract import Caller, Refused, Resource, command
from .messages import shown
from .parameters import Json, parameter
from .stores.egress import DROPPED, Egress, EgressError, Policy, excerpt, url_of
from .text import clean

NO_URL = "No URL given"  # in the words of the old sandbox, also for a number
VERIFY_OPTIONS = ("VERIFY_NONE", "VERIFY_PEER", "VERIFY_CLIENT_ONCE", "VERIFY_FAIL_IF_NO_PEER_CERT")
SSL_METHODS = ("SSLv3", "SSLv23", "TLSv1")
HEADERS_WRONG = "'headers' must be an object of strings or lists of strings"
FILES_WRONG = (
    "'files' must be an object of {file_name, content_type, data}, or a list of such objects"
)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[^\x00\r\n]*")
CONTENT_TYPE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
HEADERS_MAX = 500  # header lines of a request
PARTS_MAX = 1000  # fields and files of a form
WHITE_SPACE = str.maketrans("", "", " \t\r\n")
USER_AGENT = "jsbox"


@frozen
class HttpSettings:
    """What an app may reach, and the seconds that a whole exchange may take."""

    policy: Policy
    timeout: float


def _url_wrong(value: Any) -> str:
    is_none = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return NO_URL if is_none else f"'url' must be a string, not {shown(value)}"


@frozen
class Request:
    """Any http command."""

    url: str = parameter(missing=NO_URL, wrong=_url_wrong)
    headers: dict[str, Any] | None = parameter(None, wrong=HEADERS_WRONG)
    data: str | None = parameter(None, wrong="'data' must be a string or null")
    files: Json = None
    verify_options: Json = None
    ssl_method: Json = None


@frozen
class Response:
    """The status code and the body as text."""

    code: int
    body: str


@frozen
class Http(Resource):
    """The http commands."""

    egress: Egress

    @command("http.get")
    async def get(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP GET request."""
        return await self._fetch("GET", caller, request)

    @command("http.post")
    async def post(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP POST request."""
        return await self._fetch("POST", caller, request)

    @command("http.put")
    async def put(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP PUT request."""
        return await self._fetch("PUT", caller, request)

    @command("http.delete")
    async def delete(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP DELETE request."""
        return await self._fetch("DELETE", caller, request)

    @command("http.head")
    async def head(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP HEAD request."""
        return await self._fetch("HEAD", caller, request)

    @command("http.patch")
    async def patch(self, caller: Caller, request: Request) -> Response:
        """Make an HTTP PATCH request."""
        return await self._fetch("PATCH", caller, request)

    async def _fetch(self, method: str, caller: Caller, request: Request) -> Response:
        settings = caller.setting(HttpSettings)
        verify = _verify(request)
        built = _build(method, request)
        try:
            with trio.fail_after(settings.timeout):
                answer = await self.egress.fetch(caller.app, built, settings.policy, verify=verify)
        except trio.TooSlowError as error:
            raise Refused(
                f"{method} {excerpt(request.url)} timed out after {settings.timeout:g} s"
            ) from error
        except EgressError as error:
            raise Refused(str(error)) from error
        return Response(answer.code, answer.body)


def _verify(request: Request) -> bool:
    """Whether to check the server's certificate: yes, unless the app asks for VERIFY_NONE only."""
    options = [] if request.verify_options is None else request.verify_options
    if not isinstance(options, list):
        raise Refused(f"'verify_options' must be a list, not {shown(options)}")
    for option in options:
        if option not in VERIFY_OPTIONS:
            raise Refused(
                f"'verify_options' may only contain {', '.join(VERIFY_OPTIONS)}, not "
                f"{shown(option)}"
            )
    if request.ssl_method is not None and request.ssl_method not in SSL_METHODS:
        raise Refused(
            f"'ssl_method' must be one of {', '.join(SSL_METHODS)}, not {shown(request.ssl_method)}"
        )
    return bool(options != ["VERIFY_NONE"])


def _build(method: str, request: Request) -> httpx2.Request:
    headers = _headers(request.headers)
    try:
        url = url_of(request.url)
    except httpx2.InvalidURL as error:
        raise Refused(f"'url' is no URL: {error}") from error
    # otherwise httpx2 decodes the host to its own script, which fails for some
    headers.append((b"Host", url.netloc))
    if not request.files:
        content = None if request.data is None else clean(request.data).encode()
        return httpx2.Request(method, url, headers=headers, content=content)
    # We choose the boundary.
    headers = [(name, value) for name, value in headers if name.lower() != b"content-type"]
    fields, files = _fields(request.data), _files(request.files)
    if sum(map(len, fields.values())) + len(files) > PARTS_MAX:
        raise Refused(f"'data' and 'files' may have {PARTS_MAX} fields and files together")
    try:
        return httpx2.Request(method, url, headers=headers, data=fields, files=files)
    except ValueError as error:
        raise Refused(f"'files' cannot be sent as a form: {error}") from error


def _headers(given: dict[str, Any] | None) -> list[tuple[bytes, bytes]]:
    """The headers to send: values in UTF-8."""
    headers: list[tuple[bytes, bytes]] = []
    for name, values in (given or {}).items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise Refused(f"{HEADERS_WRONG}; {shown(name)} has {shown(value)}")
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                raise Refused(
                    f"'headers': {shown(name)}: {shown(value)} cannot be sent as a header"
                )
            if name.lower() not in DROPPED:
                headers.append((name.encode(), clean(value).encode()))
            if len(headers) > HEADERS_MAX:
                raise Refused(f"'headers' may have {HEADERS_MAX} lines")
    names = {name.lower() for name, _ in headers}
    if b"accept-encoding" not in names:
        headers.append((b"Accept-Encoding", b"gzip, deflate"))
    if b"user-agent" not in names:
        headers.append((b"User-Agent", USER_AGENT.encode()))
    return headers


def _fields(data: str | None) -> dict[str, list[str]]:
    """The fields to post beside files, from `data` as a form: a=1&b=2."""
    if not data:
        return {}
    try:
        pairs = parse_qsl(
            clean(data), keep_blank_values=True, strict_parsing=True, max_num_fields=PARTS_MAX
        )
    except ValueError as error:
        raise Refused(
            f"'data' must be a form (a=1&b=2) of at most {PARTS_MAX} fields where there are 'files'"
        ) from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _files(given: Any) -> list[tuple[str, tuple[str | None, bytes, str | None]]]:
    files: list[tuple[str, tuple[str | None, bytes, str | None]]] = []
    for group in given if isinstance(given, list) else [given]:
        if not isinstance(group, dict):
            raise Refused(f"{FILES_WRONG}, not {shown(group)}")
        for name, file in group.items():
            files.append((clean(name), _file(name, file)))
            if len(files) > PARTS_MAX:
                raise Refused(f"'files' may have {PARTS_MAX} files")
    return files


def _file(name: str, file: Any) -> tuple[str, bytes, str | None]:
    if not isinstance(file, dict) or not isinstance(file.get("data"), str):
        raise Refused(f"{FILES_WRONG}; {shown(name)} is {shown(file)}")
    file_name, content_type = file.get("file_name", name), file.get("content_type")
    if not isinstance(file_name, str) or not isinstance(content_type, str | None):
        raise Refused(f"{FILES_WRONG}; file_name and content_type of {shown(name)} must be strings")
    if content_type is not None and not CONTENT_TYPE.fullmatch(content_type):
        raise Refused(
            f"'files': the content_type of {shown(name)} has a line break or control character: "
            f"{shown(content_type)}"
        )
    try:
        content = base64.b64decode(file["data"].translate(WHITE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"'files': the data of {shown(name)} is not base64") from error
    return clean(file_name), content, None if content_type is None else clean(content_type)
