"""The apps' logs on standard output: whole, unforgeable lines, and never in anybody's way."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import trio

from resources.stores.logbook import LogEntry
from supervisor import log_output
from supervisor.config.convert import PIECES
from supervisor.log_output import INDENT, LINE_MAX, OVERHEAD, WAITING_MAX, LogWriter

from ..gateway_client import PATIENCE, connect
from ..service import REPLY, Folder, running

TIME = "2026-02-03T04:05:06.789012Z"
END = "the last of them"
FORGED = f"all is well\n{TIME} bank ERROR \x1b[2Jbroke\u202e\n<3>{INDENT}\r{TIME}\x9b1m\tend"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # a test has closed it
            os.close(end)


def writer_to(descriptor: int, form: str) -> LogWriter:
    writer = LogWriter(descriptor)
    writer.form = form  # type: ignore[assignment]
    return writer


async def written(messages: list[str], form: str, ends: tuple[int, int]) -> list[str]:
    """What a reader gets for these entries, in lines."""
    writer = writer_to(ends[1], form)
    for message in messages:
        writer.put("acme", "phone", LogEntry(TIME, "INFO", message))
    writer.put("acme", "phone", LogEntry(TIME, "INFO", END))
    found = b""
    with trio.fail_after(PATIENCE):
        while END.encode() not in found or not found.endswith(b"\n"):
            found += await trio.to_thread.run_sync(os.read, ends[0], 1 << 16)
    return found.decode().split("\n")[:-2]


async def test_text_cannot_be_forged(pipe: tuple[int, int]) -> None:
    """Every further line of an entry is indented; what a terminal would obey is shown."""
    lines = await written([FORGED, "", "next"], "text", pipe)
    assert lines == [
        f"{TIME} phone INFO all is well",
        f"{INDENT}{TIME} bank ERROR \\x1b[2Jbroke\\u202e",
        f"{INDENT}<3>{INDENT}\\r{TIME}\\x9b1m\tend",
        f"{TIME} phone INFO ",
        f"{TIME} phone INFO next",
    ]


async def test_json_is_a_line_an_entry(pipe: tuple[int, int]) -> None:
    """The message is as the app wrote it, once it is decoded; undecoded, no terminal obeys it."""
    rare = FORGED + "\u2028\U000e0041 \u05d0"
    lines = await written([rare, "next"], "json", pipe)
    assert [json.loads(line)["message"] for line in lines] == [rare, "next"]
    assert json.loads(lines[0]) == {
        "time": TIME, "app": "phone", "account": "acme", "level": "INFO", "message": rare,
    }  # fmt: skip
    assert all(line.isprintable() for line in lines)
    assert "\u05d0" in lines[0]


@pytest.mark.parametrize("char", ["x", "\U0001f600", "\x1b", '"'])
async def test_no_line_is_so_long_that_others_cut_it(pipe: tuple[int, int], char: str) -> None:
    """Text goes on in a line of its own; JSON says how much was left out."""
    message = char * (16 << 10)
    for line in await written([message], "text", pipe):
        assert len(line.encode()) < LINE_MAX
        assert line.startswith((f"{TIME} phone INFO ", INDENT))
    (line,) = await written([message], "json", pipe)
    assert len(line.encode()) <= LINE_MAX
    found = json.loads(line)
    assert len(found["message"]) + found.get("left_out", 0) == len(message)


async def test_a_reader_that_does_not_read_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """What does not fit is dropped, counted, and named at its place; then it goes on."""
    writer = writer_to(pipe[1], "json")
    size = 1000
    taken = WAITING_MAX // (size + OVERHEAD)
    for number in range(2 * taken):  # would wait for ever, if it waited
        writer.put("acme", "phone", LogEntry(TIME, "INFO", f"{number:{size}}"))
    assert 0 < writer.dropped <= taken
    text = ""
    with trio.fail_after(PATIENCE):
        while '"dropped":' not in text:
            text += (await trio.to_thread.run_sync(os.read, pipe[0], 1 << 16)).decode()
        writer.put("acme", "phone", LogEntry(TIME, "INFO", "again"))
        while "again" not in text or not text.endswith("\n"):
            text += (await trio.to_thread.run_sync(os.read, pipe[0], 1 << 16)).decode()
    entries = [json.loads(line) for line in text.splitlines()]
    whole = [int(one["message"]) for one in entries if one["app"] and one["message"] != "again"]
    assert whole == list(range(len(whole)))
    (gap,) = (one for one in entries if not one["app"])
    assert gap["dropped"] == writer.dropped == 2 * taken - len(whole)
    assert entries[-1]["message"] == "again"
    assert re.fullmatch(rf"{writer.dropped} entries .* were dropped here: .*", gap["message"])


async def test_a_reader_that_is_gone_ends_nothing(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """All is counted as dropped, and said once."""
    os.close(pipe[0])
    writer = writer_to(pipe[1], "text")
    for _ in range(3):
        writer.put("acme", "phone", LogEntry(TIME, "INFO", "x"))
        await writer.flush(PATIENCE)
    assert writer.dropped == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Broken pipe" in caplog.text
    assert writer.problem in caplog.text  # for /readyz, for as long as it is so
    absent = LogWriter(None)
    absent.form = "text"
    absent.put("acme", "phone", LogEntry(TIME, "INFO", "x"))
    assert absent.dropped == 1


async def test_a_full_disk_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is counted; the next entry begins a line of its own."""
    monkeypatch.setattr(log_output, "RETRY_SECONDS", 0.01)
    real, file = os.write, tmp_path / "out"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    answers = iter([5, OSError(28, "No space left on device")])

    def write(where: int, data: memoryview) -> int:
        answer = next(answers, None) if where == descriptor else None
        if isinstance(answer, OSError):
            raise answer
        return real(where, data[:answer])

    monkeypatch.setattr(os, "write", write)
    writer = writer_to(descriptor, "text")
    for message in ("first", "second"):
        writer.put("acme", "phone", LogEntry(TIME, "INFO", message))
        await writer.flush(PATIENCE)
    os.close(descriptor)
    assert writer.dropped == 1
    assert file.read_text() == f"{TIME[:5]}\n{TIME} phone INFO second\n"
    assert "No space left on device" in caplog.text


