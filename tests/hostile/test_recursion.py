"""Every way to recurse that we know: an error of the app's own, which it can catch; never the end
of the process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from supervisor.config.model import Level
from supervisor.sandboxes.lifecycle import hold_sandbox
from supervisor.sandboxes.sandbox import Sandbox

from ..apps import make_app, walls
from ..gateway_client import PATIENCE
from ..programs import bubblewrap

WAYS = {
    "function": "function f() { f(); } f();",
    "with arguments": (
        "function f(a, b, c, d, e) { return f(e, a, b, c, d) + 1; } f(1, 2, 3, 4, 5);"
    ),
    "mutual": "function f() { g(); } function g() { f(); } f();",
    "arrow": "const f = () => f() + 1; f();",
    "method": "const o = { f() { return this.f(); } }; o.f();",
    "getter": "const o = { get f() { return this.f; } }; o.f;",
    "setter": "const o = { set f(v) { this.f = v; } }; o.f = 1;",
    "constructor": "function F() { return new F(); } new F();",
    "class": "class A { constructor() { new A(); } } new A();",
    "toString": "const o = { toString() { return '' + this; } }; '' + o;",
    "valueOf": "const o = { valueOf() { return +this; } }; +o;",
    "Symbol.toPrimitive": "const o = { [Symbol.toPrimitive]() { return `${this}`; } }; `${o}`;",
    "toJSON": (
        "const o = { toJSON() { return JSON.parse(JSON.stringify(o)); } }; JSON.stringify(o);"
    ),
    "JSON.stringify of a deep object": (
        "let o = {}; for (let i = 0; i < 200000; i++) o = { o }; JSON.stringify(o);"
    ),
    "JSON.parse of a deep text": "JSON.parse('['.repeat(200000) + ']'.repeat(200000));",
    "JSON.parse with a reviver": (
        "let o = '1'; for (let i = 0; i < 20000; i++) o = '[' + o + ']'; JSON.parse(o, "
        "function f(k, v) { return v; });"
    ),
    "Proxy": "const p = new Proxy({}, { get(t, k, r) { return r[k]; } }); p.x;",
    "proxies of proxies": "let p = {}; for (let i = 0; i < 200000; i++) p = new Proxy(p, {}); p.x;",
    "bound functions": (
        "let f = function () {}; for (let i = 0; i < 200000; i++) f = f.bind(null); f();"
    ),
    "apply": "function f() { f.apply(this, arguments); } f(1, 2, 3);",
    "spread": (
        "Math.max(...new Array(5000000).fill(1)); function f(...a) { return f(...a, 1); } f();"
    ),
    "String.replace": "function f() { return 'a'.replace('a', f); } f();",
    "Array.sort": "function f() { [2, 1].sort(f); return 0; } f();",
    "Array.map": "function f() { return [1].map(f); } f();",
    "Array.flat": "let a = []; for (let i = 0; i < 200000; i++) a = [a]; a.flat(Infinity);",
    "Array.toString": "let a = []; for (let i = 0; i < 200000; i++) a = [a]; String(a);",
    "Reflect.construct": "function F() { return Reflect.construct(F, []); } new F();",
    "generator": "function* g() { yield* g(); } g().next();",
    "async function": (
        "let caught = null; async function f() { await f(); } f().catch(function (e) { caught "
        "= e; }); throw new RangeError('in the promise');"
    ),
    "nested eval": "function f(n) { return eval('f(' + (n + 1) + ')'); } f(0);",
    "source that is nested": (
        "new Function('return ' + '('.repeat(200000) + '1' + ')'.repeat(200000))();"
    ),
    "a regular expression that is nested": "new RegExp('('.repeat(200000) + ')'.repeat(200000));",
    "template": "const t = (s, v) => t`${v}`; t`${1}`;",
    "instanceof": (
        "const o = { [Symbol.hasInstance](v) { return v instanceof o; } }; ({}) instanceof o;"
    ),
    "stack trace": (
        "Error.prepareStackTrace = function (e) { return new Error('x').stack; }; new "
        "Error('y').stack; function f() { f(); } f();"
    ),
    "in the middle of the api": "function f() { api.log_info('x'); f(); } f();",
}

NOT_RECURSIVE = {"JSON.parse of a deep text", "bound functions"}  # V8 does these in a loop

APP = """
api.on_inbound_message = function (command) {
    var name = 'nothing', way = command.msg.content;
    try { (0, eval)('(function () {' + way + '})()'); } catch (e) { name = e && e.name; }
    api.log_info('caught ' + name, function () { api.done(); });
};
"""


@pytest.fixture(params=["standard", "strict"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    level: Level = request.param
    if level == "strict":
        bubblewrap()
    limits = {
        "commands": 1_000_000,
        "commands_burst": 1_000_000,
        "output": 1 << 30,
        "line": 1 << 24,
        "wall": 240.0,
    }
    app = make_app(APP, limits=limits)
    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(hold_sandbox, app, walls(level).jail(app))
        yield sandbox
        sandbox.end()


async def test_recursion_is_the_apps_own_error(sandbox: Sandbox) -> None:
    """One process takes all of them: each error is caught, and does not affect the next."""
    for name, way in WAYS.items():
        said: list[str] = []

        async def answer(request: object, said: list[str] = said) -> dict[str, object]:
            said.append(str(getattr(request, "fields", {}).get("msg")))
            return {"success": True}

        payload: dict[str, object] = {"message_id": "m", "content": way}
        with trio.fail_after(PATIENCE):
            await sandbox.deliver(f"r-{name}", "message", payload, sandbox.app.limits, answer)
        caught = [line for line in said if line.startswith("caught ")]
        right = (
            ["caught RangeError"],
            ["caught SyntaxError"],
            *([["caught nothing"]] if name in NOT_RECURSIVE else []),
        )
        assert caught in right, (name, said[:3])


def test_there_are_many_ways() -> None:
    """No way to recurse is lost from the list by accident."""
    assert len(WAYS) >= 31
