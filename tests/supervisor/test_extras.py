"""The files that go with a service: they name metrics that there are, and Prometheus itself takes
them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx2 as httpx
import pytest

from supervisor.admin.process_metrics import RESTARTS, UP
from supervisor.cli.extras import FILES, FOLDER

from ..gateway_client import PATIENCE, connect
from ..programs import jsbox, promtool
from ..service import ECHO, Folder, running

METRIC = re.compile(r"\b(?:jsbox|process)_[a-z_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def test_each_is_printed_by_name() -> None:
    """And a list without one; a wrong name is a usage error that names the right ones."""
    listed = jsbox("extras")
    assert all(name in listed.stdout for name in FILES)
    for name in FILES:
        assert jsbox("extras", name).stdout == (FOLDER / name).read_text()
    wrong = jsbox("extras", "nope")
    assert wrong.returncode == 2
    assert "alerts.yml" in wrong.stderr


async def test_they_name_metrics_that_there_are(tmp_path: Path) -> None:
    """Each metric in the rules and on the dashboard is among those that a running service shows."""
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("hi", "new")
        async with httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin:
            text = (await admin.get("/metrics")).text
    there = {*re.findall(r"^# TYPE (\S+)", text, re.MULTILINE), UP[0], RESTARTS[0]}
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    used = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in (*used, (FOLDER / "alerts.yml").read_text()):
        for name in METRIC.findall(re.sub(r"^#.*", "", expression, flags=re.MULTILINE)):
            assert name in there or SUFFIX.sub("", name) in there, name


@pytest.mark.slow
def test_prometheus_takes_the_rules_and_the_metrics(tmp_path: Path) -> None:
    """promtool checks the rules, plays a test of them, and lints what /metrics says."""
    program = promtool()
    shutil.copy(FOLDER / "alerts.yml", tmp_path / "alerts.yml")
    done = subprocess.run(
        [program, "check", "rules", "alerts.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "test.yml").write_text(
        "rule_files: [alerts.yml]\nevaluation_interval: 1m\ntests:\n"
        "- interval: 1m\n  input_series:\n"
        '  - { series: \'jsbox_missing_replies_total{app="phone",instance="a"}\', values:'
        " '0+2x20' }\n"
        "  - { series: 'jsbox_app_tripped{app=\"phone\",instance=\"a\"}', values: '0x10 1x10' }\n"
        "  - { series: 'jsbox_app_tripped{app=\"well\",instance=\"a\"}', values: '0x20' }\n"
        "  alert_rule_test:\n"
        "  - eval_time: 15m\n    alertname: JsboxMissingReplies\n    exp_alerts:\n"
        "    - exp_labels: { app: phone, instance: a, severity: page }\n"
        "      exp_annotations:\n"
        "        summary: 'phone: 20 users got no reply from the app in 10 minutes'\n"
        "        action: 'jsbox trace --app phone --notable; jsbox logs phone'\n"
        "  - eval_time: 5m\n    alertname: JsboxAppTripped\n    exp_alerts: []\n"
        "  - eval_time: 15m\n    alertname: JsboxAppTripped\n    exp_alerts:\n"
        "    - exp_labels: { app: phone, instance: a, severity: page }\n"
        "      exp_annotations:\n"
        "        summary: 'phone is tripped or broken: none of its messages run until a reload;"
        " /readyz says why'\n"
        "        action: 'jsbox logs phone; fix it, then jsbox reload'\n"
    )
    done = subprocess.run(
        [program, "test", "rules", "test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
