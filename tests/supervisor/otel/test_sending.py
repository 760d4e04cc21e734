"""What is sent to a collector to be let in."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from supervisor.otel.sending import exporting
from supervisor.otel.words import Begin

from ...otlp import receiver
from .test_spans import RUN


@pytest.mark.parametrize("user", ["", "ann:p%40ss@"])
def test_no_password_of_netrc_is_sent(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that of the endpoint, or OTEL_EXPORTER_OTLP_HEADERS."""
    (tmp_path / "netrc").write_text("default login eve password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    with receiver() as collector:
        done = exporting(Begin(collector.url.replace("//", f"//{user}"), "1")).export([RUN])
        assert done.exported > 0
    basic = "Basic " + b64encode(b"ann:p@ss").decode()
    assert collector.heads[0][1]["authorization"] == (basic if user else "Bearer abc")
