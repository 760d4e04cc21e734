"""Walls around the search process, which it puts up itself once it has loaded its code: it may
write its own folder and reach its store, and nothing else. A query that takes the engine over gets
no further than that.

Landlock: files may be written below the folder of indexes; the code may be read; TCP goes to the
store's port only (kernel 6.7), signals and abstract sockets to nobody (6.12). The system call
filter: no programs and no processes, no sockets but those to the store, none that listens, no other
process's memory, nothing that changes users, mounts, the clock or the kernel.

Each wall stands by itself. One that cannot be put up is reported, and search goes on without it.

`python -m resources.stores.search.walls FOLDER` with the store's URL as its input puts them up and
prints what is lacking, as a JSON list: for `jsbox doctor`.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import json
import os
import platform
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from attrs import frozen

DEFAULT_PORT = 6379
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
VERSION_FLAG = 1
RULE_PATH, RULE_PORT = 1, 2
READ_FILE, READ_DIR = 1 << 2, 1 << 3
CONNECT_TCP = 1 << 1
TCP = 3  # bind and connect, from version 4
SCOPES = 3  # abstract sockets and signals, from version 6

# Of x86-64 and of aarch64; 0: there is none.
_DENIED = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, 0), "vfork": (58, 0),
    "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "perf_event_open": (298, 241), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "userfaultfd": (323, 282), "memfd_create": (319, 279),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "mknod": (133, 0),
    "mknodat": (259, 33), "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setregid": (114, 143), "setgroups": (116, 159), "setresuid": (117, 147),
    "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152), "capset": (126, 91),
    "personality": (135, 92), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "process_madvise": (440, 440), "quotactl": (179, 60),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, 0), "ioperm": (173, 0), "syslog": (103, 116),
    "fanotify_init": (300, 262), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
}  # fmt: skip
# Programs do without these: clone3 hides its flags from a filter, io_uring bypasses it.
_MISSING = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}  # fmt: skip
_CLONE, _SOCKET, _KILL, _TGKILL = (56, 220), (41, 198), (62, 129), (234, 131)
CLONE_THREAD = 0x10000
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000  # from this number on, the calls of another ABI of x86-64

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERROR, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they are in what a filter sees


_FOR_NAMES = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf",
    "/etc/ld.so.cache", "/run/systemd/resolve",
)  # fmt: skip
_FOR_TLS = ("/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share")


@frozen(kw_only=True)
class Store:
    """How the store is reached.

    Attributes:
        is_unix: Over a Unix socket; otherwise over TCP.
        port: At this port; 0 if there are several.
        needs_names: Names of hosts are looked up.
        files: What else is read to connect: certificates.
    """

    is_unix: bool
    port: int = 0
    needs_names: bool = False
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str) -> Store:
        """That of a URL."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls(is_unix=True)
        has_several = "+" in parts.scheme  # a cluster, sentinels
        try:
            ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            needs_names = True
        else:
            needs_names = has_several
        given = [value for _, value in parse_qsl(parts.query) if value.startswith("/")]
        return cls(
            is_unix=False,
            port=0 if has_several else parts.port or DEFAULT_PORT,
            needs_names=needs_names,
            files=(*_FOR_TLS, *given) if parts.scheme.startswith("rediss") else (),
        )


def confine(folder: Path, store: Store) -> list[str]:
    """Put the walls up, for this thread and all that it starts: each that can be. Return what is
    lacking, with the reason unless the kernel is merely too old.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    walls: Sequence[tuple[str, Callable[[], Iterable[str]]]] = (
        ("no_new_privs", partial(_give_up_privileges, libc)),
        ("Landlock", partial(_restrict_files, libc, folder, store)),
        ("the system call filter", partial(_restrict_calls, libc, store)),
    )
    lacking: list[str] = []
    for name, put_up in walls:
        try:
            lacking += put_up()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next wall can stand
            lacking.append(f"{name} ({error or type(error).__name__})")
    return lacking


def _give_up_privileges(libc: ctypes.CDLL) -> list[str]:
    _done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    return []


def landlock_version() -> int:
    """The kernel's version of Landlock; 0: it has none."""
    version: int = ctypes.CDLL(None).syscall(
        LANDLOCK_CREATE, None, ctypes.c_size_t(0), VERSION_FLAG
    )
    return max(version, 0)


