"""Values that break their checks: each is an error with its line, and `jsbox check` exits with 0 or
3.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from supervisor.cli import jsbox
from supervisor.config import Config, InvalidConfig, load
from supervisor.config.bounds import line_too_deep
from supervisor.runs.programs import program_of
from supervisor.sandboxes.protocol import encode_config, encode_initialize

from ...programs import jsbox as run_jsbox

APP = '[apps.x]\naccount = "a"\njavascript = "x.js"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.js").write_text("api.on_inbound_message = function () {};")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("not-there")
    (tmp_path / "file").write_text("x")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "latin.json").write_bytes(b'"caf\xe9"')
    with (tmp_path / "huge.js").open("wb") as file:
        file.truncate((16 << 20) + 1)  # sparse
    return tmp_path


def check(folder: Path, text: str | bytes) -> tuple[int, list[str]]:
    """The exit code of `jsbox check`, and its errors as `LINE: text`."""
    file = folder / "jsbox.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    done = CliRunner().invoke(jsbox, ["check", "-c", str(file)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found = [line for line in done.stderr.splitlines() if not line.startswith("jsbox: ")]
    assert all(line.startswith(f"{file}:") for line in found), found
    return done.exit_code, [line.removeprefix(f"{file}:") for line in found]


def usable(config: Config) -> None:
    """Do all that a start, a reload or a run does with a config."""
    for app in config.apps.values():
        program_of(config, app)
        encode_config(app.config, 1)
        encode_initialize(
            {
                "source": app.source,
                "javascript": str(app.javascript),
                "modules_dir": str(app.modules_dir),
            }
        )
        assert app.generation
        assert app.digest


BAD = [
    # URLs that cannot be split, invalid ports, hosts that cannot be looked up
    (APP + 'http = { proxy = "http://[::1" }', "4: apps.x.http.proxy: expected a URL"),
    (APP + 'http = { proxy = "http://h:99999" }', "4: apps.x.http.proxy: expected a URL"),
    (APP + 'http = { proxy = "http://a..b:1" }', "4: apps.x.http.proxy: expected a URL"),
    (APP + 'http = { proxy = "http://zoë.example:1" }', "4: apps.x.http.proxy: expected a URL"),
    (APP + 'http = { proxy = "http://h:1/\\u0000" }', "4: apps.x.http.proxy: expected a URL"),
    (
        APP + 'http = { connect_to = { a = "http://[::1" } }',
        "4: apps.x.http.connect_to.a: expected a URL",
    ),
    (
        APP + 'http = { connect_to = { a = "http://h:notaport" } }',
        "4: apps.x.http.connect_to.a: expected a URL",
    ),
    (
        APP + 'http = { connect_to = { a = "http://h:0" } }',
        "4: apps.x.http.connect_to.a: expected a URL",
    ),
    (
        APP + 'http = { connect_to = { a = "http://☃.example" } }',
        "4: apps.x.http.connect_to.a: expected a URL",
    ),
    (APP + 'http = { allow = ["[::1"] }', "4: apps.x.http.allow.0: expected a host"),
    (
        APP + f'http = {{ allow = ["{":" * 200_000}"] }}',
        "4: apps.x.http.allow.0: expected at most 300 characters",
    ),
    ('[redis]\nurl = "redis://[::1"', "2: redis.url: expected embedded"),
    ('[redis]\nurl = "redis://x:99999"', "2: redis.url: expected embedded"),
    ('[redis]\nurl = "redis://x:notaport"', "2: redis.url: expected embedded"),
    ('[redis]\nurl = "redis://x/1?protocol=3"', "2: redis.url: expected embedded"),
    ('[redis]\nurl = "redis+cluster://[::1"', "2: redis.url: expected embedded"),
    ('[redis]\nurl = "unix:///tmp/x\\u0000y"', "2: redis.url: expected embedded"),
    ('[listen]\ngateway = "a..b:1"', '2: listen.gateway: expected "host:port"'),
    ('[listen]\ngateway = "[:::]:1"', '2: listen.gateway: expected "host:port"'),
    ('[listen]\ngateway = "a\\u0000:1"', '2: listen.gateway: expected "host:port"'),
    (f'[listen]\nadmin = "{"a" * 70}.org:1"', '2: listen.admin: expected "host:port"'),
    (APP + 'metrics = { graphite = "carbon:0" }', "4: apps.x.metrics.graphite: expected a port"),
    (APP + 'metrics = { prefix = "a\\nb 1 2" }', "4: apps.x.metrics.prefix: expected a prefix"),
    # names and paths
    (f'[apps."{"a" * 300}"]\naccount = "a"\njavascript = "x.js"', "1: apps.aaa"),
    (
        APP + f'modules = ["{"a" * 300}"]',
        "4: apps.x.modules.0: cannot be used: OSError: [Errno 36] File name too long",
    ),
    (APP + 'modules = ["a\\u0000b"]', '4: apps.x.modules.0: "a'),
    (APP + f'modules_dir = "{"a" * 300}"', "4: apps.x.modules_dir: "),
    (APP + 'modules_dir = "a\\u0000b"', "4: apps.x.modules_dir: "),
    (APP + 'modules_dir = "loop"', "4: apps.x.modules_dir: "),
    ('data_dir = "a\\u0000b"', "1: data_dir: expected a path"),
    ('data_dir = "${HOME"', "1: data_dir: expected ${NAME}"),
    ('[redis]\nurl = "redis://:${NO-SUCH}x@h"', "2: redis.url: expected ${NAME}"),
    ("[cluster]\nprocesses = 100000", "2: cluster.processes: expected 1 to 64"),
    ('data_dir = "file"', "1: data_dir: "),
    ('data_dir = "file/below"', "1: data_dir: "),
    ('data_dir = "loop/below"', "1: data_dir: "),
    ('data_dir = "nowhere"', "1: data_dir: "),
    (f'data_dir = "not-there/{"a" * 300}"', "1: data_dir: expected names of at most 255 bytes"),
    (f'data_dir = "{"a/" * 4000}"', "1: data_dir: expected names of at most 255 bytes"),
    ('[node]\npath = "a\\u0000b"', "2: node.path: expected"),
    ('[node]\npath = "/dev"', "2: node.path: expected"),
    ('[apps.x]\naccount = "a"\njavascript = "a\\u0000b"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "folder"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "fifo"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "zero"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "loop"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "huge.js"', "3: apps.x.javascript: cannot read"),
    ('[apps.x]\naccount = "a"\njavascript = "/proc/kmsg"', "3: apps.x.javascript: cannot read"),
    (APP + 'config = { a = { file = "fifo" } }', "4: apps.x.config.a.file: cannot read"),
    (APP + 'config = { a = { file = "a\\u0000b" } }', "4: apps.x.config.a.file: cannot read"),
    (APP + 'config = { a = { file = "latin.json" } }', "4: apps.x.config.a.file: cannot read"),
    ('[listen]\ncertificate = "fifo"\nkey = "fifo"', "2: listen.certificate: "),
    ('[listen]\ncertificate = "zero"\nkey = "x.js"', "2: listen.certificate: "),
    ('[listen]\ncertificate = "a\\u0000b"\nkey = "x.js"', "2: listen.certificate: "),
    (APP + 'timezone = "a\\u0000b"', "4: apps.x.timezone: expected a time zone"),
    (APP + 'timezone = "../../etc/passwd"', "4: apps.x.timezone: expected a time zone"),
    (APP + f'timezone = "{"a" * 300}"', "4: apps.x.timezone: expected a time zone"),
    # tables of the wrong kind, depth, size
    ("[[apps]]\n", "1: apps: expected a table"),
    ("[[channels]]\n[[accounts]]\n", "1: channels: expected a table"),
    ("[[defaults.pool]]\n", "1: defaults.pool: expected a table"),
    ("apps = [[{}]]", "1: apps: expected a table"),
    ("x = " + "[" * 500 + "]" * 500, "1: it is nested too deeply"),
    ("\nx = " + "{a = " * 500 + "1" + "}" * 500, "2: it is nested too deeply"),
    (".".join("a" * 1200) + " = 1", "1: it is nested too deeply"),
    (".".join(["'a'"] * 1200) + " = 1", "1: it is nested too deeply"),
    ("[" + " . ".join("a" * 1200) + "]", "1: it is nested too deeply"),
    (".".join("a" * 60) + " = 1", "1: a.a.a"),
    ("x = [" + "[[[" * 20 + "]]]" * 20 + "]", "1: x.0.0.0"),
    ("\nversion = " + "9" * 5000, "2: not valid TOML"),
    ("version = 0x" + "f" * 5000, "1: version: expected 1, got a int with more digits"),
    (APP + "pool = { queue = 0x" + "f" * 5000 + " }", "4: apps.x.pool.queue: expected at most"),
    (APP + 'limits = { heap = "' + "9" * 400 + 'GiB" }', "4: apps.x.limits.heap: expected at most"),
    (APP + 'limits = { heap = "0.1B" }', "4: apps.x.limits.heap: expected at least 1B"),
    (APP + 'limits = { wall = "' + "9" * 400 + 'd" }', "4: apps.x.limits.wall: expected at most"),
    (
        APP + 'limits = { command_timeouts = { a = "' + "9" * 400 + 'd" } }',
        "4: apps.x.limits.command_timeouts.a: expected",
    ),
    (
        APP + 'limits = { stack = "1B" }',
        "4: apps.x.limits.stack: Node does not start with less than 64KiB",
    ),
    (APP + "limits = { open_files = 1048576 }", "4: apps.x.limits.open_files: expected at most"),
    ("[isolation]\nfirst_user = 4294967295", "2: isolation.first_user: expected less than"),
    ('version = "' + "x" * 1_000_000 + '"', "1: version: expected 1"),
    (f'"{"k" * 1_000_000}" = 1', "1: kkk"),
    ("a = inf\nb = nan", "1: a: unknown key"),
    ('"a\\nb" = 1', "1: a\\nb: unknown key"),
    # half of a surrogate pair, and text that is not UTF-8
    (APP + 'config = { a = "\\ud83d" }', "4: not valid TOML"),
    (b'version = 1\nx = "\xe9"', "1: cannot be read: it is not UTF-8 text"),
    ("version = 1".encode("utf-16"), "1: cannot be read: it is not UTF-8 text"),
    (b"\xef\xbb\xbf\xef\xbb\xbfversion = 1", "1: not valid TOML"),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_a_value_that_breaks_its_check_is_an_error_with_its_line(
    folder: Path, text: str | bytes, expected: str
) -> None:
    """It takes one line of bounded length, and the exit code is 3."""
    code, found = check(folder, text)
    assert code == 3, found
    assert found[0].startswith(expected), found
    assert all(len(line) < 20_000 for line in found)


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xed\xa0\xbd", b"\xff"])
def test_a_variable_that_is_not_text_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    """Its value is not shown."""
    monkeypatch.setenv("JSBOX_LATIN", os.fsdecode(value))
    code, found = check(folder, APP + 'config = { a = "${JSBOX_LATIN}" }')
    shown = 'the variable JSBOX_LATIN, which "${JSBOX_LATIN}" asks for, is not UTF-8 text'
    assert (code, found) == (3, [f"4: apps.x.config.a: {shown}"])


def test_no_message_shows_the_value_of_a_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the config it is used."""
    monkeypatch.setenv("JSBOX_SECRET", "hunter2")
    text = (
        'data_dir = "file/${JSBOX_SECRET}"\n[listen]\ncertificate = "${JSBOX_SECRET}"\n'
        'key = "x.js"\n'
        '[redis]\nurl = "redis://u:${JSBOX_SECRET}@[::1"\n[node]\npath = "${JSBOX_SECRET}\\u0000"\n'
        + APP
        + 'endpoints = { a = "${JSBOX_SECRET}" }\n'
        'http = { proxy = "http://u:${JSBOX_SECRET}@h:x" }\n'
        'modules = ["${JSBOX_SECRET}"]\nmodules_dir = "${JSBOX_SECRET}"\n'
        'config = { a = { file = "${JSBOX_SECRET}" } }\n'
    )
    code, found = check(folder, text)
    assert code == 3
    assert len(found) == 8  # modules are not looked for in a modules_dir that does not exist
    assert "hunter2" not in "\n".join(found)


