"""The store's files after a full disk or a power cut: what can be kept is kept, what is lost is
reported, and what was replaced is kept aside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.store import append_only as aof
from supervisor.store.append_only_scan import CHUNK, Scan, scan

BASE, INCR = "appendonly.aof.1.base.rdb", "appendonly.aof.1.incr.aof"


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(word), word) for word in words
    )


SET = command(b"SET", b"key", b"value with \r\n*1\r\n$4\r\nPING\r\n in it")
GET = command(b"GET", b"")
MULTI, EXEC = command(b"MULTI"), command(b"EXEC")


def scan_of(tmp_path: Path, data: bytes) -> Scan:
    file = tmp_path / "file"
    file.write_bytes(data)
    return scan(file)


def kept_of(tmp_path: Path, data: bytes) -> bytes:
    return b"".join(data[start:end] for start, end in scan_of(tmp_path, data).kept)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SET,
        SET + GET * 100,
        MULTI + SET + EXEC + GET,
        b"#TS:1700000000\r\n" + SET,
        command(b"SET", b"k", b"\0" * (3 * CHUNK)),
    ],
)
def test_a_whole_file_is_whole(tmp_path: Path, data: bytes) -> None:
    """Empty, one command, transactions, annotations, values that are larger than what is read at a
    time.
    """
    found = scan_of(tmp_path, data)
    assert found.is_whole
    assert found.lost == 0
    assert found.kept_bytes == len(data)


@pytest.mark.parametrize(
    ("data", "kept", "lost"),
    [
        (SET + GET[:-1], SET, len(GET) - 1),  # the last command cut short
        (SET + b"*", SET, 1),
        (SET + b"*3\r\n$3\r\nSET\r\n$1000000000\r\nx", SET, 27),
        (SET + b"\0" * 5000, SET, 0),  # nothing but zeros after it
        (SET + b"\0" * (2 * CHUNK), SET, 0),
        # what follows rubbish may be what an app wrote
        (SET + b"rubbish" + GET, SET, 7 + len(GET)),
        (SET + b"rub\0\0\0", SET, 3),
        (SET + b"\0\0rubbish", SET, 9),
        # zeros within a command are no hole between two
        (SET + GET[:-3] + b"\0\0\0" + SET, SET, len(GET) + len(SET)),
        (SET + b"\0" * 25855 + GET + SET, SET + GET + SET, 0),  # a hole
        (SET + b"\0" + GET + b"\0" * CHUNK + SET + b"\0\0", SET + GET + SET, 0),
        (b"\0" * 100 + SET, SET, 0),
        (b"\0" * 100, b"", 0),
        (SET + MULTI + GET, SET, len(MULTI + GET)),  # a transaction without its end
        (SET + MULTI + GET + EXEC[:-1], SET, len(MULTI + GET + EXEC) - 1),
        (SET + MULTI + GET + b"\0\0" + SET, SET + SET, len(MULTI + GET)),
        (MULTI + SET + EXEC + b"*1\r\n$5\r\nmulti\r\n" + GET, MULTI + SET + EXEC, 15 + len(GET)),
        (SET + b"*0\r\n", SET, 4),
        (SET + b"*-1\r\n", SET, 5),
        (SET + b"*1\r\n$-1\r\n", SET, 9),
        (SET + b"*1\r\n$4\r\nPINGxx", SET, 14),
        (SET + "*١\r\n".encode(), SET, 5),  # digits of another script
        (SET + b"#" * 5000, SET, 5000),
    ],
)
def test_what_is_kept_of_a_damaged_file(
    tmp_path: Path, data: bytes, kept: bytes, lost: int
) -> None:
    """Every whole command up to garbage, and beyond holes; and how many bytes were, or may have
    been, commands.
    """
    assert kept_of(tmp_path, data) == kept
    assert scan_of(tmp_path, data).lost == lost


@given(
    st.lists(st.sampled_from([SET, GET, MULTI + SET + EXEC, b"#x\r\n"]), max_size=5),
    st.binary(max_size=40),
    st.integers(0, 300),
)
def test_whatever_follows_whole_commands_is_never_more_than_cut_off(
    tmp_path_factory: pytest.TempPathFactory, commands: list[bytes], tail: bytes, cut: int
) -> None:
    """Garbage of any kind, a cut anywhere: what is kept begins with all earlier commands, and is
    itself whole.
    """
    place = tmp_path_factory.mktemp("scan")
    data = (b"".join(commands) + tail)[: cut or None]
    kept = kept_of(place, data)
    assert scan_of(place, kept).is_whole
    whole = b""
    for one in commands:
        if len(whole + one) > len(data):
            break
        whole += one
    assert kept.startswith(whole) or MULTI in kept
    assert len(kept) <= len(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server's folder, all well."""
    place = tmp_path / aof.FOLDER
    place.mkdir()
    (place / BASE).write_bytes(b"REDIS0011")
    (place / INCR).write_bytes(SET)
    write_manifest(tmp_path, (BASE, 1, "b"), (INCR, 1, "i"))
    return tmp_path


