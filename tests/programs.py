"""Programs that tests run: the jsbox command itself, and everything that the install does not bring
(here only, so that one place says what is needed).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from .fork_server import Forked, ForkServer

FORKS = ForkServer()  # ended by the session's fixture (tests/conftest.py)
READY = re.compile(r"ready: gateway (wss?://\S+), admin (https?://[^\s,]+)")
# Until what hangs is given up, on however slow a machine: less than a test may take
# (tests/conftest.py).
START_SECONDS = 120
STOP_SECONDS = 120
COMMAND_SECONDS = 240
JSBOX = (sys.executable, "-m", "supervisor")
Process = Forked | subprocess.Popen[str]


@frozen
class Server:
    """A running `jsbox serve`."""

    process: Process
    gateway: str
    admin: str
    log: Path


def jsbox(
    *arguments: str, input: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a jsbox command to its end."""
    return FORKS.run(arguments, input, timeout=COMMAND_SECONDS, cwd=cwd)


@contextmanager
def serve(
    config: Path,
    *,
    expect_code: int | None = 0,
    program: Sequence[str] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Server]:
    """A server for a config file, stopped at the end; it must then exit with `expect_code` (None:
    it may be dead). `program`: the one file, or another way to start it.
    """
    log = config.with_suffix(".log")
    arguments = ("serve", "-c", str(config))
    process: Process
    with log.open("w") as stderr, open(os.devnull) as stdin:
        if program is None:
            process = FORKS.fork(
                arguments, [stdin.fileno(), stderr.fileno(), stderr.fileno()], env=env
            )
        else:
            process = subprocess.Popen(
                [*program, *arguments],
                stdin=stdin,
                stderr=stderr,
                env=env,
                text=True,
                start_new_session=True,
            )
    try:
        yield _wait_ready(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"the server did not stop; it logged:\n{log.read_text()}"
            ) from None
    if expect_code is not None:
        assert code == expect_code, f"the server exited with {code}; it logged:\n{log.read_text()}"


def _wait_ready(process: Process, log: Path) -> Server:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := READY.search(log.read_text()):
            return Server(process, found[1], found[2], log)
        if process.poll() is not None:
            raise AssertionError(f"the server exited with {process.returncode}:\n{log.read_text()}")
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the server was not ready in {START_SECONDS} s:\n{log.read_text()}")


def debian(program: str, package: str, how: str = "apt-get install -yq {}") -> str:
    """Have a program of a Debian package, which the README's install does not bring; skips the test
    where it cannot be had.
    """
    if shutil.which(program) is None and os.geteuid() == 0:
        subprocess.run(
            f"apt-get update -q && {how.format(package)}",
            shell=True,
            capture_output=True,
            check=False,
        )
    found = shutil.which(program)
    if found is None:
        why = "apt-get could not install it" if os.geteuid() == 0 else "only root can install it"
        pytest.skip(f"{program} is not installed, and {why}: apt-get install {package}")
    return found


def bubblewrap() -> None:
    """What level strict needs."""
    debian("bwrap", "bubblewrap")


def chromium() -> str:
    """A browser."""
    return debian("chromium", "chromium")


def systemd_analyze() -> str:
    """What checks a unit."""
    return debian("systemd-analyze", "systemd")


def promtool() -> str:
    """What checks rules: that program alone, since the server that its package brings would be
    started.
    """
    take = (
        "mkdir -p /tmp/promtool && cd /tmp/promtool && apt-get download -q {0}"
        " && dpkg-deb --fsys-tarfile {0}_*.deb | tar -x -C / ./usr/bin/promtool; rm -rf /tmp/promtool"
    )
    return debian("promtool", "prometheus", take)


def zig(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The C compiler of the ziglang package, installed into a folder: command and environment."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "ziglang"]
    subprocess.run(install, check=True, capture_output=True)
    return [sys.executable, "-m", "ziglang", "cc"], os.environ | {
        "PYTHONPATH": str(folder),
        "ZIG_GLOBAL_CACHE_DIR": f"{folder}/cache",
    }


@frozen
class Carbon:
    """A running carbon-cache."""

    line_port: int
    query_port: int

    def query(self, metric: str) -> list[tuple[int, float]]:
        """The points that its cache has, as its pickle protocol tells them."""
        request = pickle.dumps({"type": "cache-query", "metric": metric}, protocol=2)
        with socket.create_connection(("127.0.0.1", self.query_port), timeout=5) as connection:
            connection.sendall(struct.pack("!L", len(request)) + request)
            size = struct.unpack("!L", _exactly(connection, 4))[0]
            points: list[tuple[int, float]] = pickle.loads(_exactly(connection, size))["datapoints"]
            return points


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += connection.recv(count - len(data)) or b""
    return data


@contextmanager
def carbon(folder: Path) -> Iterator[Carbon]:
    """A real carbon-cache, installed from PyPI into a virtual environment of its own (it must not
    be put where pip puts it by default, which is /opt/graphite, and it wants setuptools'
    pkg_resources).
    """
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [
        environment / "bin" / "pip",
        "install",
        "-q",
        "carbon==1.1.10",
        "whisper==1.1.10",
        "setuptools<81",
    ]
    subprocess.run(
        install, check=True, env=os.environ | {"GRAPHITE_NO_PREFIX": "True"}, capture_output=True
    )
    ports = free_ports(3)
    (folder / "conf").mkdir()
    (folder / "conf" / "storage-schemas.conf").write_text(
        "[all]\npattern = .*\nretentions = 1s:1h\n"
    )
    (folder / "conf" / "carbon.conf").write_text(
        f"[cache]\nLINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {ports[0]}\n"
        f"PICKLE_RECEIVER_INTERFACE = 127.0.0.1\nPICKLE_RECEIVER_PORT = {ports[1]}\n"
        f"CACHE_QUERY_INTERFACE = 127.0.0.1\nCACHE_QUERY_PORT = {ports[2]}\n"
        f"MAX_UPDATES_PER_SECOND = 0.01\nMAX_CREATES_PER_MINUTE = 1\nLOCAL_DATA_DIR = {folder}/whisper\nENABLE_LOGROTATION = False\n"
    )
    program = [
        environment / "bin" / "carbon-cache.py",
        f"--config={folder}/conf/carbon.conf",
        "--nodaemon",
        "start",
    ]
    process = subprocess.Popen(
        program,
        env=os.environ | {"GRAPHITE_ROOT": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_port(ports[2], process)
        yield Carbon(ports[0], ports[2])
    finally:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
