"""Config files of any kind: `load` gives a config that a start, a reload and a run take, or refuses
it with lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.config import Config, InvalidConfig, load
from supervisor.config.convert import PIECES, SECTIONS, TABLES
from supervisor.config.plan import plan
from supervisor.jail.argv import compiled_name, rlimits_of
from supervisor.runs.dispatcher import Program
from supervisor.runs.programs import address_class, program_of
from supervisor.sandboxes.protocol import encode_config, encode_initialize

FILES = (
    "x.js",
    "folder",
    "fifo",
    "zero",
    "loop",
    "latin",
    "cert.pem",
    "key.pem",
    "not-there",
    "x.json",
    "bom.json",
    "modules",
)
ODD = (
    "", " ", "a\x00b", "\ud83d", "é", "☃", "a" * 300, "../..", "/", ".", "..", "~", "$", "$$", "${",
    "${HOME}", "${JSBOX_LATIN}",
    "${JSBOX_UNSET}", "*", "\n", "\x1b[31m", "default", "config", "name", "source", "__class__",
    "0", "-1",
)  # fmt: skip
TEXTS = (
    "http://[::1", "http://[::1]:80", "http://a:99999", "http://a", "https://user:p@b:1/",
    "redis://[::1", "redis://x:1/2",
    "unix:///x", "embedded", "bundled", "127.0.0.1:0", "[::1]:1", "a..b:1", "0.0.0.0:1",
    "*.example.org", "10.0.0.0/8", "10.0.0.0/99",
    "::/0", "[::]:1", "10s", "0s", "1ms", "9" * 400 + "d", "64MiB", "1B", "0.5B", "9" * 400 + "GiB",
    "UTC", "Africa/Johannesburg",
    "Mars/X", "lodash", "vumigo_v02", "fs", "a/b", "@a/b", "Buffer", "phone", "x", "sms", "app",
    "always", "none", "strict", "wait",
    "a" * 64, "0" * 64, "websocket",
)  # fmt: skip

text = st.sampled_from((*FILES, *ODD, *TEXTS)) | st.text(max_size=8)
number = st.sampled_from(
    ("0", "1", "-1", "2", "24", "64", "1000", "0x" + "f" * 400, "9" * 18, "9" * 5000, "1.5",
        "1e400", "inf", "-nan", "true", "false",
     "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00")
)  # fmt: skip


def quoted(value: str) -> str:
    """A TOML string: what is not allowed in one is spelt out as an escape, right or wrong."""
    plain = {'"': '\\"', "\\": "\\\\"}
    return (
        '"'
        + "".join(
            plain.get(c) or (c if c.isprintable() else f"\\u{ord(c) & 0xFFFF:04x}") for c in value
        )
        + '"'
    )


def fields_of(kind: type) -> list[str]:
    return [a.name for a in attrs.fields(kind)]


names = {
    *PIECES, *SECTIONS, *TABLES, "version", "data_dir", "defaults", "file", "keys_hard", "http.*",
    "kv.get",
    *(name for kind in (*PIECES.values(), *SECTIONS.values(),
        *TABLES.values()) for name in fields_of(kind)),
}  # fmt: skip
key = (
    st.sampled_from(sorted(names)).map(quoted)
    | text.map(quoted)
    | st.sampled_from(("x", "a.b", "phone", "", "é", "1"))
)
value = st.recursive(
    text.map(quoted) | number,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(key, inner), max_size=3).map(
            lambda items: "{" + ", ".join(f"{k} = {v}" for k, v in items) + "}"
        )
    ),
    max_leaves=6,
)


FITTING = {
    "bool": ("true", "false"),
    "Duration": ('"10s"', '"1ms"', '"7d"', '"1000000d"'),
    "Size": ('"64MiB"', '"1B"', '"300MiB"', '"1048576GiB"', '"1024GiB"'),
    "Count": ("1", "30", "1000", "1000000000000"),
    "Natural": ("0", "1", "30", "1000000000000"),
    "Address": ('"127.0.0.1:1"', '"localhost:0"', '"[::1]:2"', '"bücher.example:3"', '""'),
}


RIGHT = {
    "admin": ('"127.0.0.1:1"', '"localhost:0"'),
    "admin_tokens": ("[]", f'["{"0" * 64}"]'),
    "tokens": ("[]", f'["{"0" * 64}"]'),
    "url": (
        '"embedded"',
        '"redis://x:1/2"',
        '"rediss://u:p@[::1]"',
        '"unix:///x"',
        '"redis+cluster://x"',
        '"redis+sentinel://x,[::1]:2/s/3"',
    ),
    "replicas": ("0",),
    "mode": ('"single"',),
    "lease": ('"1s"', '"5m"'),
    "path": ('"bundled"', '"/bin/true"'),
    "first_user": ("1", "300000"),
    "javascript": ('"x.js"', '"./folder/../x.js"'),
    "account": ('"a"', '"b-1"'),
    "modules": ("[]", '["lodash", "util"]', '["vumigo_v02"]'),
    "modules_dir": ('""', '"modules"', '"folder/"'),
    "timezone": ('"UTC"', '"Africa/Johannesburg"'),
    "globals": ("[]", '["Buffer"]'),
    "events": ('"app"', '"never"'),
    "level": ('"none"', '"strict"'),
    "fsync": ('"always"',),
    "while_building": ('"wait"', '"fail"'),
    "endpoints": ("{}",),
    "delivery_class": ('""', '"sms"'),
    "app": ('""',),
    "type": ('"websocket"',),
    "config": (
        "{}",
        '{ a = "\\u0000☃", config = { file = "bom.json" } }',
        '{ config = "[1e400, {" }',
    ),
    "command_timeouts": ("{}", '{ "kv.*" = "1ms" }'),
    "allow": ("[]", '["*.example.org:80", "::/0", "10.1.2.3/8"]'),
    "connect_to": ("{}", '{ "A:80" = "http://[::1]:9000/", b = "https://zoë.example" }'),
    "proxy": ('""', '"http://u:p%40@h:1"', '"https://[::1]"'),
    "prefix": ('"go"', '"ü.☃"'),
    "kv": ("{}", "{ keys_hard = 1 }"),
    "heap": ('"8MiB"', '"128MiB"', '"1024GiB"'),
    "memory": ('"2000GiB"', '"1GiB"'),
    "stack": ('"1920KiB"',),
    "open_files": ("22", "1000"),
    "line": ('"1B"', '"1KiB"'),
}
"""Values that are right by themselves, of fields whose type does not say so."""


def fitting(kind: type, name: str) -> st.SearchStrategy[str]:
    """A value that is most likely right for a field."""
    shown = repr(attrs.fields_dict(kind)[name].type)
    if name in RIGHT:
        return st.sampled_from(RIGHT[name])
    for part, values in FITTING.items():
        if part in shown:
            return st.sampled_from(values)
    return st.just("[]") if "tuple" in shown else text.map(quoted)


@st.composite
def table(draw: st.DrawFn, kind: type) -> str:
    """Some fields of a table; in most tables all have values that may be right."""
    chosen = draw(st.lists(st.sampled_from(fields_of(kind)), max_size=5, unique=True))
    is_wild = draw(st.integers(0, 7)) == 0
    names = [
        name
        for name in chosen
        if name not in {"name", "source", "source_map", "certificate", "key", *SECTIONS}
    ]
    return "".join(
        f"{name} = {draw(value if is_wild else fitting(kind, name))}\n" for name in names
    )


@st.composite
def app(draw: st.DrawFn, name: str) -> str:
    """An app: it has what it must have, right or wrong."""
    own = draw(table(TABLES["apps"]))
    for must in ('account = "a"\n', 'javascript = "x.js"\n'):
        if f"\n{must.split()[0]} = " not in "\n" + own:
            own += must
    for section, kind in draw(some(SECTIONS.items())):
        own += f"[apps.{name}.{section}]\n{draw(table(kind))}"
    return f"[apps.{name}]\n{own}"


def some(of: Iterable[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(sorted(of)), max_size=2, unique=True)


@st.composite
def document(draw: st.DrawFn) -> str:
    """A file that is almost valid."""
    parts = [
        draw(st.sampled_from(("version = 1\n", "", 'data_dir = "data"\n', 'data_dir = "x.js/x"\n')))
    ]
    parts += [f"[{name}]\n{draw(table(kind))}" for name, kind in draw(some(PIECES.items()))]
    parts += [
        f"[defaults.{name}]\n{draw(table(kind))}" for name, kind in draw(some(SECTIONS.items()))
    ]
    parts += [draw(app(name)) for name in draw(some(("x", "y", "z-1")))]
    parts += [
        f"[channels.{name}]\n{draw(table(TABLES['channels']))}"
        for name in draw(some(("phone", "sms")))
    ]
    parts += [
        f"[accounts.{name}]\n{draw(table(TABLES['accounts']))}" for name in draw(some(("a", "b")))
    ]
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(key) + " = " + draw(value) + "\n")
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(st.sampled_from(BROKEN)))
    return "".join(draw(st.permutations(parts)) if draw(st.integers(0, 5)) == 0 else parts)


BROKEN = (
    "[[apps]]\n",
    "[[",
    "'''",
    '"""',
    "x = [",
    "[a.b.c]\n",
    "\x00",
    "[defaults]\n",
    "#",
    "\r",
    "\ufeff",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    (folder / "x.js").write_text("api.on_inbound_message = function () {};")
    (folder / "x.json").write_text("{}")
    (folder / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    (folder / "latin").write_bytes(b"caf\xe9")
    (folder / "folder").mkdir()
    (folder / "modules").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return folder


def used(config: Config) -> None:
    """All that a start, a reload and a run do with a config."""
    assert plan(config, config) == {"live": [], "next_process": [], "restart": []}
    for app in config.apps.values():
        assert isinstance(program_of(config, app), Program)
        assert isinstance(address_class(app), str)
        encode_config(app.config, app.limits.commands_burst)
        fields: dict[str, Any] = {
            "source": app.source, "file": str(app.javascript), "modules": app.modules,
            "modules_dir": str(app.modules_dir),
            "globals": app.globals, "timezone": app.timezone, "reply": app.limits.fallback_reply,
        }  # fmt: skip
        encode_initialize(fields)
        for soft, hard in rlimits_of(app).values():
            assert 0 <= soft <= hard < 1 << 63
        assert app.digest
        assert app.generation
        assert compiled_name(app)
        assert app.limits.command_timeout("kv.get", app.http.timeout) > 0
    str(config.listen.admin).encode("idna" if config.listen.admin.host.isascii() else "utf-8")
    "\n".join(config.warnings).encode()


def takes_or_refuses(folder: Path, content: bytes) -> None:
    """A config that can be used, or errors with lines, each on one."""
    file = folder / "jsbox.toml"
    file.write_bytes(content)
    try:
        config = load(file)
    except InvalidConfig as error:
        assert error.problems
        lines = content.count(b"\n") + content.count(b"\r") + 1
        for problem in error.problems:
            assert 1 <= problem.line <= lines
            problem.text.encode()
            assert problem.text.isprintable()
            assert "cannot be checked" not in problem.text  # whatever it is, it belongs to a value
        assert len(str(error).splitlines()) == len(error.problems)
    else:
        used(config)


def fuzz(examples: int) -> Any:
    """Settings for a number of examples, however long each takes, with nothing kept on disk."""
    return settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
            HealthCheck.data_too_large],
    )  # fmt: skip


