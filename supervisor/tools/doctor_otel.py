"""A check of OpenTelemetry's collector: does it take a request of ours, which has no spans."""

from __future__ import annotations

from ..host.process import SpawnFailed
from ..otel.exporter import DISABLED, Lost, ask, is_disabled
from ..runs.traces import without_userinfo
from .finding import Check

NAME = "traces"
REMEDY = (
    "is a collector running there, with OTLP over HTTP (port 4318)? otel.endpoint;"
    " if it wants a token: OTEL_EXPORTER_OTLP_HEADERS"
)


async def check_collector(endpoint: str) -> Check:
    """Ask it as the service does, with the OTEL_* settings of this environment."""
    where = without_userinfo(endpoint)
    if is_disabled():
        return Check(NAME, "note", f"{DISABLED} is true: none are exported", f"unset {DISABLED}")
    try:
        problem = await ask(endpoint)
    except (Lost, SpawnFailed) as error:
        problem = str(error)
    if problem:
        text = f"{where} takes none: {without_userinfo(problem)}"
        return Check(NAME, "failed", text, REMEDY)
    return Check(NAME, "ok", f"{where} takes them")
