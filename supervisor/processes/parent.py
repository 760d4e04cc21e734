"""The parent of a server of several processes: starts them, starts again those that die, hands
connections over, and passes on what the service manager and people ask for.

It does nothing else, so that little can go wrong in it: it reads no message, no config and no app,
waits in one place, and takes no lock. If it is killed its children notice and end.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import NoReturn

from attrs import define, field

from resources.kernel import ORPHAN_SECONDS, end_after

from .. import early
from ..host.systemd import Systemd
from . import line
from .children import Child
from .handover import Handover
from .spreading import Order, Spreading

TICK = 1.0  # seconds between two looks at everything
SILENT_SECONDS = 30.0  # a child that says nothing for so long is killed
STOP_MORE = 15.0  # seconds beyond gateway.drain that a stopping child has
STORE_SECONDS = 30.0  # that the keeper of the store has to end
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

log = logging.getLogger(__name__)


@define(eq=False, kw_only=True)
class Parent:
    """Supervises the children until a signal ends all of them.

    Attributes:
        store: The keeper of the store; None if the operator has one.
        servers: The processes of the service. The first starts alone: what keeps it from starting
            is said once.
        listeners: Of the gateway, bound; listened at as soon as all serve.
        systemd: Who started us.
        drain: Seconds that runs in progress have when all is to end.
        per_address: Connections from one address.
        ready: Called when all serve for the first time.
        in_child: Called in each child, before it runs: closes what is not for it.
        spreading: The config as the first process has reloaded it.
    """

    store: Child | None
    servers: Sequence[Child]
    listeners: Sequence[socket.socket]
    systemd: Systemd
    drain: float
    per_address: int
    ready: Callable[[], None]
    in_child: Callable[[Child], None]
    spreading: Spreading = field(init=False)
    _handover: Handover = field(init=False)
    _selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector, init=False)
    _code: int = field(default=0, init=False)
    _was_up: bool = field(default=False, init=False)  # all processes served
    _is_stopping: bool = field(default=False, init=False)
    _order: Order = field(factory=Order, init=False)
    _looked: float = field(default=0.0, init=False)
    _said: bytes = field(default=b"", init=False)  # the last table
    _wake: tuple[socket.socket, ...] = field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        self.spreading = Spreading(self.servers, self._end, self._tell_ready)
        self._handover = Handover(self._selector, self.listeners, self.servers, self.per_address)

    @property
    def children(self) -> list[Child]:
        """All of them."""
        return [*self.servers, *([] if self.store is None else [self.store])]

    @property
    def _first(self) -> Child:
        return self.servers[0]

    def run(self) -> int:
        """Start everything, and wait until all has ended; return the exit code."""
        self._looked = time.monotonic()
        try:
            self._take_signals()
            if not self._is_stopping:
                self._fork(self._first if self.store is None else self.store)
            while any(child.state != "ended" for child in self.children):
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._look()
        finally:  # after an error of ours, too: the children end when we do
            for child in self.children:
                child.close()
            signal.set_wakeup_fd(-1)
            self._selector.close()
        return self._code

    # -- signals ---------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        self._wake = socket.socketpair()
        ours, theirs = self._wake
        for one in self._wake:
            one.settimeout(0)
        self._selector.register(ours, selectors.EVENT_READ, self._signalled)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        for came in early.taken():
            self._obey(came)

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            for number in self._wake[0].recv(4096):
                self._obey(number)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._order.is_wanted = True
        elif number in {signal.SIGTERM, signal.SIGINT}:
            self._stop()

    # -- children --------------------------------------------------------------------------------

    def _fork(self, child: Child) -> None:
        """Start a child; if the host has no process or descriptor to spare, try again later."""
        with suppress(OSError, ValueError):  # else what waits there is written twice
            sys.stdout.flush()
            sys.stderr.flush()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ExitStack() as stack:
                stack.enter_context(ours)
                with theirs:
                    pid = self._forked(child, ours, theirs)
                stack.pop_all()
        except OSError as error:
            pause = child.later(time.monotonic())
            text = f"{child.name} cannot start: {error.strerror}; again in {pause:.1f} s"
            log.error(text)  # noqa: TRY400  # where it was raised says nothing
            return
        ours.settimeout(0)
        child.started(pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, child))

    def _forked(self, child: Child, ours: socket.socket, theirs: socket.socket) -> int:
        """Fork; return the child's process id. Raises OSError."""
        # A signal that comes before the child can take it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become(child, theirs, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid

    def _become(self, child: Child, theirs: socket.socket, parent: int) -> NoReturn:
        """Be a child, from its fork to its end."""
        code = 1
        try:
            end_after(parent, ORPHAN_SECONDS)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            early.watch()
            os.setpgid(0, 0)  # Ctrl-C is for the parent
            for one in self.children:
                one.close()
            self._selector.close()
            for one_end in (*self._wake, *self.listeners):
                one_end.close()
            self.systemd.close()
            self.in_child(child)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = child.run(theirs)
        except BaseException:  # noqa: BLE001  # nothing of the parent may run on in a child
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        """Take leave of children that have ended; as process 1 of a container, of anybody."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self.children:
                if child.pid == pid:
                    self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        self._hear(child)  # its last words
        self._hang_up(child)
        is_new = not child.was_up and not self._was_up
        cannot = is_new and os.WIFEXITED(status) and not self._is_stopping
        if cannot:  # it has said why
            self._code = os.WEXITSTATUS(status) or 1
        is_over = self._is_stopping and (child is not self.store or child.state == "stopping")
        pause = child.ended(status, time.monotonic(), is_last=cannot or is_over)
        self.spreading.settled(child)
        if cannot:
            self._stop()
        elif not is_over:
            if child is self._first:
                self._order.died(child.name)
            log.error("%s ended (%s); it starts again in %.1f s", child.name, child.why, pause)

    def _hang_up(self, child: Child) -> None:
        if child.line is not None:
            self._selector.unregister(child.line)
            child.close()

    # -- what they say ---------------------------------------------------------------------------

    def _hear(self, child: Child) -> None:
        while child.line is not None and (heard := line.receive(child.line)) is not None:
            packet, fds = heard
            if not packet:
                self._hang_up(child)
                return
            child.heard = time.monotonic()
            kept = self._obey_child(child, packet, fds)
            for descriptor in fds:
                if descriptor != kept:
                    os.close(descriptor)

    def _obey_child(self, child: Child, packet: bytes, fds: Sequence[int]) -> int | None:
        """Do what a packet says; return the descriptor that is kept."""
        words = line.words_of(packet)
        if (address := words.get(line.LEFT)) is not None:
            child.left(address, int(words.get(line.TIMES, 1)))
            return None
        child.status = words.get("STATUS", child.status)
        if line.CONFIG in words:
            self._order.answered()
            return self.spreading.take(child, fds)
        if line.REFUSED in words and child is self._first:
            if child.state != "stopping":  # else the next one is asked
                self._order.answered()
                self._tell_ready()
        elif line.REFUSED in words:
            self.spreading.refused(child, int(words[line.NUMBER]), words[line.REFUSED])
        elif line.APPLIED in words:
            self.spreading.applied(child, int(words[line.APPLIED]))
        if "STOPPING" in words and child is not self.store:  # somebody else may have asked it to
            child.stopping(self._latest_end())
            self.spreading.settled(child)
        elif "READY" in words:
            self._ready(child)
        elif "EXTEND_TIMEOUT_USEC" in words and not self._was_up:
            self.systemd.starting(f"{child.name}: {child.status}")
        return None

    def _ready(self, child: Child) -> None:
        child.up(time.monotonic())
        if child.restarts:
            log.info("%s serves again", child.name)
        if child is self.store:
            self._start(self._first)
        elif child is self._first:
            for one in self.servers:
                self._start(one)
        if not self._was_up and all(one.state == "ready" for one in self.servers):
            self._all_up()
        elif child is self._first:
            self._tell_ready()

    def _start(self, child: Child) -> None:
        if child.state == "waiting" and not child.was_up:
            child.due = min(child.due, time.monotonic())

    def _all_up(self) -> None:
        keep = partial(self.systemd.keep, "listen.gateway")
        try:
            self._handover.listen(socket.SOMAXCONN, keep)
        except OSError as error:  # another server has begun to listen meanwhile
            # what is wrong is the host's, not ours: no traceback
            log.error("listen.gateway: cannot listen: %s", error.strerror)  # noqa: TRY400
            self._code = 1
            self._stop()
            return
        self._was_up = True
        self.ready()
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Report that all serve, or that a reload is done: if so."""
        if not self._was_up or self._is_stopping or self._order.is_open or self.spreading.to:
            return
        up = sum(one.state == "ready" for one in self.servers)
        text = f"{up} of {len(self.servers)} processes serve; {self._first.status}"
        self.systemd.ready(text)

    # -- time ------------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds that may pass before something is due."""
        now = time.monotonic()
        dues = [one.due if one.state == "waiting" else one.kill_at for one in self.children]
        if self._handover.rests_until > now:
            dues.append(self._handover.rests_until)
        return max(0.0, min([TICK, *(due - now for due in dues)]))

    def _look(self) -> None:
        """Do everything that is due."""
        self._reap()
        now = time.monotonic()
        if now - self._looked > SILENT_SECONDS / 3:  # it was us who stood still
            for child in self.children:
                child.heard = now
        self._looked = now
        for child in self.children:
            self._look_at(child, now)
        if self._is_stopping:
            self._stop_store(now)
        elif self._was_up and self._first.state == "ready" and self._order.is_due(now):
            self.systemd.reloading()
            self._first.signal(signal.SIGHUP)
        self._handover.follow(is_open=self._was_up and not self._is_stopping)
        self._tell_table()
        if self.systemd.watchdog:
            self.systemd.tell(WATCHDOG="1")

    def _look_at(self, child: Child, now: float) -> None:
        if child.state == "waiting" and now >= child.due:
            self._fork(child)
        elif child.is_running and now >= child.kill_at:
            log.error("%s does not end; killing it", child.name)
            if self._is_stopping:
                self._code = self._code or 1
            child.signal(signal.SIGKILL)
            child.kill_at = now + SILENT_SECONDS
        elif child.is_running and now - child.heard > SILENT_SECONDS:
            log.error("%s said nothing for %.0f s; killing it", child.name, SILENT_SECONDS)
            child.signal(signal.SIGKILL)
            child.heard = now

    def _tell_table(self) -> None:
        """Tell the first process how all are, if that is another than it knows."""
        table = json.dumps([child.row() for child in self.children]).encode()
        if self._first.line is None:
            self._said = b""
        elif table != self._said and self._first.send(line.TABLE + table):
            self._said = table

    # -- the end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Have all processes drain and end; a second time they do not wait for runs."""
        is_again = self._is_stopping
        if not is_again:
            self._is_stopping = True
            if self._was_up:
                log.info("stopping: the runs in progress may end")
            self.systemd.stopping(f"draining, for {self.drain:g} s at most")
            self._handover.close()
        for child in self.servers:
            if child.is_running:
                if is_again or child.state != "stopping":
                    self._end(child)
            else:
                child.state = "ended"

    def _end(self, child: Child) -> None:
        child.stop(self._latest_end())

    def _latest_end(self) -> float:
        """When a process that begins to stop now is killed."""
        return time.monotonic() + self.drain + STOP_MORE

    def _stop_store(self, now: float) -> None:
        """The store ends last."""
        store = self.store
        if store is None or any(child.state != "ended" for child in self.servers):
            return
        if store.state == "waiting":
            store.state = "ended"
        elif store.state in {"starting", "ready"}:
            store.stop(now + STORE_SECONDS)
