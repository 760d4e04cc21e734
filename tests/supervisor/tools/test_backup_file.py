"""The file of a backup is made anew, whatever somebody else has put in its place."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from supervisor.tools import backup


@pytest.mark.parametrize("planted", ["file", "link", "dangling"])
def test_a_planted_draft_is_neither_followed_nor_used(tmp_path: Path, planted: str) -> None:
    """In a shared folder: a file that others may read, or a link to one of ours."""
    snapshot, precious = tmp_path / "dump.rdb", tmp_path / "precious"
    snapshot.write_bytes(b"data")
    precious.write_text("precious")
    target = tmp_path / "shared" / "monday.tar"
    target.parent.mkdir()
    draft = target.with_name("monday.tar.new")
    if planted == "file":
        draft.touch(mode=0o666)
        held = os.open(draft, os.O_RDONLY)  # the other one would read along
    else:
        draft.symlink_to(precious if planted == "link" else tmp_path / "nowhere")
        held = os.open(precious, os.O_RDONLY)
    try:
        backup._write(target, {"version": 1, "bytes": 4}, snapshot)
        assert os.read(held, 100) == (b"" if planted == "file" else b"precious")
    finally:
        os.close(held)
    assert target.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "nowhere").exists()
    assert not draft.is_symlink()
    with tarfile.open(target) as tar:
        assert len(tar.getnames()) == 2
