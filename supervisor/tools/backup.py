"""Backing up the whole embedded store while it serves, and restoring it on an empty host.

The file is a tar: `manifest.json`, then `store.rdb`, a snapshot in Valkey's own format. It has no
contact indexes, which are rebuilt. Config and apps are the operator's files, to be backed up like
any others.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import redis
import trio

from .. import __version__
from ..config import Config
from ..store.ownership import OWN_FOLDERS, lock_data_dir
from ..store.valkey import FOLDER, reach_valkey

MANIFEST, STORE = "manifest.json", "store.rdb"
VERSION = 1
SNAPSHOT_SECONDS = 600.0
POLL = 0.05  # seconds between two looks
CLIENT_SECONDS = 30.0
CHUNK = 1 << 20  # bytes copied at a time
MANIFEST_MAX = 1 << 20  # bytes
# What Valkey reads at its start if it keeps an append-only file: a snapshot as the base, and
# nothing after it.
AOF_FOLDER = "appendonlydir"
AOF_BASE = "appendonly.aof.1.base.rdb"
AOF_MANIFEST = "appendonly.aof.manifest"


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Manifest(msgspec.Struct, frozen=True):
    """The manifest of a backup."""

    version: int
    jsbox: str
    valkey: str
    taken: str
    keys: _Count
    bytes: _Count
    sha256: str


class CannotBackUp(Exception):
    """A backup cannot be made or restored; the text says why."""


def check_embedded(config: Config) -> None:
    """Raises CannotBackUp if the store is not the embedded one."""
    if config.redis.url != "embedded":
        raise CannotBackUp(
            "redis.url is not embedded: back up that server with its own means"
            " (a snapshot, a replica)"
        )


async def back_up(config: Config, target: Path) -> dict[str, Any]:
    """Write a backup, atomically, and return its manifest. The server may be running or not.

    Raises:
        CannotBackUp: The store gives no snapshot, or the file cannot be written.
        CannotStart: The store does not start.
    """
    check_embedded(config)
    if not (config.data_dir / FOLDER).is_dir():
        raise CannotBackUp(
            f"{config.data_dir} holds no data: is that the data_dir of the server's config?"
        )
    async with reach_valkey(config.data_dir, config.redis.fsync) as url:
        return await trio.to_thread.run_sync(_back_up, url, config.data_dir, target)


def _back_up(url: str, data_dir: Path, target: Path) -> dict[str, Any]:
    try:
        with (
            redis.Redis.from_url(url, socket_timeout=CLIENT_SECONDS) as client,
            _snapshot(client, data_dir) as (snapshot, keys),
        ):
            manifest = {
                "version": VERSION,
                "jsbox": __version__,
                "valkey": client.info("server")["redis_version"],
                "taken": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "keys": keys,
                "bytes": snapshot.stat().st_size,
                "sha256": _digest(snapshot),
            }
            _write(target, manifest, snapshot)
    except redis.RedisError as error:
        raise CannotBackUp(f"the store in {data_dir} does not give a snapshot: {error}") from error
    except OSError as error:
        raise CannotBackUp(f"{error.filename or target}: {error.strerror}") from error
    return manifest


@contextmanager
def _snapshot(client: redis.Redis, data_dir: Path) -> Iterator[tuple[Path, int]]:
    """Take a snapshot, which is removed at the end; give its path and its number of keys."""
    deadline = time.monotonic() + SNAPSHOT_SECONDS
    while True:
        try:
            client.bgsave()
            break
        except redis.ResponseError as error:
            if "in progress" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(POLL)
    while (found := client.info("persistence"))["rdb_bgsave_in_progress"]:
        if time.monotonic() > deadline:
            raise CannotBackUp(f"the store has not written a snapshot in {SNAPSHOT_SECONDS:g} s")
        time.sleep(POLL)
    if found["rdb_last_bgsave_status"] != "ok":
        raise CannotBackUp("the store could not write a snapshot: is the disk full?")
    path = data_dir / FOLDER / str(client.config_get("dbfilename")["dbfilename"])
    try:
        yield path, int(client.dbsize())
    finally:
        path.unlink(missing_ok=True)


def _write(target: Path, manifest: dict[str, Any], snapshot: Path) -> None:
    draft = target.with_name(f"{target.name}.new")
    # Made anew: what somebody else put there, in a shared folder, is neither followed nor written.
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write_tar(file, manifest, snapshot)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)  # if it could not be written


def _write_tar(file: IO[bytes], manifest: dict[str, Any], snapshot: Path) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        text = json.dumps(manifest, indent=2).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        entry = tarfile.TarInfo(STORE)
        entry.size = manifest["bytes"]
        with snapshot.open("rb") as source:
            tar.addfile(entry, source)


def restore(config: Config, source: Path, *, dry_run: bool, replace: bool) -> dict[str, Any]:
    """Restore a backup into an empty data directory, and return its manifest.

    With `replace`, existing data is first moved aside.

    Raises:
        CannotBackUp: The file is not a backup or is damaged, or there is data already.
        CannotStart: A server uses the data directory.
    """
    check_embedded(config)
    if not source.is_file():
        raise CannotBackUp(f"{source} is not a regular file, which it must be to be read twice")
    try:
        with tarfile.open(source, "r:") as tar:
            manifest = _manifest(tar, source)
            _check(tar, manifest, source)
            if not dry_run:
                _put_back(config.data_dir, tar, replace=replace)
            elif _has_data(config.data_dir) and not replace:
                raise CannotBackUp(_there(config.data_dir))
    except (tarfile.TarError, KeyError, EOFError, ValueError, RecursionError) as error:
        raise CannotBackUp(f"{source} is not a whole backup: {error}") from error
    except OSError as error:
        raise CannotBackUp(f"{error.filename or source}: {error.strerror}") from error
    return manifest


def _manifest(tar: tarfile.TarFile, source: Path) -> dict[str, Any]:
    with _member(tar, MANIFEST, source) as file:
        text = file.read(MANIFEST_MAX)
    try:
        version = msgspec.json.decode(text, type=_Version).version
        if version != VERSION:
            raise CannotBackUp(
                f"{source} is a backup of version {version}, and this jsbox reads version {VERSION}"
            )
        found = msgspec.json.decode(text, type=_Manifest)
    except (ValueError, RecursionError) as error:
        raise CannotBackUp(
            f"{source} is not a backup: its {MANIFEST} cannot be read ({error})"
        ) from error
    if not all(one.isprintable() for one in (found.jsbox, found.valkey, found.taken)):
        raise CannotBackUp(f"{source} is not a backup: its {MANIFEST} has control characters")
    return msgspec.structs.asdict(found)


def _check(tar: tarfile.TarFile, manifest: dict[str, Any], source: Path) -> None:
    with _member(tar, STORE, source) as file:
        size = tar.getmember(STORE).size
        if size != manifest["bytes"]:
            raise CannotBackUp(
                f"{source} is damaged: its {STORE} has {size} bytes, not {manifest['bytes']}"
            )
        if _digest_of(file) != manifest["sha256"]:
            raise CannotBackUp(f"{source} is damaged: its checksum differs")


def _member(tar: tarfile.TarFile, name: str, source: Path) -> IO[bytes]:
    """Open a regular file of the archive. Raises KeyError if it is missing.

    A link is none, nor is a sparse file, which a few bytes can make endless.
    """
    member = tar.getmember(name)
    file = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None:
        raise CannotBackUp(f"{source} is not a backup: its {name} is not a regular file")
    return file


def _put_back(data_dir: Path, tar: tarfile.TarFile, *, replace: bool) -> None:
    """Restore the store; all of it is on disk before existing data is moved."""
    with lock_data_dir(data_dir):
        has_data = _has_data(data_dir)
        if has_data and not replace:
            raise CannotBackUp(_there(data_dir))
        there, draft = data_dir / FOLDER, data_dir / f"{FOLDER}.new"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _write_store(draft, tar)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if has_data:
            there.rename(data_dir / f"{FOLDER}.before-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
        shutil.rmtree(there, ignore_errors=True)  # without data: at most a socket
        for owner in (data_dir, *data_dir.glob(OWN_FOLDERS)):
            shutil.rmtree(owner / "search", ignore_errors=True)  # indexes of the data replaced
        draft.rename(there)


def _write_store(folder: Path, tar: tarfile.TarFile) -> None:
    (folder / AOF_FOLDER).mkdir(mode=0o700, parents=True)
    with _member(tar, STORE, folder) as file, (folder / AOF_FOLDER / AOF_BASE).open("wb") as base:
        shutil.copyfileobj(file, base, CHUNK)
        base.flush()
        os.fsync(base.fileno())
    (folder / AOF_FOLDER / AOF_MANIFEST).write_text(f"file {AOF_BASE} seq 1 type b\n")


def _has_data(data_dir: Path) -> bool:
    return (data_dir / FOLDER / AOF_FOLDER).is_dir()


def _there(data_dir: Path) -> str:
    return f"{data_dir} holds data already; --replace moves it aside, to {FOLDER}.before-..."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: IO[bytes]) -> str:
    found = hashlib.sha256()
    while chunk := file.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()