def test_variables_do_not_grow_without_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that variables would make huge is refused before it is built."""
    monkeypatch.setenv("JSBOX_LONG", "x" * 100_000)
    code, found = check(folder, APP + 'config = { a = "' + "${JSBOX_LONG}" * 10_000 + '" }')
    assert code == 3
    assert "with its variables put in" in found[0]


def test_a_byte_order_mark_is_not_part_of_a_file(folder: Path) -> None:
    """It is removed from the config, an app, and a value read from a file."""
    bom = b"\xef\xbb\xbf"
    (folder / "x.js").write_bytes(bom + b"api.on_inbound_message = function () {};\r\n")
    (folder / "x.json").write_bytes(bom + b'{"name": "x"}')
    (folder / "jsbox.toml").write_bytes(
        bom + APP.encode() + b'config = { config = { file = "x.json" } }'
    )
    app = load(folder / "jsbox.toml").apps["x"]
    assert app.source == "api.on_inbound_message = function () {};\n"
    assert app.config == {"config": '{"name": "x"}'}
    assert check(folder, bom + b"\nx = 1")[1] == ["2: x: unknown key `x`; known: " + known()]


def known() -> str:
    from supervisor.config.load import TOP_LEVEL

    return ", ".join(TOP_LEVEL)


@pytest.mark.parametrize(
    "name", ["fifo", "zero", "folder", "loop", "nowhere", "not-there", "huge.js", "/proc/kmsg"]
)
def test_a_config_that_is_not_a_regular_file_is_refused_at_once(folder: Path, name: str) -> None:
    """The real command does not wait for a writer or read a device."""
    for extra in ([], ["--json"]):
        done = run_jsbox("check", "-c", str(folder / name), *extra)
        assert done.returncode == 3
        assert "cannot be read" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_folder_whose_name_is_not_text_is_refused(folder: Path) -> None:
    """Its name would appear in paths shown to apps and clients."""
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    odd.mkdir()
    (odd / "jsbox.toml").write_text("version = 1")
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "supervisor",
                "check",
                "-c",
                os.fsencode(odd / "jsbox.toml"),
                *extra,
            ],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 3, done
        assert b"Traceback" not in done.stderr
        assert b"not UTF-8 text" in done.stdout + done.stderr


def test_a_key_with_a_password_is_refused_without_asking_for_it(folder: Path) -> None:
    """OpenSSL would prompt at the terminal and wait."""
    from cryptography.hazmat.primitives import serialization

    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    code, found = check(folder, '[listen]\ncertificate = "cert.pem"\nkey = "key.pem"')
    assert code == 3
    assert found[0].startswith("2: listen.certificate: ")


def test_there_is_an_end_to_errors(folder: Path) -> None:
    """A thousand are reported, with a note that there may be more."""
    code, found = check(folder, "\n".join(f"key{number} = 1" for number in range(5000)))
    assert code == 3
    assert len(found) == 1001
    assert found[-1].endswith("there may be more errors: 1000 are enough")


@pytest.mark.parametrize(
    "unit", ["[[]]\n", '"""\\"', "'''", "a.", "[{", '"\\', "#", "''''", '""""', "a . "]
)
def test_depth_is_found_in_linear_time(unit: str) -> None:
    """Four times the text takes at most ten times as long, whatever it is."""

    def seconds(count: int) -> float:
        text = unit * count
        took = []
        for _ in range(3):
            began = time.thread_time()
            line_too_deep(text)
            took.append(time.thread_time() - began)
        return min(took)

    assert seconds(80_000) < 10 * seconds(20_000) + 0.02


def test_an_unforeseen_error_is_one_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the loader itself, and in the search for lines."""
    module = sys.modules["supervisor.config.load"]  # the package has a function of that name

    def fails(*_: object) -> None:
        raise MemoryError("no more")

    (folder / "jsbox.toml").write_text("version = 1\nx = 1")
    with monkeypatch.context() as patch:
        patch.setattr("supervisor.config.document.locate", fails)
        assert [problem.line for problem in refused(folder / "jsbox.toml").problems] == [1]
    with monkeypatch.context() as patch:
        patch.setattr(module, "check", fails)
        assert "cannot be checked: MemoryError: no more" in str(refused(folder / "jsbox.toml"))


