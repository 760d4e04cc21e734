"""Archives that were made to be restored badly: each is refused, in bounded time, with a reason."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import load
from supervisor.tools.backup import MANIFEST, STORE, CannotBackUp, restore

SNAPSHOT = b"abc"
ENDLESS = 1 << 60  # bytes
CONFIG = 'version = 1\n[accounts.acme]\n[apps.a]\naccount = "acme"\njavascript = "a.js"\n'


def archive(pax: Mapping[str, str] | None = None, **changes: Any) -> bytes:
    """A backup whose snapshot has these PAX headers, and whose manifest has these values."""
    manifest = {
        "version": 1,
        "jsbox": "1",
        "valkey": "9",
        "taken": "now",
        "keys": 1,
        "bytes": len(SNAPSHOT),
        "sha256": hashlib.sha256(SNAPSHOT).hexdigest(),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        members = (
            (MANIFEST, json.dumps(manifest | changes).encode(), {}),
            (STORE, SNAPSHOT, pax or {}),
        )
        for name, data, headers in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(data), dict(headers)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def long_names(count: int) -> bytes:
    """Headers for long names, each of which is about the next one."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2
    return (entry.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * count


SPARSE = {"GNU.sparse.map": f"0,1,{ENDLESS - 1},1", "GNU.sparse.size": str(ENDLESS)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(archive(SPARSE, bytes=ENDLESS), "not a regular file", id="endless"),
        pytest.param(archive(bytes=4), "3 bytes, not 4", id="other-size"),
        pytest.param(archive(bytes=-1), "cannot be read", id="negative"),
        pytest.param(archive(bytes=10**400), "cannot be read", id="huge"),
        pytest.param(long_names(2000) + archive(), "not a whole backup", id="nested"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.js").touch()
    (tmp_path / "jsbox.toml").write_text(CONFIG)
    config, file = load(tmp_path / "jsbox.toml"), tmp_path / "backup.tar"
    file.write_bytes(archive())
    assert restore(config, file, dry_run=True, replace=False)["keys"] == 1
    file.write_bytes(data)
    with pytest.raises(CannotBackUp, match=reason):
        restore(config, file, dry_run=False, replace=False)
    assert not (config.data_dir / "valkey").exists()