BENT = st.tuples(document(), st.integers(0, 1 << 16), st.binary(max_size=4), st.integers(0, 4))


def bent(parts: tuple[str, int, bytes, int]) -> bytes:
    """A document with a few bytes replaced."""
    whole, at, more, less = parts
    data = whole.encode("utf-8", "surrogatepass")
    at %= len(data) + 1
    return data[:at] + more + data[at + less :]


@fuzz(150)
@given(document())
def test_grammar(folder: Path, content: str) -> None:
    """Files that are nearly right."""
    takes_or_refuses(folder, content.encode("utf-8", "surrogatepass"))


@fuzz(150)
@given(BENT)
def test_bent(folder: Path, parts: tuple[str, int, bytes, int]) -> None:
    """The same, with a few bytes of anything in them."""
    takes_or_refuses(folder, bent(parts))


@pytest.mark.slow
@fuzz(20_000)
@given(document())
def test_grammar_for_long(folder: Path, content: str) -> None:
    """As above, for minutes."""
    takes_or_refuses(folder, content.encode("utf-8", "surrogatepass"))


@pytest.mark.slow
@fuzz(20_000)
@given(BENT)
def test_bent_for_long(folder: Path, parts: tuple[str, int, bytes, int]) -> None:
    """As above, for minutes."""
    takes_or_refuses(folder, bent(parts))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSBOX_LATIN", os.fsdecode(b"caf\xe9"))