def refused(file: Path) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as raised:
        load(file)
    return raised.value


def test_odd_but_valid_values_are_accepted(folder: Path) -> None:
    """International host names, deep JSON and control characters in texts, an empty app, CRLF."""
    (folder / "x.js").write_text("")
    text = APP + (
        'http = { proxy = "http://user:p%40ss@[::1]:3128", connect_to = { a ='
        ' "https://zoë.example:8443/" } }\n'
        'metrics = { graphite = "bücher.example:2003" }\n'
        "config = { config = '"
        + "[" * 2000
        + "]" * 2000
        + '\', "a\\nb" = "\\u0000\\u001b\\U0001F600" }\n'
        'limits = { command_timeouts = { "a*b" = "1ms" } }\n'
        '[redis]\nurl = "redis://:p%40@[::1]:6379/3?client_name=x"\n'
    )
    code, found = check(folder, text.replace("\n", "\r\n"))
    assert (code, found) == (0, [])
    usable(load(folder / "jsbox.toml"))


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("utf-8", marks=pytest.mark.slow)])
def test_a_locale_without_a_character_does_not_end_a_check(folder: Path, encoding: str) -> None:
    """Names are shown as far as the locale can, and JSON stays JSON."""
    right, wrong = folder / "☃\U0001f600.toml", folder / "é☃.toml"
    right.write_text("version = 1")
    wrong.write_text('"☃\U0001f600" = 1')
    env = os.environ | {"PYTHONIOENCODING": encoding}
    for file, code in ((right, 0), (wrong, 3)):
        for extra in ([], ["--json"]):
            argv = [sys.executable, "-m", "supervisor", "check", "-c", str(file), *extra]
            done = subprocess.run(argv, capture_output=True, env=env, check=False)
            assert done.returncode == code, done
            assert b"Traceback" not in done.stderr
            if extra:
                found = json.loads(done.stdout.decode(encoding))
                assert found["ok"] is (code == 0)
                assert not found.get("errors") or "☃\U0001f600" in found["errors"][0]["text"]
