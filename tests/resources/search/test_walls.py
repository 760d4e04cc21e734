"""The walls of the search process, from within: a program puts them up and tries what a query that
took the engine over would try.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resources.stores.search.walls import Store, landlock_version

TRIES = """
import ctypes, json, os, signal, socket, subprocess, sys, threading
from pathlib import Path
from resources.stores.search.walls import Store, confine
folder, outside, url, port, other = sys.argv[1:]
sys.executable = f"{outside}/jsbox"  # the one-file jsbox imports from jsbox.pkg beside it
missing = confine(Path(folder), Store.of(url))

def name(attempt):
    try:
        attempt()
    except Exception as error:
        return type(error).__name__
    return "done"

def thread():
    done = threading.Thread(target=lambda: None)
    done.start()
    done.join()

def make_and_move():
    os.mkdir(f"{folder}/a")
    Path(f"{folder}/a/b").write_text("x")
    os.rename(f"{folder}/a/b", f"{folder}/c")
    assert Path(f"{folder}/c").read_text() == "x"
    os.truncate(f"{folder}/c", 0)
    os.unlink(f"{folder}/c")
    os.rmdir(f"{folder}/a")

def connect(port):
    with socket.create_connection(("127.0.0.1", int(port)), 5):
        pass

libc = ctypes.CDLL(None, use_errno=True)
def ptrace():
    if libc.ptrace(16, os.getppid(), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")

print(json.dumps({"missing": missing} | {text: name(attempt) for text, attempt in {
    "a thread": thread,
    "its folder": make_and_move,
    "a late import": lambda: __import__("xml.dom.minidom"),
    "its modules": lambda: Path(f"{sys.executable}.pkg").read_text(),
    "the store": lambda: connect(port),
    "another port": lambda: connect(other),
    "write beside": lambda: Path(outside, "new").write_text("x"),
    "read beside": lambda: Path(outside, "secret").read_text(),
    "read users": lambda: Path("/etc/passwd").read_text(),
    "list the root": lambda: os.listdir("/"),
    "a program": lambda: subprocess.run(["/bin/true"]),
    "a process": lambda: os.waitpid(os.fork(), 0),
    "a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "raw packets": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)),
    "a signal to another": lambda: os.kill(os.getppid(), 0),
    "a signal to itself": lambda: os.kill(os.getpid(), 0),
    "trace another": ptrace,
}.items()}))
"""
ALLOWED = {
    "a thread", "its folder", "a late import", "its modules", "the store", "a signal to itself",
}  # fmt: skip


NEEDS_ALL = pytest.mark.skipif(
    landlock_version() < 6,
    reason="this kernel's Landlock has no ports or no scopes (6.12 has both)",
)


def tries(tmp_path: Path, url: str, port: int) -> dict[str, Any]:
    folder = tmp_path / "indexes"
    folder.mkdir()
    for name in ("secret", "jsbox.pkg"):
        (tmp_path / name).write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as other:
        argv = [folder, tmp_path, url, port, other.getsockname()[1]]
        done = subprocess.run(
            [sys.executable, "-c", TRIES, *map(str, argv)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("missing") == []
    return found


@NEEDS_ALL
def test_a_store_over_tcp(tmp_path: Path) -> None:
    """Its port can be reached, and no other; nothing is looked up."""
    with socket.create_server(("127.0.0.1", 0)) as store:
        port = store.getsockname()[1]
        found = tries(tmp_path, f"redis://:password@127.0.0.1:{port}/0", port)
    assert {text for text, how in found.items() if how == "done"} == ALLOWED, found
    assert set(found.values()) == {"done", "PermissionError"}, found


@NEEDS_ALL
def test_a_store_on_a_unix_socket(tmp_path: Path) -> None:
    """There is no TCP at all."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = tries(tmp_path, "unix:///somewhere/valkey.sock", other.getsockname()[1])
    allowed = ALLOWED - {"the store"} | {"a Unix socket"}
    assert {text for text, how in found.items() if how == "done"} == allowed, found


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("unix:///a/b.sock?db=1", Store(is_unix=True)),
        ("redis://[::1]/3", Store(is_unix=False, port=6379)),
        ("redis://u:p@cache.internal:7000", Store(is_unix=False, port=7000, needs_names=True)),
        ("redis+cluster://10.0.0.1:7000", Store(is_unix=False, needs_names=True)),
        ("redis+sentinel://a:1,b:2/main", Store(is_unix=False, needs_names=True)),
    ],
)
def test_what_a_url_needs(url: str, store: Store) -> None:
    """One port where there is one server, look-ups where there are names."""
    assert Store.of(url) == store


def test_tls_reads_certificates() -> None:
    """Those of the system, and those that the URL names."""
    store = Store.of("rediss://10.0.0.1:6380?ssl_ca_certs=/srv/ca.pem")
    assert {"/etc/ssl", "/srv/ca.pem"} <= set(store.files)
    assert store.port == 6380


EACH = """
import json, os, sys
from pathlib import Path
from resources.stores.search import walls

def fail(*arguments):
    raise OSError(1, "Operation not permitted")

setattr(walls, sys.argv[2], fail)
lacking = walls.confine(Path(sys.argv[1]), walls.Store.of("unix:///none"))
try:
    Path("/etc/passwd").read_text()
except PermissionError:
    may_read = False
else:
    may_read = True
try:
    if not os.fork():
        os._exit(0)
except PermissionError:
    may_fork = False
else:
    os.wait()
    may_fork = True
print(json.dumps([lacking, may_read, may_fork]))
"""


@NEEDS_ALL
@pytest.mark.parametrize(
    ("broken", "name", "may_read", "may_fork"),
    [
        ("_restrict_files", "Landlock", True, False),
        ("_restrict_calls", "the system call filter", False, True),
    ],
)
def test_each_wall_stands_by_itself(
    broken: str, name: str, tmp_path: Path, *, may_read: bool, may_fork: bool
) -> None:
    """And what does not stand is said, with the reason."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, tmp_path, broken],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reason = f"{name} ([Errno 1] Operation not permitted)"
    assert json.loads(done.stdout.splitlines()[-1]) == [[reason], may_read, may_fork]
