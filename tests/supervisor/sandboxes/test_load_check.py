"""Apps are loaded once in a real sandbox before they are taken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import evolve

from supervisor.config import Limits
from supervisor.config.model import App, Breakage, Level
from supervisor.config.units import Duration
from supervisor.errors import AppFailed, CannotStart, LimitHit, SandboxFault
from supervisor.jail.argv import Jail
from supervisor.outcomes import Outcome
from supervisor.sandboxes import load_check
from supervisor.sandboxes.load_check import LoadCheck, is_suspect

from ...apps import walls

HANDLER = "api.on_inbound_message = function () { api.done(); };\n"
LIMITS = Limits(cpu=Duration(0.3), boot=Duration(5.0))


def app(source: str, name: str = "app", **more: Any) -> App:
    return App(name, "acct", Path(f"/apps/{name}.js"), source=source, **{"limits": LIMITS} | more)


GOOD = app(HANDLER)


async def text(one: App, level: Level = "standard") -> str:
    """What is wrong with an app, without its path and name; empty if nothing."""
    found = await LoadCheck(walls(level)).breakages([one])
    return str(found[0]).removeprefix("/apps/app.js:") if found else ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("var a = 1;\nfunction f() {\n  null.x;\n}\nf();", "3:8: TypeError: Cannot read"),
        ("throw 'x';", "1: x"),
        ("\neval('var = 1');", "2:1: SyntaxError: Unexpected token '='"),
        (HANDLER + "\nJSON.parse('');", "3:6: SyntaxError: Unexpected end of JSON input"),
        ("var x = { toString: null };\nthrow x;", "1: an error that cannot be shown"),
        (HANDLER + "Promise.reject(new Error('no'));", "2:16: Error: no"),
        (HANDLER + "\nfor (;;) {\n}", "3:1: limits.cpu = 0.3 s, measured 0."),
        (
            HANDLER + "Promise.resolve().then(function () {\n  for (;;) {} });",
            "3:3: limits.cpu = 0.3 s, measured 0.",
        ),
    ],
)
async def test_what_cannot_be_loaded_is_named_with_its_line(source: str, expected: str) -> None:
    found = (await text(app(source))).replace(" app app: it cannot be loaded:", "")
    assert found.startswith(expected)
    assert "anonymous" not in found


@pytest.mark.parametrize(
    "source", ["api.on_inbound_mesage = function () {};", "api.on_unknown_command = undefined;", ""]
)
async def test_an_app_that_does_nothing_is_noted_and_not_refused(source: str) -> None:
    """As a misspelt name of a handler has it."""
    check = LoadCheck(walls("standard"))
    assert await check.breakages([app(source)]) == []
    assert check.notes == [
        "apps.app: the app sets no api.on_inbound_message, so nothing would handle a message"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "api.done();",
        "api.log_info('x', function () { api.done(); });",
        "api.request('config.get', {key: 'a'}, () => { api.on_inbound_message = api.done; });",
    ],
)
async def test_an_app_may_act_as_it_is_loaded(source: str) -> None:
    """As old ones did that have no handler, or set it in a callback."""
    check = LoadCheck(walls("standard"))
    assert await check.breakages([app(source)]) == []
    assert check.notes == []


SOURCE_MAP = '{"sources": ["../src/app.ts"], "mappings": "AAAA;AAUA;AACA"}'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\nnull.x;", "src/app.ts:11:6: app app: it cannot be loaded: TypeError: Cannot read"),
        (
            HANDLER + "\nPromise.resolve().then(function f() { throw new Error('no'); });",
            "src/app.ts:12:",
        ),
    ],
)
async def test_an_error_is_at_its_line_of_the_source(
    source: str, expected: str, tmp_path: Path
) -> None:
    """In the folder that has it; with a map that is wrong, in the text that was loaded."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.ts").write_text("")
    built = evolve(app(source), javascript=tmp_path / "dist" / "app.js", source_map=SOURCE_MAP)
    for one, file in (
        (built, f"{tmp_path}/{expected}"),
        (evolve(built, javascript=Path("/apps/app.js")), f"/apps/{expected}"),
        (evolve(built, source_map="{"), f"{tmp_path}/dist/app.js:"),
    ):
        (found,) = await LoadCheck(walls("standard")).breakages([one])
        assert str(found).startswith(file)


