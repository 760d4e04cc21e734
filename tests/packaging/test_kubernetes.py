"""The example of docs/kubernetes.md: jsbox takes its config, and the pod mounts what it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from supervisor.config import load

DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
DIGEST = "0" * 64


def objects() -> dict[str, Any]:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_the_example_fits_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config is valid; ports, folders and names agree."""
    found = objects()
    for name, text in found["ConfigMap"]["data"].items():
        (tmp_path / name).write_text(text)
    for name in ("JSBOX_ADMIN", "JSBOX_USSD"):
        monkeypatch.setenv(name, DIGEST)
    file = tmp_path / "jsbox.toml"
    text = file.read_text()
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert re.search(r'data_dir = "(.*)"', text)[1] in mounted  # type: ignore[index]
    assert re.search(r'certificate = "(.*)/', text)[1] in mounted  # type: ignore[index]
    own = {one["name"] for one in pod["volumes"]}
    claims = found["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert set(mounted.values()) == own | {one["metadata"]["name"] for one in claims}
    # The files of the secret are not here, nor may this user write where the pod does.
    without = re.sub(r"^(certificate|key) = .*\n", "", text, flags=re.MULTILINE)
    file.write_text(
        without.replace("/var/lib/jsbox", str(tmp_path / "data")).replace("0.0.0.0", "127.0.0.1")
    )
    config = load(file)
    ports = {one["containerPort"] for one in container["ports"]}
    assert ports == {config.listen.gateway.port, config.listen.admin.port}
    assert {one["port"] for one in found["Service"]["spec"]["ports"]} <= ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == config.listen.admin.port
