"""A disk that is full, and too little of other things: nobody loses an index for it."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.stores.search.engine import Behind, CannotBuild
from resources.stores.search.files import Files
from resources.stores.search.index import FLUSH_AT, View

from .indexes import people
from .served import COUNT, Served, serve


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[Served]:
    yield from serve(tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_too_few_descriptors_or_memory_cost_no_index(
    served: Served, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither when it is opened nor when it is searched."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def fail_in_search(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(View, "find", fail_in_search)
        with pytest.raises(MemoryError):
            served.find("*:*")
    served.restart()
    with monkeypatch.context() as patch:
        patch.setattr("resources.stores.search.files.check_index", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            served.find("*:*")
    assert len(served.find("name:other")) == COUNT - FLUSH_AT
    assert served.built == 1


def test_a_write_that_failed_leaves_nothing_in_the_file_of_keys(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the keys are on the disk when it is full; later ones are recorded after those that
    were before. The index is whole after a restart.
    """
    sync = os.fsync

    def full(descriptor: int) -> None:
        os.truncate(descriptor, os.fstat(descriptor).st_size - 7)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    served.write(people(FLUSH_AT, COUNT))
    assert len(served.find("*:*")) == COUNT + FLUSH_AT
    assert served.troubles
    monkeypatch.setattr(os, "fsync", sync)
    served.write(people(1, COUNT + FLUSH_AT))
    assert len(served.find("*:*")) == COUNT + FLUSH_AT + 1
    assert served.troubles[-1] == ("acct", "")
    served.troubles.clear()
    assert not Files.of(served.folder, "acct").damage()
    served.restart()
    assert served.find("key:k6*")[-1] == "k699"
    assert served.built == 1


def test_a_full_disk_costs_no_index(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is is kept and searched as long as memory has the rest; then the reason is said,
    and it goes on by itself when there is room.
    """
    before = {file: file.stat().st_ino for file in served.files if file.suffix == ".idx"}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Files, "save", full)
        served.write(people(FLUSH_AT, COUNT))
        assert len(served.find("*:*")) == COUNT + FLUSH_AT
        assert len(served.find("*:*")) == COUNT + FLUSH_AT
        assert set(before) <= set(served.files)
        served.write(people(2 * FLUSH_AT + 1000, COUNT))
        with pytest.raises(CannotBuild, match="No space left on device"):
            served.find("*:*")
    ((account, reason), *_) = served.troubles
    assert account == "acct"
    assert "No space left" in reason
    monkeypatch.setattr("resources.stores.search.troubles.RETRY_SECONDS", 0.0)
    assert len(served.find("*:*")) == COUNT + 2 * FLUSH_AT + 1000
    assert served.troubles.pop() == ("acct", "")
    served.troubles.clear()


def test_a_disk_that_is_full_when_the_engine_writes_costs_no_index(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads say only that they have failed. What is committed is kept, and what is missing
    is read when there is room.
    """
    monkeypatch.setattr("resources.stores.search.troubles.RETRY_SECONDS", 0.0)
    kept = {file: file.stat().st_ino for file in served.files if file.suffix == ".idx"}
    letters = random.Random(27)
    long = [" ".join(f"{letters.getrandbits(120):x}" for _ in range(20)) for _ in range(1100)]
    served.write([{**row, "name": long[n]} for n, row in enumerate(people(1100, COUNT))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (50_000, 500):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(Behind):
                next(served.engine.find("acct", "*:*", 0, None, 100))
            served.engine.work_behind()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large" in served.troubles[-1][1]
        assert not (served.folder / "a-acct" / "room").exists()
    assert kept == {file: file.stat().st_ino for file in kept}
    assert len(served.find("*:*")) == COUNT + 1100
    assert not Files.of(served.folder, "acct").damage()
    served.troubles.clear()
