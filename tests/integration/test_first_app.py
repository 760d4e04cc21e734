"""docs/first-app.md is true: every block is run or put where the page says, and every line that it
shows of an output is there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first-app.md"
SECONDS = 240
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"In\s`([\w./]+)`,\s(above|instead\sof)\s`([^`]+)`:\s*$")
NEW_FILE = re.compile(r"A\snew\sfile\s`([\w./]+)`:\s*$")


def shell(command: str, folder: Path, path: str) -> tuple[str, Path]:
    """Run a block in a shell; return what it wrote, and the folder that it is in at the end."""
    last = folder / ".pwd"
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", f'{command}\npwd > "$LAST"'],
        cwd=folder,
        env=os.environ | {"PATH": path, "LAST": str(last)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout, Path(last.read_text().strip())


def edit(folder: Path, before: str, block: str) -> None:
    """Put a block where the text before it says."""
    if new := NEW_FILE.search(before):
        file = folder / new[1]
        assert not file.exists()
        file.write_text(block)
        return
    place = PLACE.search(before)
    assert place is not None, f"the page does not say where this goes:\n{block}"
    file, anchor = folder / place[1], place[3]
    text = file.read_text()
    assert text.count(anchor) == 1, f"{place[1]} has {anchor!r} {text.count(anchor)} times"
    kept = anchor if place[2] == "above" else ""
    file.write_text(text.replace(anchor, block.removesuffix("\n") + kept))


@pytest.mark.slow
def test_every_block_of_the_tutorial(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    jsbox = programs / "jsbox"
    jsbox.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m supervisor "$@"\n')
    jsbox.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    folder, output, text = tmp_path, "", PAGE.read_text("utf-8")
    kinds, end = [], 0
    for found in BLOCK.finditer(text):
        kind, block = found[1], found[2]
        kinds.append(kind)
        if kind == "sh":
            output, folder = shell(block, folder, path)
        elif kind == "text":
            at = 0
            for line in block.splitlines():
                assert line in output[at:], f"{line!r} is not in\n{output[at:]}"
                at = output.index(line, at) + len(line)
        else:
            edit(folder, text[end : found.start()], block)
        end = found.end()
    assert {"sh", "text", "js", "toml"} == set(kinds)
