"""Temporary folders: removed at the end, and those of the dead by whoever comes next."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host.scratch import remove_leftovers, scratch_folder

HOLDER = "import time\nfrom supervisor.scratch import scratch_folder\nwith scratch_folder('test') as folder:\n    (folder / 'x').write_text('')\n    print(folder, flush=True)\n    time.sleep(60)\n"


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path,
) -> None:
    """Told apart by a lock, not by process ids, which come again."""
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
