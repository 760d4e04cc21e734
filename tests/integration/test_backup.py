"""Backup and restore, through the command line: the conversation goes on, on an empty host."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import trio

from supervisor.config import load
from supervisor.tools.backup import CannotBackUp, restore

from ..gateway_client import connect
from ..programs import Server, jsbox, serve
from ..service import Folder

STATEFUL = """  // the toolkit sets api.on_inbound_message
var vumigo = require('vumigo_v02');
var App = vumigo.App, FreeText = vumigo.states.FreeText, EndState = vumigo.states.EndState;
function Survey() {
    App.call(this, 'name');
    this.states.add('name', function (name) { return new FreeText(name, {question: 'Your name?',
        next: 'town'}); });
    this.states.add('town', function (name) { return new FreeText(name, {question: 'Your town?',
        next: 'end'}); });
    this.states.add('end', function (name) {
        return new EndState(name,
            {text: this.im.user.answers.name + ' of ' + this.im.user.answers.town, next: 'name'});
    }.bind(this));
}
Survey.prototype = Object.create(App.prototype);
new vumigo.InteractionMachine(api, new Survey());
"""


def host(path: Path) -> Folder:
    path.mkdir()
    folder = Folder(path)
    folder.app("phone", STATEFUL, 'config = { config = \'{"name": "survey"}\' }')
    assert folder.config
    return folder


async def run(*arguments: str, folder: Folder, code: int = 0) -> str:
    done = await trio.to_thread.run_sync(
        lambda: jsbox(*arguments, "-c", str(folder.path / "jsbox.toml"))
    )
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stderr if code else done.stdout)


async def test_a_conversation_goes_on_on_an_empty_host(tmp_path: Path) -> None:
    """Backed up while it serves, in the middle of a conversation and with a reply that nobody has
    taken; restored elsewhere.
    """
    here, there = host(tmp_path / "here"), host(tmp_path / "there")
    file = tmp_path / "backup.tar"
    with serve(here.config) as server:
        async with connect(server.gateway) as client:
            _, (reply,) = await client.say(None, "new")
            assert reply["content"] == "Your name?"
            _, (reply,) = await client.say("Thabo", "resume")
            assert reply["content"] == "Your town?"
        async with connect(server.gateway, acknowledge=False) as client:
            await client.say(None, "new", from_addr="+27999")
            manifest = json.loads(await run("backup", str(file), "--json", folder=here))
            assert manifest["keys"] > 0
        async with connect(server.gateway) as client:  # after the backup: it must not be there
            await client.say("Kuruman", "resume")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [
        path.name
        for path in (tmp_path / "here" / "jsbox-data" / "valkey").iterdir()
        if path.suffix == ".rdb"
    ] == []
    assert "it can be restored" in await run("restore", str(file), "--dry-run", folder=there)
    assert "restored to" in await run("restore", str(file), folder=there)
    with serve(there.config) as server:
        async with connect(server.gateway) as client:
            again = await client.expect("outbound")
            assert (again["msg"]["to_addr"], again["msg"]["content"]) == ("+27999", "Your name?")
            _, (reply,) = await client.say("Kathu", "resume")
            assert reply["content"] == "Thabo of Kathu"


async def test_a_server_that_does_not_run_is_backed_up_too(tmp_path: Path) -> None:
    """And what was restored once can be backed up again; data that is there is not overwritten, but
    put aside where that is asked for.
    """
    here = host(tmp_path / "here")
    with serve(here.config) as server:
        async with connect(server.gateway) as client:
            await client.say(None, "new")
            refused = await run("restore", str(here.config), folder=here, code=1)
            assert "is not a whole backup" in refused
    file = tmp_path / "backup.tar"
    before = json.loads(await run("backup", str(file), "--json", folder=here))
    assert "holds data already" in await run("restore", str(file), folder=here, code=1)
    assert "holds data already" in await run("restore", str(file), "--dry-run", folder=here, code=1)
    await run("restore", str(file), "--replace", folder=here)
    assert len(list((tmp_path / "here" / "jsbox-data").glob("valkey.before-*"))) == 1
    after = json.loads(await run("backup", str(file), "--json", folder=here))
    assert after["keys"] == before["keys"]


async def test_a_running_server_is_not_restored_into(tmp_path: Path) -> None:
    """It holds its data directory."""
    here = host(tmp_path / "here")
    file = tmp_path / "backup.tar"
    with serve(here.config):
        await run("backup", str(file), folder=here)
        assert "is used by process" in await run(
            "restore", str(file), "--replace", folder=here, code=1
        )


@pytest.fixture(scope="module")
def backup_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a host that has had a message."""
    folder = tmp_path_factory.mktemp("backup")
    here, file = host(folder / "here"), folder / "backup.tar"

    async def make(server: Server) -> None:
        async with connect(server.gateway) as client:
            await client.say(None, "new")
        await run("backup", str(file), folder=here)

    with serve(here.config) as server:
        trio.run(make, server)
    return file


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
async def test_a_damaged_file_changes_nothing(
    tmp_path: Path, backup_file: Path, damage: str
) -> None:
    """Found before anything is touched."""
    there, file = host(tmp_path / "there"), tmp_path / "backup.tar"
    data = bytearray(backup_file.read_bytes())
    if damage == "cut":
        data = data[:1600]
    elif damage == "changed":
        data[1600] ^= 1
    else:
        data = bytearray(b"something else")
    file.write_bytes(data)
    text = await run("restore", str(file), folder=there, code=1)
    assert "is not a whole backup" in text or "is not a backup" in text or "is damaged" in text
    assert not (tmp_path / "there" / "jsbox-data" / "valkey").exists()


