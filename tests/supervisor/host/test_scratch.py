"""Temporary folders: removed at the end; those of a killed process are removed by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host.scratch import LOCK, open_scratch, remove_leftovers, scratch_folder

from .capabilities import CAP_CHOWN, has_capability

HOLDER = """
import time
from supervisor.host.scratch import scratch_folder
with scratch_folder('test') as folder:
    (folder / 'x').write_text('')
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path,
) -> None:
    """They are told apart by a lock, not by process ids, which are used again."""
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = []
    for holder in holders:
        assert holder.stdout is not None
        folders.append(Path(holder.stdout.readline().strip()))
        holder.stdout.close()
    holders[0].send_signal(signal.SIGKILL)
    holders[0].wait()
    remove_leftovers()
    assert [folder.exists() for folder in folders] == [False, True]
    holders[1].kill()
    holders[1].wait()
    with scratch_folder("other") as folder:
        assert folder.parent == tmp_path
        assert not folders[1].exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """A folder without our lock, a file, a link to elsewhere."""
    (tmp_path / "jsbox-my-notes").mkdir()
    (tmp_path / "jsbox-a-file").write_text("x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".lock").symlink_to(tmp_path / "jsbox-a-file")
    (tmp_path / "jsbox-a-link").symlink_to(elsewhere)
    (tmp_path / "jsbox-lock-link").mkdir()
    (tmp_path / "jsbox-lock-link" / ".lock").symlink_to(tmp_path / "jsbox-a-file")
    remove_leftovers()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_folder_that_was_taken_away_is_made_again_with_its_lock(tmp_path: Path) -> None:
    """Empty, with its mode; and no other process takes it for a leftover."""
    with open_scratch("test", 0o755) as scratch:
        assert scratch.is_there()
        (scratch.path / "x").write_text("")
        shutil.rmtree(scratch.path)
        assert scratch.is_there()
        assert scratch.path.stat().st_mode & 0o777 == 0o755
        remove_leftovers()
        assert [file.name for file in scratch.path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_somebody_else_took_is_not_ours(tmp_path: Path) -> None:
    """A file, a link, a folder that others may write: nothing is read from it, and it ends without
    an error.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with open_scratch("test") as scratch:
        for take in (
            lambda: scratch.path.write_text(""),
            lambda: scratch.path.symlink_to(elsewhere),
            lambda: (scratch.path.mkdir(), scratch.path.chmod(0o777)),
        ):
            shutil.rmtree(
                scratch.path
            ) if scratch.path.is_dir() and not scratch.path.is_symlink() else scratch.path.unlink()
            take()
            assert not scratch.is_there()
        if has_capability(CAP_CHOWN):
            scratch.path.chmod(0o755)
            os.chown(scratch.path, 12345, 12345)
            assert not scratch.is_there()
    assert elsewhere.is_dir()


def test_a_folder_that_cannot_be_made_again_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary folder itself has gone, too."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    with open_scratch("test") as scratch:
        shutil.rmtree(place)
        assert not scratch.is_there()
        remove_leftovers()


def test_a_cleaner_that_asks_for_locks_leaves_it_alone() -> None:
    """systemd-tmpfiles passes over a folder that somebody holds a lock of."""
    with open_scratch("test") as scratch:
        descriptor = os.open(scratch.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
