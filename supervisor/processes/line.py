"""The socket between the parent and a child: a SEQPACKET pair, whose end tells either that the
other has gone.

A child says what a service says to systemd (sd_notify(3)), and a few words of ours. The parent says
one thing a packet: a byte for what it is, then text, with a descriptor or without.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
from collections.abc import Mapping

from ..config import Config

PACKET_MAX = 64 << 10  # bytes
FDS_MAX = 4  # with one packet

LEFT = "JSBOX_LEFT"  # a child: a client of this address has gone
TIMES = "JSBOX_TIMES"  # along with that: so many of them
CONFIG = "JSBOX_CONFIG"  # the first process: it has reloaded; the config comes along
APPLIED = "JSBOX_APPLIED"  # another process: it has applied the config of this number
REFUSED = "JSBOX_REFUSED"  # it has not, and why; the first: it has not reloaded
NUMBER = "JSBOX_NUMBER"  # along with that, but for the first: the number of the config

CLIENT = b"c"  # the parent: a connection, with the client's address as text
RELOAD = b"k"  # a config, checked by the first process, with its number as text
SPREAD = b"r"  # all processes have the config; JSON: a list of what went wrong
TABLE = b"t"  # JSON: the processes and how they are


def words_of(packet: bytes) -> Mapping[str, str]:
    """The assignments in what a child says."""
    lines = packet.decode("utf-8", "replace").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def receive(line: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next packet and its descriptors, b"" if the other side has gone; None if there is none
    now.
    """
    fds = array.array("i")
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    room = socket.CMSG_LEN(FDS_MAX * fds.itemsize)
    try:  # not recv_fds and send_fds, which forget their flags in Python 3.11
        packet, rights, _, _ = line.recvmsg(PACKET_MAX, room, flags)
    except BlockingIOError:
        return None
    except OSError:
        return b"", []
    for _, _, data in rights:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, fds.tolist()


def send(line: socket.socket, packet: bytes, *fds: int) -> bool:
    """Send a packet, if it can be sent at once; return whether it was."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        line.sendmsg([packet], rights, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def pickled(config: Config) -> int:
    """A descriptor of a file in memory that holds a config."""
    descriptor = os.memfd_create("jsbox-config", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            pickle.dump(config, file)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unpickled(descriptor: int) -> Config:
    """The config in such a file, wherever others have read in it."""
    size, data = os.fstat(descriptor).st_size, bytearray()
    while part := os.pread(descriptor, size - len(data), len(data)):
        data += part
    found = pickle.loads(data)  # noqa: S301  # the first process of this service wrote it
    assert isinstance(found, Config)
    return found