async def test_so_it_is_at_level_strict() -> None:
    looping = app(HANDLER + "\n\nwhile (true) { }")
    assert (await text(looping, "strict")).startswith("4:1: app app: it cannot be loaded: limits.c")
    assert await text(GOOD, "strict") == ""


async def test_an_app_that_fills_its_heap_is_named_with_its_line() -> None:
    limits = evolve(LIMITS, cpu=Duration(5.0))
    full = app("var a = [];\n" + HANDLER + "while (true) {\n  a.push({});\n}", limits=limits)
    found = await text(full)
    assert ": app app: it cannot be loaded: limits.heap = 67108864 bytes, measured mo" in found
    assert found.split(":")[0] in {"3", "4"}


async def test_an_app_that_waits_for_ever_is_named() -> None:
    limits = evolve(LIMITS, wall=Duration(0.5))
    waits = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);"
    found = await text(app(HANDLER + waits, limits=limits))
    assert found.startswith("2:9: app app: it cannot be loaded: limits.wall = 0.5 s")


@pytest.mark.parametrize(
    "source",
    [
        HANDLER,
        "api.on_inbound_event = function () {};",
        "api.on_unknown_command = function () {};",
        "api.log_info('starts'); api.done(); console.log('starts');" + HANDLER,
        # what it asks goes nowhere, so nothing comes back that it could stumble over
        "api.request('config.get', {key: 'config'}, function (r) { r.value.x.y; });" + HANDLER,
        "for (var i = 0; i < 5000; i++) api.request('kv.incr', {key: 'x'});" + HANDLER,
        "require('vumigo_v02'); require('no such module');" + HANDLER,
    ],
)
async def test_what_real_apps_do_when_they_are_loaded_is_taken(source: str) -> None:
    assert await text(app(source)) == ""


def with_modules(folder: Path, source: str, **files: str) -> App:
    for name, content in files.items():
        (folder / name).mkdir()
        (folder / name / "index.js").write_text(content)
    return app(source, modules=("vumigo_v02", *files), modules_dir=folder)


async def test_a_module_that_throws_is_named_with_the_line_that_requires_it(tmp_path: Path) -> None:
    bad = "\nmodule.exports = nothing.at.all;"
    one = with_modules(tmp_path, HANDLER + "\nrequire('good');\nrequire('bad');", bad=bad, good="1")
    found = await text(one)
    assert found.startswith("4:1: app app: it cannot be loaded: ReferenceError: nothing is not def")
    assert "bad/index.js:2:18)" in found


async def test_a_module_that_keeps_the_process_from_starting_is_named(tmp_path: Path) -> None:
    """Modules are loaded before the process is ready."""
    one = with_modules(tmp_path, HANDLER + "\nrequire('loops');", loops="for (;;) {}")
    found = await text(evolve(one, limits=evolve(LIMITS, boot=Duration(1.0))))
    assert found == (
        "3: app app: it cannot be loaded: its modules: limits.boot = 1 s: the process was not ready"
        " in that time"
    )


async def test_code_that_does_not_fit_into_the_memory_is_refused_for_that() -> None:
    """It is compiled before the process is ready."""
    keys = ",".join(f'k{n}:[1,2,"{n}"]' for n in range(400_000))
    found = await text(app(f"{HANDLER}\nvar x = {{{keys}}};"))
    assert re.match(r"1: app app: it cannot be loaded: limits\.(heap|memory) = \d+ bytes", found)


@pytest.mark.parametrize("level", ["standard", "strict"])
async def test_packages_with_exports_are_found_in_any_folder(level: Level, tmp_path: Path) -> None:
    """At strict, and as root, the folder that a sandbox sees has another name."""
    tmp_path.chmod(0o700)  # so that root makes a copy
    manifest = {
        "exports": {
            ".": {"import": "./wrong.mjs", "require": "./right.cjs"},
            "./part/*": "./parts/*.js",
        }
    }
    source = "module.exports = 'right';"
    for package in (tmp_path / "own", tmp_path / "@of" / "own"):
        (package / "parts").mkdir(parents=True)
        (package / "package.json").write_text(json.dumps(manifest))
        for name in ("right.cjs", "parts/one.js"):
            (package / name).write_text(source)
        for name in ("index.js", "wrong.mjs", "hidden.js"):
            (package / name).write_text("throw new Error('wrong');")
    names = ("own", "own/part/one", "@of/own", "@of/own/part/one")
    checks = "".join(f"if (require('{one}') !== 'right') throw '{one}';\n" for one in names)
    checks += "try { require('own/hidden.js'); throw 'it gave a hidden file'; } catch (error) {"
    checks += " if (error.code !== 'ERR_PACKAGE_PATH_NOT_EXPORTED') throw error; }"
    modules = (*names, "own/hidden.js")
    assert await text(app(HANDLER + checks, modules=modules, modules_dir=tmp_path), level) == ""