def write_manifest(folder: Path, *lines: tuple[str, int, str], cut: int = 0) -> None:
    text = "".join(f"file {name} seq {seq} type {kind}\n" for name, seq, kind in lines)
    (folder / aof.FOLDER / aof.MANIFEST).write_text(text[: len(text) - cut])


def incr(seq: int) -> str:
    return f"appendonly.aof.{seq}.incr.aof"


def listed(folder: Path) -> list[str]:
    return [
        line.split()[1] for line in (folder / aof.FOLDER / aof.MANIFEST).read_text().splitlines()
    ]


def test_nothing_is_done_where_all_is_well(folder: Path) -> None:
    """No file is written, no copy is kept."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert aof.look(folder).is_sound
    assert aof.repair(folder, 0) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (SET + GET[:5], SET),
        (SET + b"\0" * 4000, SET),
        (SET + b"\0" * 4000 + GET, SET + GET),
        (SET + b"?" * 99, SET),
    ],
)
def test_an_increment_is_repaired_and_the_damaged_one_is_kept(
    folder: Path, damage: bytes, kept: bytes
) -> None:
    """A line says how many bytes, in the copy's folder, too; a second repair has nothing to do."""
    file = folder / aof.FOLDER / INCR
    file.write_bytes(damage)
    done = aof.repair(folder, 0)
    assert file.read_bytes() == kept
    assert f"{INCR}: {len(damage) - len(kept)} of {len(damage)} bytes were damaged" in done[0]
    (place,) = aof.copies(folder)
    assert (place / INCR).read_bytes() == damage
    assert done[0] in (place / "README").read_text()
    assert str(place) in done[-1]
    assert aof.repair(folder, 0) == []


def test_all_increments_are_repaired_also_those_that_are_not_the_last(folder: Path) -> None:
    """As a full disk leaves them: each failed rewrite has begun another."""
    write_manifest(folder, (BASE, 1, "b"), *((incr(n), n, "i") for n in (1, 2, 3, 4)))
    place = folder / aof.FOLDER
    for n, data in {2: SET + b"\0" * 100 + GET, 3: GET + SET[:7], 4: GET}.items():
        (place / incr(n)).write_bytes(data)
    done = aof.repair(folder, 0)
    assert [(place / incr(n)).read_bytes() for n in (1, 2, 3, 4)] == [SET, SET + GET, GET, GET]
    assert len(done) == 3
    assert listed(folder) == [BASE, incr(1), incr(2), incr(3), incr(4)]


def test_a_copy_is_kept_only_where_there_is_room(folder: Path) -> None:
    """A missing copy is reported; the repair is made anyway."""
    file, reserve = folder / aof.FOLDER / INCR, 1 << 60
    file.write_bytes(SET + GET[:5])
    assert "no copy was kept" in aof.repair(folder, reserve)[1]
    file.write_bytes(SET + b"\0" + GET)
    assert "is not kept: there is no room" in aof.repair(folder, reserve)[1]
    assert file.read_bytes() == SET + GET
    assert aof.copies(folder) == []


def test_old_copies_make_room_for_new_ones(folder: Path) -> None:
    """Three are kept."""
    file = folder / aof.FOLDER / INCR
    for n in range(6):
        file.write_bytes(SET + b"rubbish %d" % n)
        aof.repair(folder, 0)
    found = [(place / INCR).read_bytes()[-1:] for place in aof.copies(folder)]
    assert sorted(found) == [b"3", b"4", b"5"]


def gone(folder: Path) -> None:
    (folder / aof.FOLDER / aof.MANIFEST).unlink()


