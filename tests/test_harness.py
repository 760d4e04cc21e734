"""The harness's own tests, with the Node.js that the product runs it with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .apps import NODE

SANDBOX_JS = Path(__file__).parent.parent / "sandbox_js"


def test_the_harness_passes_its_own_tests() -> None:
    """`node --test` in sandbox_js, every file."""
    done = subprocess.run(
        [NODE, "--test", "--test-timeout=30000", *sorted(SANDBOX_JS.glob("test/*.test.js"))],
        cwd=SANDBOX_JS,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "fail 0\n" in done.stdout
    assert "skipped 0\n" in done.stdout