class Counted:
    """Walls that count the processes, or have none to give."""

    def __init__(self, error: str = "") -> None:
        self.error, self.started = error, list[str]()

    def jail(self, app: App) -> Jail:
        self.started.append(app.name)
        if self.error:
            raise CannotStart(self.error)
        return walls().jail(app)

    def blank(self, like: App) -> Jail:
        raise AssertionError("no spare process is needed")

    def kind(self, app: App) -> object:
        return app


async def test_only_new_apps_are_loaded() -> None:
    counted = Counted()
    check = LoadCheck(counted)
    bad, known = app("x.y;", "bad"), app(HANDLER + "// known", "known")
    check.trust([known])
    for _ in range(2):
        assert [one.app for one in await check.breakages([GOOD, bad, known])] == ["bad"]
    assert sorted(counted.started) == ["app", "bad", "bad"]  # a fix may be outside of its text
    assert await check.breakages([evolve(GOOD, modules=())]) == []
    assert len(counted.started) == 4


async def test_without_a_jail_nothing_is_broken_but_it_is_said() -> None:
    check = LoadCheck(Counted("no Landlock"))
    assert await check.breakages([app("x.y;", "a"), app("x.y;", "b")]) == []
    assert check.notes == ["compiled, but not loaded for a check: a, b: no Landlock"]


async def test_a_host_that_starts_no_process_breaks_no_app(tmp_path: Path) -> None:
    class Broken(Counted):
        def jail(self, app: App) -> Jail:
            return Jail(("/bin/false", "node"), {})

    check = LoadCheck(Broken())
    assert await check.breakages([app("x.y;", modules_dir=tmp_path)]) == []
    assert "the process ended while it booted" in check.notes[0]


async def test_there_is_an_end_to_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_check, "SECONDS", 0.5)
    check = LoadCheck(walls())
    slow = app("for (;;) {}", limits=evolve(LIMITS, cpu=Duration(50.0)))
    assert await check.breakages([slow]) == []
    assert check.notes == ["compiled, but not loaded for a check: app: 0.5 s were not enough"]


LOOPED = LimitHit(Outcome.CPU, "cpu", "1 s", "2 s")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (LOOPED, True),
        (AppFailed("x", is_load=True), True),
        (AppFailed("x"), False),
        (SandboxFault(Outcome.KILLED_BY_OPERATOR, "x"), False),
        (SandboxFault(Outcome.SHUTDOWN, "x"), False),
    ],
)
def test_which_ends_of_runs_are_suspect(fault: SandboxFault, *, expected: bool) -> None:
    assert is_suspect(fault) is expected


async def test_an_app_whose_runs_fail_is_loaded_once() -> None:
    """It is reported if it cannot be; one that can is not looked at again."""
    counted = Counted()
    check = LoadCheck(counted)
    bad = app("\nx.y;", "bad")
    check.trust([GOOD, bad])
    send, receive = trio.open_memory_channel[Breakage](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check.run, lambda _, found: send.send_nowait(found))
        for _ in range(3):
            check.doubt(GOOD, LOOPED)
            check.doubt(bad, LOOPED)
        found = await receive.receive()
        assert (found.app, found.line) == ("bad", 2)
        check.doubt(GOOD, LOOPED)
        check.doubt(bad, LOOPED)
        await trio.testing.wait_all_tasks_blocked(0.05)
        while len(counted.started) < 2:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sorted(counted.started) == ["app", "bad"]
    assert [one.app for one in await check.breakages([bad])] == ["bad"]  # it is not trusted