def empty(folder: Path) -> None:
    (folder / aof.FOLDER / aof.MANIFEST).write_text("")


def half(folder: Path) -> None:
    write_manifest(folder, (BASE, 1, "b"), (incr(1), 1, "i"), (incr(12), 12, "i"), cut=9)


def one_line(folder: Path) -> None:
    write_manifest(folder, (BASE, 1, "b"))


def rubbish(folder: Path) -> None:
    (folder / aof.FOLDER / aof.MANIFEST).write_bytes(b"\0\xff" * 40)


def zeros(folder: Path) -> None:
    (folder / aof.FOLDER / aof.MANIFEST).write_bytes(b"\0" * 88)


@pytest.mark.parametrize("damage", [gone, empty, half, one_line, rubbish, zeros])
def test_a_manifest_is_made_again_from_the_files(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    """All increments are in it, in the order of their numbers."""
    (folder / aof.FOLDER / incr(12)).write_bytes(GET)
    (folder / aof.FOLDER / incr(2)).write_bytes(GET)
    damage(folder)
    assert not aof.look(folder).is_sound
    done = aof.repair(folder, 0)
    assert listed(folder) == [BASE, incr(1), incr(2), incr(12)]
    assert "the manifest was made again" in done[0]
    assert aof.look(folder).is_sound
    assert aof.repair(folder, 0) == []


def test_a_base_that_is_not_in_the_manifest_yet_is_not_taken(folder: Path) -> None:
    """After an unfinished rewrite the older base and all increments are complete, whether the
    manifest says so or is gone.
    """
    newer = "appendonly.aof.2.base.rdb"
    (folder / aof.FOLDER / newer).write_bytes(b"REDIS0011")
    (folder / aof.FOLDER / incr(2)).write_bytes(b"")
    assert aof.look(folder).is_sound
    gone(folder)
    aof.repair(folder, 0)
    assert listed(folder) == [BASE, incr(1), incr(2)]


def test_an_increment_that_is_missing_is_said_and_left_out(folder: Path) -> None:
    """The rest is kept."""
    write_manifest(folder, (BASE, 1, "b"), (incr(1), 1, "i"), (incr(2), 2, "i"))
    assert not aof.look(folder).is_sound
    done = aof.repair(folder, 0)
    assert done[0] == f"{incr(2)} is missing: what it held is lost"
    assert listed(folder) == [BASE, incr(1)]


def test_history_is_not_missed(folder: Path) -> None:
    """What a rewrite made superfluous may be removed at any time."""
    write_manifest(
        folder,
        ("appendonly.aof.2.base.rdb", 2, "b"),
        (BASE, 1, "h"),
        (incr(1), 1, "h"),
        (incr(2), 2, "i"),
    )
    for name in ("appendonly.aof.2.base.rdb", incr(2)):
        (folder / aof.FOLDER / name).write_bytes(b"")
    (folder / aof.FOLDER / BASE).unlink()
    assert aof.look(folder).is_sound


def test_what_cannot_be_made_again_is_an_error_with_what_to_do(folder: Path) -> None:
    """The base is gone: nothing is touched, and nothing begins with an empty store."""
    (folder / aof.FOLDER / BASE).unlink()
    for damage in (lambda _: None, gone):
        damage(folder)
        with pytest.raises(aof.CannotRepair, match=r"is missing .*: restore a backup"):
            aof.repair(folder, 0)
    assert (folder / aof.FOLDER / INCR).read_bytes() == SET


def test_an_empty_folder_is_a_new_store(tmp_path: Path) -> None:
    """And so is one without any."""
    assert aof.look(tmp_path).is_sound
    (tmp_path / aof.FOLDER).mkdir()
    assert aof.look(tmp_path).is_sound


def test_what_a_rewrite_left_is_removed(folder: Path) -> None:
    """It may be as large as all the data; other files stay."""
    for name in (
        "temp-rewriteaof-bg-77.aof",
        "temp-12.rdb",
        f"{aof.FOLDER}/temp-{aof.MANIFEST}",
        f"{aof.FOLDER}/x.repaired",
    ):
        (folder / name).write_bytes(b"x" * 100)
    (folder / "temp-folder").mkdir()
    (folder / "mine").write_bytes(b"")
    assert aof.remove_temporary(folder) == 400
    assert sorted(os.listdir(folder)) == [aof.FOLDER, "mine", "temp-folder"]
