"""A probe that does not report."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config.model import Limits
from supervisor.jail import probe
from supervisor.jail.argv import Jail


def saying(script: str) -> Jail:
    """A probe that is a shell script."""
    return Jail(("/bin/sh", "-c", script), {"PATH": "/bin:/usr/bin"})


async def test_a_probe_that_is_killed_runs_again(tmp_path: Path) -> None:
    """What somebody killed proves nothing about the jail."""
    script = f'if mkdir {tmp_path}/was; then kill -9 $$; fi; echo \'{{"tcp": "EPERM"}}\''
    report = await probe._run(saying(script), Limits())
    assert report["tcp"] == "EPERM"
    assert (tmp_path / "was").exists()


@pytest.mark.parametrize(
    ("script", "said", "runs"),
    [("kill -9 $$", "nothing on stderr either", probe.TRIES), ("echo no >&2", "no", 1)],
)
async def test_a_probe_that_never_reports_has_failed(
    tmp_path: Path, script: str, said: str, runs: int
) -> None:
    """One that says why is believed at once."""
    report = await probe._run(saying(f"echo x >>{tmp_path}/runs; {script}"), Limits())
    assert report == {"failed": f"the probe said nothing: {said}"}
    assert (tmp_path / "runs").read_text() == "x\n" * runs