def _done(result: int, step: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{step}: {os.strerror(code)}")
    return result


def _restrict_files(libc: ctypes.CDLL, folder: Path, store: Store) -> list[str]:
    version = landlock_version()
    if not version:
        return ["Landlock (Linux 5.13, and not disabled)"]
    # versions 2, 3 and 5 of the kernel's header each added a bit
    bits = 13 + sum(version >= since for since in (2, 3, 5))
    handled = (1 << bits) - 1
    # the kernel's numbers, as above
    ports = version >= 4 and (store.is_unix or store.port)  # noqa: PLR2004
    scopes = SCOPES if version >= 6 else 0  # noqa: PLR2004
    wanted = struct.pack("QQQ", handled, TCP if ports else 0, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8  # noqa: PLR2004
    ruleset = _done(
        libc.syscall(LANDLOCK_CREATE, wanted, ctypes.c_size_t(size), 0), "a Landlock ruleset"
    )
    try:
        # The one-file jsbox has its modules in a file beside the executable, from which they are
        # read as they are imported.
        modules = f"{sys.executable}.pkg"
        own = (sys.prefix, sys.base_prefix, modules, *sys.path)
        code = (*own, "/usr/lib", "/lib", "/lib64")
        readable = {*code, *store.files, *(_FOR_NAMES if store.needs_names else ())}
        _allow(libc, ruleset, str(folder), handled)
        for path in filter(os.path.exists, filter(None, readable)):
            with suppress(OSError):  # it cannot be read then, which others notice
                _allow(libc, ruleset, path, READ_FILE | READ_DIR)
        if ports and store.port:
            rule = struct.pack("QQ", CONNECT_TCP, store.port)
            _done(libc.syscall(LANDLOCK_ADD, ruleset, RULE_PORT, rule, 0), "a rule for the port")
        _done(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "the restriction")
    finally:
        os.close(ruleset)
    return [
        f"Landlock of {what} (Linux {kernel})"
        for what, kernel, since in (("TCP ports", "6.7", 4), ("signals", "6.12", 6))
        if version < since
    ]


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if Path(path).is_dir() else rights & ~READ_DIR
        rule = struct.pack("=Qi", allowed, place)
        _done(libc.syscall(LANDLOCK_ADD, ruleset, RULE_PATH, rule, 0), f"a rule for {path}")
    finally:
        os.close(place)


def _restrict_calls(libc: ctypes.CDLL, store: Store) -> list[str]:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return [f"a system call filter for {machine}"]
    column, architecture = _ARCHITECTURES[machine]
    code = b"".join(
        struct.pack("HBBI", *step) for step in _filter(column, architecture, os.getpid(), store)
    )
    lines = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(lines))
    _done(
        libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.c_char_p(program), 0, 0),
        "the filter",
    )
    return []


Step = tuple[int, int, int, int]


def _filter(column: int, architecture: int, pid: int, store: Store) -> list[Step]:
    refuse, absent = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    steps: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if not column:
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, absent)]
    for calls, answer in ((_DENIED, refuse), (_MISSING, absent)):
        for numbers in calls.values():
            if numbers[column]:
                steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, answer)]
    steps += _if_call(_CLONE[column], [
        (_LOAD, 0, 0, _ARGUMENTS), (_ANY_BIT, 0, 1, CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse),
    ])  # fmt: skip
    for numbers in (_KILL, _TGKILL):
        steps += _if_call(numbers[column], [
            (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, pid),
            (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse),
        ])  # fmt: skip
    steps += _if_call(_SOCKET[column], _sockets(store, refuse))
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _if_call(number: int, steps: Sequence[Step]) -> list[Step]:
    return [(_EQUAL, 0, len(steps), number), *steps]


def _sockets(store: Store, refuse: int) -> list[Step]:
    families = [socket.AF_UNIX] if store.is_unix else [socket.AF_INET, socket.AF_INET6]
    kinds = [socket.SOCK_STREAM, *([socket.SOCK_DGRAM] if store.needs_names else [])]
    ends: list[Step] = [(_RETURN, 0, 0, refuse)]
    steps: list[Step] = [(_LOAD, 0, 0, _ARGUMENTS)]
    steps += _one_of([int(family) for family in families])
    steps += [*ends, (_LOAD, 0, 0, _ARGUMENTS + 8), (_AND, 0, 0, 0xF)]
    return [*steps, *_one_of([int(kind) for kind in kinds]), *ends, (_RETURN, 0, 0, _ALLOW)]


def _one_of(values: Sequence[int]) -> list[Step]:
    """Skip the next step if the accumulator has one of some values."""
    return [(_EQUAL, len(values) - n, 0, value) for n, value in enumerate(values)]


if __name__ == "__main__":
    found = confine(Path(sys.argv[1]), Store.of(sys.stdin.read().strip()))
    sys.stdout.write(json.dumps(found))