async def test_the_service_prints_what_apps_log(tmp_path: Path) -> None:
    """What the config says holds from a reload on; `off` is the default."""
    assert PIECES["log"]().stdout == "off"
    folder = Folder(tmp_path)
    folder.app("phone", "api.log_info('saw\\n' + command.msg.content);" + REPLY % "'ok'")
    ends = os.pipe()
    writer = LogWriter(ends[1])
    async with running(folder, writer) as service, connect(service.gateway_url) as client:
        await client.say("nobody", "new")
        for form in ("text", "json", "off"):
            (tmp_path / "jsbox.toml").write_text(f'{folder.text}[log]\nstdout = "{form}"\n')
            assert (await service.reload())["live"] == ["log.stdout"]
            await client.say(form, "new")
        async with httpx2.AsyncClient(
            base_url=service.admin_url, trust_env=False, timeout=PATIENCE
        ) as admin:
            metrics = (await admin.get("/metrics")).text
    await writer.flush(PATIENCE)
    os.close(ends[1])
    with os.fdopen(ends[0]) as reader:
        lines = reader.read().splitlines()
    assert "jsbox_log_stdout_dropped_total 0.0" in metrics
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:.]+Z phone INFO saw", lines[0])
    assert lines[1] == f"{INDENT}text"
    assert json.loads(lines[2])["message"] == "saw\njson"
    assert len(lines) == 3


async def test_without_a_thread_entries_are_dropped(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever logs does not notice; the service logs it, once."""

    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(log_output.Thread, "start", no_thread)
    writer = writer_to(pipe[1], "text")
    for _ in range(3):
        writer.put("acme", "phone", LogEntry(TIME, "INFO", "lost"))
    assert writer.dropped == 3
    assert caplog.text.count("cannot be printed: can't start new thread") == 1
    with trio.fail_after(PATIENCE):
        await writer.flush(PATIENCE * 2)
