"""The blocking side of the Redis client for a cluster: each batch is split by the node that has its keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import redis
import redis.cluster
from attrs import define

from .direct import Command
from .link import SOCKET_SECONDS, exchange_on
from .scripts import in_full

SCRIPTED = {
    "EVALSHA": 3,
    "EVAL": 3,
}  # where the first key stands; for all other commands it is the first argument
KEYLESS = {"PING", "TIME", "INFO"}
MOVED = (
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)


@define
class ClusterLink:
    """Connections to the nodes of a cluster, and its map of slots."""

    url: str
    seconds: float = SOCKET_SECONDS
    _cluster: redis.RedisCluster | None = None

    def connect(self) -> None:
        """Learn the cluster's nodes."""
        if self._cluster is None:
            self._cluster = redis.RedisCluster.from_url(self.url, socket_timeout=self.seconds, protocol=2)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """One pipeline a node; what a node no longer has is asked for again where it went."""
        cluster = self._cluster
        assert cluster is not None
        shares: dict[Any, list[int]] = defaultdict(list)
        for index, command in enumerate(commands):
            shares[self._node(command)].append(index)
        results: list[Any] = [None] * len(commands)
        for node, indexes in shares.items():
            pool = cluster.get_redis_connection(node).connection_pool
            connection = pool.get_connection()
            try:
                answers = exchange_on(connection, [commands[index] for index in indexes])
            except BaseException:
                connection.disconnect()
                raise
            finally:
                pool.release(connection)
            for index, answer in zip(indexes, answers, strict=True):
                results[index] = self._follow(commands[index]) if isinstance(answer, MOVED) else answer
        return results

    def _node(self, command: Command) -> Any:
        assert self._cluster is not None
        if command[0] in KEYLESS:
            return self._cluster.get_default_node()
        return self._cluster.get_node_from_key(command[SCRIPTED.get(command[0], 1)])

    def _follow(self, command: Command) -> Any:
        """Run a command that was turned away (and so not carried out) with the library's own handling of moves."""
        assert self._cluster is not None
        if command[0] == "EVALSHA":  # where it went the script may never have been
            command = in_full(command)
        try:
            return self._cluster.execute_command(*command)
        except redis.ResponseError as error:
            return error

    def direct(self) -> None:
        """None: the library follows what moves, and does so in a thread."""

    def close(self) -> None:
        """Close all connections."""
        if self._cluster is not None:
            for node in self._cluster.get_nodes():
                if node.redis_connection is not None:
                    node.redis_connection.connection_pool.disconnect()  # close() leaves those in the pool open
            self._cluster.close()
            self._cluster = None
