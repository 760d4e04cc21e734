"""`jsbox dev` reloads the app whenever one of its files was saved."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor import service
from supervisor.cli import dev
from supervisor.cli.dev import _dev, _Watched
from supervisor.cli.dev_config import Options, Value

APP = "api.on_inbound_message = function () { api.done(); };"


@pytest.fixture
def options(tmp_path: Path) -> Options:
    app, value = tmp_path / "app.js", tmp_path / "af.json"
    app.write_text(APP)
    value.write_text("{}")
    return Options(
        app=app,
        config=None,
        values=(Value("translation.af", "", value),),
        modules_dir=None,
        state=tmp_path / "state",
        allow=(),
        isolation="none",
    )


def test_each_file_is_watched(options: Options) -> None:
    watched = _Watched(options)
    assert not watched.have_changed()
    (file,) = (one.file for one in options.values)
    assert file is not None
    file.write_text('{"a": 1}')
    assert watched.have_changed()
    assert not watched.have_changed()


def test_a_missing_file_hides_no_change_of_another(options: Options) -> None:
    """It counts once it is back."""
    watched = _Watched(options)
    (file,) = (one.file for one in options.values)
    assert file is not None
    file.unlink()
    assert not watched.have_changed()
    options.app.write_text(APP + "\n")
    assert watched.have_changed()
    file.write_text("{}")
    assert watched.have_changed()


def test_another_file_of_the_same_size_and_time_is_a_change(options: Options) -> None:
    watched, before = _Watched(options), options.app.stat()
    other = options.app.with_name("other.js")
    other.write_text(APP.replace("done", "DONE"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(options.app)
    assert options.app.stat().st_mtime_ns == before.st_mtime_ns
    assert watched.have_changed()


async def test_a_save_while_it_starts_is_not_missed(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, starting takes seconds."""
    is_reloaded, opened = trio.Event(), service.open_service

    @asynccontextmanager
    async def slowly(*args: Any) -> Any:
        async with opened(*args) as started:
            options.app.write_text(APP + "\n// saved meanwhile")
            yield started

    class FakeTalk:
        def __init__(self, *args: Any) -> None:
            pass

        async def run(self) -> bool:
            with trio.fail_after(20):
                await is_reloaded.wait()
            return True

    def note(_: Any, text: str) -> None:
        if text == "the app was reloaded":
            is_reloaded.set()

    monkeypatch.setattr(service, "open_service", slowly)
    monkeypatch.setattr(dev, "Talk", FakeTalk)
    monkeypatch.setattr(dev.Screen, "note", note)
    assert await _dev(options, dev.Screen(), sms=True) == 0
