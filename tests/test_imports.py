"""The direction of imports, as .importlinter has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_imports_point_down() -> None:
    """From the command line to the protocol; each resource on its own; the contracts in
    .importlinter are kept.
    """
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", lint],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 kept, 0 broken" in done.stdout, done.stdout + done.stderr
