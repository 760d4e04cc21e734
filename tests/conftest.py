"""How tests are run: in parallel, each within a time; fixtures of all tests; and the check that a
test leaves no process and no descriptor behind.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import is_hypothesis_test

from resources.stores.redis import Redis, open_redis
from supervisor.host.scratch import LOCK, PREFIX

from . import examples
from .programs import FORKS
from .store_proxy import StoreProxy, store_proxy
from .valkey_server import valkey_server

WORKERS = 4  # on two processors: more than those, since tests wait most of the time
# until a test that hangs is ended; the longest takes a tenth of that on a quiet machine
TEST_SECONDS = 300.0
LEFT_SECONDS = 20.0  # until what a test has left behind is gone
SLOW_SECONDS = 3600.0  # the same for a test that is marked slow


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples property tests try. Let the processes that tests start keep their
    bytecode, whatever the environment says: else each compiles the whole product (1.5 s of CPU).
    """
    examples.choose(config)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """None for single files and tests, which are over before workers have started."""
    return (
        max(WORKERS, os.cpu_count() or 1) if all(Path(arg).is_dir() for arg in config.args) else 0
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its time: past it, the stacks of all threads are printed, and it fails
    (pytest-timeout). Property tests are slow ones, too, where these are asked for. The harness's
    own tests come first: each is long, and at the end one worker would wait for it.
    """
    items.sort(key=lambda item: item.path.name != "test_harness.py")
    for item in items:
        if examples.are_many() and is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            is_slow = item.get_closest_marker("slow") is not None
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS if is_slow else TEST_SECONDS))


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, Any, Any]:
    """Have a test that hangs say where each of its Trio tasks waits, too."""
    result = yield
    raise_in_test = signal.getsignal(signal.SIGALRM)
    if callable(raise_in_test):
        signal.signal(signal.SIGALRM, partial(_say_and, raise_in_test))
    return result


def _say_and(raise_in_test: Callable[[int, Any], Any], number: int, frame: Any) -> None:
    with suppress(RuntimeError):  # no Trio here
        root = trio.lowlevel.current_root_task()
        sys.stderr.write("\n".join(_waiting(root)) + "\n" if root is not None else "")
    raise_in_test(number, frame)


def _waiting(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """A Trio task and those below it, each with the lines that it has come to (but Trio's own),
    innermost last.
    """
    frames = [(frame.f_code.co_filename, line) for frame, line in task.iter_await_frames()]
    shown = [
        f"{Path(file).name}:{line}" for file, line in frames if "/site-packages/trio/" not in file
    ]
    yield f"{'  ' * depth}{task.name}: {', '.join(shown)}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _waiting(child, depth + 1)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Half a surrogate pair in what a test has printed or logged must not end its worker: xdist
    sends valid text only.
    """
    return _clean((yield))


def _clean(value: Any) -> Any:
    """JSON data with every text valid."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return type(value)(map(_clean, value)) if isinstance(value, list | tuple) else value


def _children() -> set[int]:
    """Processes whose parent is this one, or the fork server."""
    found: set[int] = set()
    for parent in {os.getpid(), FORKS.pid} - {None}:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            with suppress(OSError):  # it may have ended meanwhile
                found.update(map(int, (thread / "children").read_text().split()))
    return found - {FORKS.pid}


def _descriptors() -> int:
    """But for the locks of temporary folders that all tests share (tests/apps.py), and for what the
    fork server waits at.
    """
    count = -1 if FORKS.pid is not None else 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found = os.readlink(f"/proc/self/fd/{descriptor}")
            count += not (found.endswith(f"/{LOCK}") or Path(found).name.startswith(PREFIX))
    return count


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[None]:
    """The fork server ends with the tests."""
    yield
    FORKS.stop()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends with the processes and descriptors that it began with."""
    processes, descriptors = _children(), _descriptors()
    yield
    if "server" in request.fixturenames or "valkey" in request.fixturenames:
        return  # a server that lives longer than one test was started by this one
    deadline = time.monotonic() + LEFT_SECONDS
    while True:
        left, more = _children() - processes, _descriptors() - descriptors
        if (not left and more <= 0) or time.monotonic() > deadline:
            break
        gc.collect()  # what a caught exception's traceback still holds
        time.sleep(0.02)
    assert not left
    assert more <= 0


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Valkey on a unix socket, for the whole session."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def proxy(valkey: str) -> Iterator[StoreProxy]:
    """A proxy in front of an empty store; faults are its own."""
    with store_proxy(valkey) as made:
        made.go_back()
        yield made


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    """A client of an empty store."""
    async with open_redis(valkey) as client:
        await client.execute("FLUSHALL")
        yield client