async def test_what_cannot_be_backed_up_says_so(tmp_path: Path) -> None:
    """A server elsewhere has its own means; a folder without data holds none; a target that cannot
    be written is named.
    """
    here = host(tmp_path / "here")
    assert "holds no data" in await run("backup", str(tmp_path / "x.tar"), folder=here, code=1)
    with serve(here.config):
        assert "/nonexistent/x.tar" in await run(
            "backup", "/nonexistent/x.tar", folder=here, code=1
        )
    here.text += '[redis]\nurl = "redis://localhost:1"\n'
    assert here.config
    assert "back up that server with its own means" in await run(
        "backup", str(tmp_path / "x.tar"), folder=here, code=1
    )
    shutil.rmtree(tmp_path / "here" / "jsbox-data")


async def test_a_restore_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the backup is written before anything is moved."""
    from supervisor.config import load
    from supervisor.tools import backup

    here = host(tmp_path / "here")
    file = tmp_path / "backup.tar"
    with serve(here.config) as server:
        async with connect(server.gateway) as client:
            await client.say(None, "new")
        await run("backup", str(file), folder=here)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup.shutil, "copyfileobj", full)
    data = tmp_path / "here" / "jsbox-data"
    before = sorted(path.name for path in data.iterdir())
    with pytest.raises(backup.CannotBackUp, match="No space left"):
        backup.restore(load(here.config), file, dry_run=False, replace=True)
    assert sorted(path.name for path in data.iterdir()) == before
    with serve(here.config) as server:
        async with connect(server.gateway) as client:
            _, (reply,) = await client.say("Thabo", "resume")
            assert reply["content"] == "Your town?"


def odd(path: Path, manifest: bytes | None, store: str = "file") -> Path:
    """An archive that nobody wrote for us."""
    with tarfile.open(path, "w") as tar:
        for name, data in (("manifest.json", manifest), ("store.rdb", b"x")):
            entry = tarfile.TarInfo(name)
            kind = store if name == "store.rdb" else "link" if data is None else "file"
            if kind == "link":
                entry.type, entry.linkname = tarfile.SYMTYPE, name
            elif kind == "device":
                entry.type = tarfile.CHRTYPE
            entry.size = len(data or b"") if kind == "file" else 0
            if kind != "none":
                tar.addfile(entry, io.BytesIO(data or b"") if kind == "file" else None)
    return path


RIGHT = {
    "version": 1,
    "jsbox": "0",
    "valkey": "9",
    "taken": "now",
    "keys": 1,
    "bytes": 1,
    "sha256": hashlib.sha256(b"x").hexdigest(),
}


async def test_an_archive_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    """Whatever is in it: exit code 1, no traceback, nothing is changed."""
    folder = host(tmp_path / "host")
    manifests: list[bytes | None] = [
        b"",
        b"5",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"version": 1}',
        b'{"version": 2}',
        b'{"version": []}',
        None,
        *(
            json.dumps(RIGHT | {name: wrong}).encode()
            for name in RIGHT
            for wrong in (None, [], {}, "\x1b[31m")
        ),
    ]
    files = [odd(tmp_path / f"{n}.tar", manifest) for n, manifest in enumerate(manifests)]
    files += [
        odd(tmp_path / f"{kind}.tar", json.dumps(RIGHT).encode(), kind)
        for kind in ("link", "device", "none")
    ]
    config = load(folder.config)
    for file in files:
        with pytest.raises(CannotBackUp) as raised:
            restore(config, file, dry_run=False, replace=True)
        assert str(raised.value).isprintable(), file
    os.mkfifo(tmp_path / "fifo")
    for file in (tmp_path / "link.tar", tmp_path / "fifo"):
        said = await run("restore", str(file), folder=folder, code=1)
        assert "Traceback" not in said
    assert not (folder.path / "jsbox-data" / "valkey").exists()
