"""The work of the exporting process: it reads batches of runs from its standard input, sends their
spans with OpenTelemetry's SDK, and answers each batch in a line on its standard output.

What it cannot send within `Begin.seconds` it gives up. Its parent kills it if it does not even do
that: a collector may answer byte by byte, or for ever.
"""

from __future__ import annotations

import logging
import os
import sys
from http import HTTPStatus
from typing import Any, NoReturn

import msgspec
import requests
from attrs import define
from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from requests.utils import get_auth_from_url

from resources.text import visible

from .spans import Spans
from .words import NO_REASON, Begin, Done, Run, begin_of, in_a_line, line, runs_of, traces_url

NICE = 10  # runs come first
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
SUCCESS = range(200, 300)
PIECE = 8192  # bytes of an answer at a time
ANSWER_MAX = 64 << 10  # bytes of an answer that are read


class NotTaken(Exception):
    """The collector's answer is no success, whatever its status says."""


@define(eq=False)
class Exporting:
    """Sends batches to one collector."""

    _spans: Spans
    _exporter: OTLPSpanExporter
    _heard: Heard

    def export(self, runs: list[Run]) -> Done:
        """Send the spans of these runs; without any run, a request that has none."""
        spans = [span for run in runs for span in self._spans.of(run)]
        if runs and not spans:
            return Done()
        self._heard.clear()
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            return Done(failed=len(spans), problem=self._heard.problem or NO_REASON)
        rejected = min(self._heard.rejected, len(spans))
        return Done(
            exported=len(spans) - rejected,
            rejected=rejected,
            problem=self._heard.problem if rejected else "",
        )


class Heard(logging.Handler):
    """What the collector, and the SDK's log, say about one batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.rejected, self.problem = 0, ""

    def clear(self) -> None:
        """Begin a batch."""
        self.rejected, self.problem = 0, ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of the SDK's log: later ones say that it gives up."""
        self.problem = self.problem or visible(in_a_line(record.getMessage()))

    def answer(self, response: requests.Response, **_: Any) -> None:
        """Look at an answer before the SDK does, which takes redirects and web pages for success.
        Raises NotTaken.
        """
        try:
            self._look(response)
        finally:
            response.close()  # keeps the connection if the answer was read to its end

    def _look(self, response: requests.Response) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        status = response.status_code
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            self._refuse(f"it redirects (status {status}): the endpoint is another one")
        body = _body(response)
        if status >= HTTPStatus.BAD_REQUEST:
            return  # the SDK tries again, or gives up
        if status not in SUCCESS:
            self._refuse(f"it answers with status {status}")
        if kind == "text/html":
            self._refuse("it answers with a web page: it is no OTLP endpoint")
        if len(body) > ANSWER_MAX:
            self._refuse(f"its answer has more than {ANSWER_MAX} bytes")
        try:
            rejected, message = _partial(kind, body)
        except (ProtobufError, msgspec.DecodeError, ValueError):
            self._refuse(f"its answer is no {kind}")
        self.rejected = max(rejected, 0)
        if message:
            self.problem = visible(in_a_line(message))

    def _refuse(self, problem: str) -> NoReturn:
        self.problem = problem
        raise NotTaken(problem)


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int | str = 0  # in JSON, 64 bits are a string
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


def _body(response: requests.Response) -> bytes:
    """As much of an answer as matters: one piece more than `ANSWER_MAX` at most."""
    body = b""
    for piece in response.iter_content(PIECE):
        body += piece
        if len(body) > ANSWER_MAX:
            break
    return body


def _partial(kind: str, body: bytes) -> tuple[int, str]:
    """How many spans were refused, and why. Raises DecodeError, ValueError."""
    if kind == PROTOBUF:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
        return partial.rejected_spans, partial.error_message
    if kind == JSON and body:
        found = msgspec.json.decode(body, type=_Answer).partial_success or _Partial()
        return int(found.rejected_spans), found.error_message
    return 0, ""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def exporting(begin: Begin) -> Exporting:
    """Prepare for a collector. The SDK reads what else it needs from OTEL_* in the environment."""
    heard = Heard()
    logging.getLogger("opentelemetry").addHandler(heard)
    url = traces_url(begin.endpoint)
    session = requests.Session()
    session.stream = True  # so that `Heard` reads the answer, and not all of it
    # Without this, ~/.netrc is read, and wins over OTEL_EXPORTER_OTLP_HEADERS and the endpoint.
    login = get_auth_from_url(url)
    session.auth = login if any(login) else _as_it_is
    session.hooks["response"].append(heard.answer)
    exporter = OTLPSpanExporter(url, timeout=begin.seconds, session=session)
    resource = Resource.create({"service.version": begin.version, "host.name": os.uname().nodename})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "jsbox"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # reads the sampler
    spans = Spans(
        resource,
        InstrumentationScope("jsbox", begin.version),
        provider.sampler,
        RandomIdGenerator(),
    )
    return Exporting(spans, exporter, heard)


def work() -> None:
    """Work until the standard input ends."""
    os.nice(NICE)
    # Answers have the pipe for themselves: whatever a library prints goes to the standard error.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    read = sys.stdin.buffer
    sending = exporting(begin_of(read.readline()))
    answers.write(line(Done()))
    for text in read:
        answers.write(line(sending.export(runs_of(text))))
