"""The exporter while its process begins, dies or is not wanted. The processes are small programs
that keep what they get: no SDK is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervisor.otel import exporter as module
from supervisor.otel.exporter import Exporter

from ...gateway_client import PATIENCE
from .test_exporter import APP, ended

A, B = "http://127.0.0.1:9", "http://127.0.0.1:10"
# Says that it has begun, waits for leave, then takes all: each line is kept with its endpoint.
TAKES = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
endpoint = json.loads(sys.stdin.readline())["endpoint"]
begun = folder / "begun"
begun.with_suffix(".new").write_text(f"{os.getpid()} {endpoint}")
begun.with_suffix(".new").rename(begun)
if (folder / "gate").exists():
    (folder / "gate").read_bytes()
print("{}", flush=True)
for line in sys.stdin:
    if (folder / "dies").exists():
        with (folder / "tries").open("a") as tries:
            tries.write("x")
        sys.exit(3)
    with (folder / "got").open("a") as got:
        for run in json.loads(line):
            got.write(f"{run[4]} {endpoint}\\n")
    print('{"exported": 1}', flush=True)
"""


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.005)


def got(folder: Path) -> list[str]:
    return (folder / "got").read_text().splitlines() if (folder / "got").exists() else []


@asynccontextmanager
async def exporting(folder: Path, endpoint: str = A) -> AsyncIterator[Exporter]:
    program = folder / "takes.py"
    program.write_text(TAKES)
    async with trio.open_nursery() as nursery:
        exporter = Exporter(endpoint, argv=(sys.executable, str(program), str(folder)))
        exporter._is_hurried = True
        nursery.start_soon(exporter.run)
        yield exporter
        nursery.cancel_scope.cancel()


async def test_a_reload_while_the_process_begins(tmp_path: Path) -> None:
    """Nothing more goes to the collector before."""
    os.mkfifo(tmp_path / "gate")
    async with exporting(tmp_path) as exporter:
        exporter.take(ended("m1"), APP)
        await until((tmp_path / "begun").exists)
        exporter.follow(B)
        (tmp_path / "gate").rename(tmp_path / "open")
        descriptor = os.open(tmp_path / "open", os.O_WRONLY)
        os.close(descriptor)
        await until(lambda: len(got(tmp_path)) == 1)
        exporter.take(ended("m2"), APP)
        await until(lambda: len(got(tmp_path)) == 2)
    assert got(tmp_path) == [f"m1 {B}", f"m2 {B}"]


async def test_a_process_that_is_killed_while_it_has_nothing_to_do(tmp_path: Path) -> None:
    """It is reaped at once, and the next run is sent by another; nobody is to blame."""
    async with exporting(tmp_path) as exporter:
        exporter.take(ended("m1"), APP)
        await until(lambda: exporter.exported == 1)
        pid = int((tmp_path / "begun").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        exporter.take(ended("m2"), APP)
        await until(lambda: exporter.exported == 2)
        assert (exporter.problem, exporter.dropped.total()) == ("", 0)
    assert [line.split()[0] for line in got(tmp_path)] == ["m1", "m2"]


async def test_what_a_process_dies_of_is_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.01))
    (tmp_path / "dies").touch()
    async with exporting(tmp_path) as exporter:
        exporter.take(ended("m1"), APP)
        await until(lambda: not exporter._sending and exporter.dropped["failed"] > 0)
        spans = exporter.dropped["failed"]
        assert (tmp_path / "tries").read_text() == "xx"
        assert exporter._bytes == 0
        await until(lambda: "the exporting process ended" in exporter.problem)
        (tmp_path / "dies").unlink()
        exporter.take(ended("m2"), APP)
        await until(lambda: exporter.exported == 1)
        assert exporter.dropped["failed"] == spans
    assert got(tmp_path) == [f"m2 {A}"]


async def test_without_an_endpoint_what_waits_is_dropped(tmp_path: Path) -> None:
    """Whoever is named later has no right to it."""
    exporter = Exporter(A)
    exporter.take(ended("m1"), APP)
    waiting = sum(run.spans for run in exporter._queue)
    exporter.follow("")
    assert (len(exporter._queue), exporter._bytes) == (0, 0)
    assert exporter.dropped["off"] == waiting > 0
    exporter.take(ended("m2"), APP)
    exporter.follow(B)
    assert not exporter._queue


@pytest.mark.parametrize("said", ["true", " TRUE "])
async def test_the_sdk_is_disabled(
    said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", said)
    exporter = Exporter(A)
    for endpoint in (B, "", A):
        exporter.take(ended(), APP)
        assert (exporter.is_on, len(exporter._queue)) == (False, 0)
        exporter.follow(endpoint)
    assert [one.getMessage() for one in caplog.records] == [
        "OTEL_SDK_DISABLED is true: no traces are exported"
    ]
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    assert Exporter(A).is_on
