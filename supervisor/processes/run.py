"""Puts a server of several processes together, and runs it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from attrs import define, evolve, field

from resources.kernel import hide_memory, show_memory
from resources.stores.search import INDEXES

from .. import early
from ..config import Address, Config
from ..config.units import Count
from ..host.cpus import share_with
from ..host.systemd import from_environment
from ..ports.listening import tls_of
from ..store.holding import ID
from ..store.opening import EMBEDDED
from ..store.ownership import LOCK, OWN_FOLDERS, lock_data_dir
from . import line
from .children import Child
from .member import Member
from .parent import Parent
from .shares import Share, too_few
from .sockets import bound
from .storekeeper import keep_store

Run = Callable[[Callable[[], Awaitable[int]]], NoReturn]
"""Runs a coroutine function under Trio and exits, printing what ended it."""
Serve = Callable[[Member], Awaitable[int]]
"""A coroutine function: the service of one process, until it ends."""

log = logging.getLogger(__name__)


def with_processes(config: Config, count: int) -> Config:
    """The config with another number of processes."""
    return evolve(config, cluster=evolve(config.cluster, processes=Count(count)))


def serve_together(
    config: Config, read_config: Callable[[], Config], serve: Serve, run: Run
) -> int:
    """Serve with several processes until SIGTERM or SIGINT; return the exit code.

    Args:
        config: Of the whole service; says how many processes.
        read_config: Reads it again.
        serve: What each process does.
        run: How a process runs that.

    Raises:
        CannotStart: The text says why; nothing was started.
    """
    for text in too_few(config, config.cluster.processes):
        log.warning("%s", text)
    tls_of(config.listen)
    systemd = from_environment()
    gateway = bound("listen.gateway", config.listen.gateway, systemd)
    admin = bound("listen.admin", config.listen.admin, systemd)
    for one in admin:
        systemd.keep("listen.admin", one.fileno())
    systemd.close_rest()
    hide_memory()
    with lock_data_dir(config.data_dir):
        _remove_unused(config)
        users, hold = os.pipe()
        together = _Together(config, read_config, serve, run, gateway, admin, users, hold)
        together.parent = Parent(
            store=together.store() if config.redis.url == EMBEDDED else None,
            servers=[together.server(place + 1) for place in range(config.cluster.processes)],
            listeners=gateway,
            systemd=systemd,
            drain=config.gateway.drain,
            per_address=config.gateway.connections_per_address,
            ready=together.ready,
            in_child=together.in_child,
        )
        return together.parent.run()


@define(eq=False)
class _Together:
    """What the children need; each is a fork of this process."""

    config: Config
    read_config: Callable[[], Config]
    serve: Serve
    run: Run
    gateway: Sequence[socket.socket]
    admin: Sequence[socket.socket]
    users: int  # the reading end of a pipe: its end says that nobody needs the store any more
    hold: int  # the other end
    parent: Parent = field(init=False)
    _gateway_at: tuple[str, int] = field(init=False)
    _admin_at: tuple[str, int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._gateway_at = self.gateway[0].getsockname()[:2]
        self._admin_at = self.admin[0].getsockname()[:2]

    def server(self, place: int) -> Child:
        """A process of the service."""
        share = Share(place, self.config.cluster.processes)
        return Child(f"process {place}", partial(self._serve, share))

    def store(self) -> Child:
        """The keeper of the store."""
        return Child("the store", self._keep_store)

    def ready(self) -> None:
        """All processes serve."""
        listen = self.config.listen
        log.info(
            "ready: gateway %s, admin %s, %d apps, %d processes",
            listen.gateway_url(Address(listen.gateway.host, self._gateway_at[1])),
            listen.admin_url(Address(listen.admin.host, self._admin_at[1])),
            len(self.config.apps),
            len(self.parent.servers),
        )

    def in_child(self, child: Child) -> None:
        """Close what is not for a child. It keeps the lock of data_dir, so that no other server
        starts there while it lives.
        """
        share_with(len(self.parent.servers))
        show_memory()  # its score for the kernel can be set only then; it hides it again
        if child is self.parent.store:
            os.close(self.hold)
        else:
            os.close(self.users)
        if child is not self.parent.servers[0]:
            for one in self.admin:
                one.close()
        name = child.name.removeprefix("the ")
        for handler in logging.getLogger().handlers:
            form = f"%(asctime)s %(levelname)s {name}: %(name)s: %(message)s"
            handler.setFormatter(logging.Formatter(form))

    def _serve(self, share: Share, theirs: socket.socket) -> int:
        given = self.parent.spreading.config
        whole = self.config if given == -1 else line.unpickled(given)
        if given != -1:
            os.close(given)
        member = Member(
            share,
            theirs,
            whole,
            self.read_config,
            self.admin if share.place == 1 else (),
            self._admin_at[1],
            self._gateway_at,
        )
        return self._run(partial(self.serve, member))

    def _keep_store(self, theirs: socket.socket) -> int:
        return self._run(partial(_keeping, self.config, theirs, self.users))

    def _run(self, what: Callable[[], Awaitable[int]]) -> int:
        try:
            self.run(what)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        finally:
            early.ignore()


async def _keeping(config: Config, theirs: socket.socket, users: int) -> int:
    await keep_store(config, theirs, users)
    return 0


def _remove_unused(config: Config) -> None:
    """Remove what processes had that there are no more, as far as it can be made again."""
    used = {
        Share(place + 1, 1).folder(config.data_dir) for place in range(config.cluster.processes)
    }
    for folder in config.data_dir.glob(OWN_FOLDERS):
        if folder not in used:
            shutil.rmtree(folder / INDEXES, ignore_errors=True)
            with suppress(OSError):  # it is not empty, then
                for name in (LOCK, ID):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
