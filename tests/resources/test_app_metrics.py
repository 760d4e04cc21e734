"""What apps fire, for Prometheus: last, sum and count of each name, and not too many names."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from resources.stores import app_metrics
from resources.stores.app_metrics import AppMetrics

from ..gateway_client import connect
from ..service import Folder, running

FIRES = """
var send = [['visits', 2], ['visits', -0.5], ['third', 1], ['fourth', 1]];
send.forEach(function (one) {
    api.request('metrics.fire', {store: 's', metric: one[0], value: one[1], agg: 'sum'});
});
api.request('metrics.fire', {store: 's', metric: 'visits', value: 1.5, agg: 'avg'}, function () {
    api.done();
});
"""


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one app, and of all; what is known goes on, what is left out is counted."""
    monkeypatch.setattr(app_metrics, "OF_APP_MAX", 2)
    monkeypatch.setattr(app_metrics, "ALL_MAX", 3)
    kept = AppMetrics()
    for app in ("a", "b"):
        for metric in ("x", "y", "z", "x"):
            kept.fire(app, "default", metric, 1.0)
    assert [(app, metric) for app, _, metric in kept.values] == [("a", "x"), ("a", "y"), ("b", "x")]
    assert kept.values["a", "default", "x"].count == 2
    assert kept.left_out == {"a": 1, "b": 2}


async def test_they_are_scraped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Graphite, and whatever the aggregator."""
    monkeypatch.setattr(app_metrics, "OF_APP_MAX", 2)
    folder = Folder(tmp_path)
    folder.app("phone", FIRES)
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("hi", "new")
        async with httpx2.AsyncClient(base_url=service.admin_url, trust_env=False) as admin:
            text = (await admin.get("/metrics")).text
    labels = '{app="phone",metric="visits",store="s"}'
    assert f"jsbox_app_metric_count{labels} 3.0" in text
    assert f"jsbox_app_metric_sum{labels} 3.0" in text
    assert f"jsbox_app_metric_last{labels} 1.5" in text
    assert 'metric="fourth"' not in text
    assert 'jsbox_app_metric_left_out_total{app="phone"} 1.0' in text
