"""The harness's own tests, with the Node.js that the product runs it with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .apps import NODE
from .programs import COMMAND_SECONDS

SANDBOX_JS = Path(__file__).parent.parent / "sandbox_js"
FILES = sorted(SANDBOX_JS.glob("test/*.test.js"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_harness_passes_its_own_tests(file: Path) -> None:
    """`node --test` in sandbox_js."""
    done = subprocess.run(
        [NODE, "--test", f"--test-timeout={COMMAND_SECONDS * 500}", file],
        cwd=SANDBOX_JS,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "fail 0\n" in done.stdout
    assert "skipped 0\n" in done.stdout
