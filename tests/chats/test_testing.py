"""`jsbox test` as developers run it: real sandboxes, a store of its own."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from resources.stores.recordings import Exchange, Recording

from ..programs import COMMAND_SECONDS, JSBOX, jsbox
from ..service import ECHO, Folder
from ..terminal import terminal

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
SAMPLE = Path(__file__).parents[2] / "sandbox_js" / "sample"
APP = """
function all(commands, then) {
    if (!commands.length) return then([]);
    api.request(commands[0][0], commands[0][1], function (reply) {
        all(commands.slice(1), function (rest) { then([reply].concat(rest)); });
    });
}
api.on_inbound_message = function (command) {
    var msg = command.msg, said = msg.content;
    if (said === 'throw') throw new Error('as asked');
    if (msg.session_event === 'close') {
        return all([['log.info', {msg: 'hung up'}]], function () { api.done(); });
    }
    all([
        ['kv.incr', {key: 'count'}],
        ['config.get', {key: 'config'}],
        ['contacts.get_or_create', {delivery_class: 'sms', addr: msg.from_addr}],
        ['metrics.fire', {metric: 'seen', value: 2, agg: 'sum'}],
        ['http.post', {url: 'https://hub.example.org/api/one', data: '{"said":"' + said + '"}'}],
        ['outbound.send_to', {to_addr: '+27839999999', content: 'told ' + said, endpoint: 'sms'}],
        ['log.warning', {msg: 'said ' + said}]
    ], function (got) {
        var text = [got[0].value, JSON.parse(got[1].value).name, got[2].contact.name,
            got[4].code + got[4].body, new Date().toISOString().slice(0, 10), said].join('|');
        var end = said === 'end';
        api.request('outbound.reply_to',
            {content: text, in_reply_to: msg.message_id, continue_session: !end},
            function () { api.done(); });
    });
};
"""
CONFIG = (
    'endpoints = { default = "phone", sms = "phone" }\n'
    """config = { config = '{"name": "app", "more": 1}' }\ndelivery_class = "sms"\n"""
)
WHOLE = """\
now = "2024-02-29T12:00:00Z"
from = "+27831111111"
expect_http = { url = "https://hub.example.org/api/*", method = "POST", times = 3 }
expect_kv = { count = 8, "none" = { absent = true } }
expect_log = [ "said end", { level = "info", message = "hung up", times = 1 } ]

[config.config]
name = "test"

[kv]
count = 5

[[contacts]]
msisdn = "+27831111111"
name = "Thandi"
extra = { town = "Kuruman" }

[stub."https://hub.example.org/*"]
reply = { body = "OK", status = 201 }

[[steps]]
dial = "*1#"
expect = "6|test|Thandi|201OK|2024-02-29|"
expect_sms = { to = "+27839999999", content = "told null", endpoint = "sms" }
[[steps]]
send = "hello"
expect = "hello"
expect_http = { json = { said = "hello" } }
expect_metric = { metric = "seen", value = 2, agg = "sum", times = 1 }
expect_contact = { name = "Thandi", extra = { town = "Kuruman" } }
expect_log = "said hello"
[[steps]]
hang_up = true
[[steps]]
dial = "*2#"
expect_outcome = "ok"
# it is a new session
[[steps]]
send = "throw"
expect_outcome = "app_error"
"""
FIRST = '[stub."https://hub.example.org/*"]\nreply = { body = "OK" }\n[[steps]]\ndial = "*1#"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("phone", APP, CONFIG)
    (tmp_path / "tests").mkdir()
    return folder


def put(folder: Folder, **chats: str) -> None:
    for name, text in chats.items():
        (folder.path / "tests" / f"{name}.chat.toml").write_text(text)


def test_what_the_app_does_is_compared_and_what_differs_is_shown(folder: Folder) -> None:
    """Exit 1; a difference for each test that fails; each test begins with an empty store; JUnit
    has the same.
    """
    put(
        folder,
        whole=WHOLE.replace("times = 3", "times = 3").replace("said end", "said null"),
        counts_from_one=FIRST + 'expect = "1|app|"\nexpect_kv = { count = 1 }\n',
        no_stub='[[steps]]\ndial = "*1#"\nexpect = "200OK"\n',
        reply=FIRST + 'expect = "2|app|"\n',
        kv=FIRST + "expect_kv = { count = 7 }\n",
        absent=FIRST + "expect_kv = { count = { absent = true } }\n",
        sms=FIRST + 'expect_sms = { to = "+1" }\n',
        log=FIRST + 'expect_log = { level = "error" }\n',
        goes_on=FIRST + "expect_end = true\n",
        ends=FIRST + '[[steps]]\nsend = "end"\n[[steps]]\nsend = "more"\n',
        throws=FIRST + '[[steps]]\nsend = "throw"\n',
        nowhere='app = "other"\n' + FIRST,
    )
    done = jsbox("test", "-c", str(folder.config), "--junit", str(folder.path / "out.xml"))
    assert done.returncode == 1, done.stderr
    said = {
        Path(block.splitlines()[0]).name.split(".")[0]: block
        for block in done.stdout.split("FAILED ")[1:]
    }
    assert said.keys() == {
        "no_stub", "reply", "kv", "absent", "sms", "log", "goes_on", "ends", "throws", "nowhere",
    }  # fmt: skip
    for name, parts in {
        "no_stub": ("no_stub.chat.toml:3: step 1 (dial", "- 200OK", "+ 1|app|"),
        "reply": ("reply.chat.toml:5:", "- 2|app|", "+ 1|app|"),
        "kv": ("kv.chat.toml:5:", "- 7", "+ 1"),
        "absent": ("there is a key 'count'", "- (absent)", "+ 1"),
        "sms": ('- {"to": "+1"}', '+ {"to": "+27839999999"}'),
        "log": ('- {"level": "error"}', '+ {"level": "WARNING"}'),
        "goes_on": ("goes_on.chat.toml:5:", "the session goes on"),
        "ends": ('step 3 (send "more")', "the app has ended the session"),
        "throws": ('step 2 (send "throw")', "ended as app_error", "Error: as asked", "phone.js:10"),
        "nowhere": ("nowhere.chat.toml:1:", "no app 'other'", "phone"),
    }.items():
        for part in parts:
            assert part in said[name], (name, part, said[name])
    assert "2 passed, 10 failed" in done.stdout
    suite = ET.parse(folder.path / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("12", "10")
    failed = {case.get("name"): case.find("failure") for case in suite}
    assert failed["whole"] is None
    assert failed["kv"] is not None
    assert "- 7" in str(failed["kv"].text)


def test_update_writes_what_the_app_says(folder: Folder) -> None:
    put(folder, new=FIRST + 'expect = ""\n[[steps]]\nsend = "b"\nexpect = "2|app|None"\n')
    before = (folder.path / "tests" / "new.chat.toml").read_text()
    done = jsbox("test", str(folder.path / "tests"), "-c", str(folder.config), "--update")
    assert (done.returncode, "2 values" in done.stdout) == (0, True), done.stdout
    after = (folder.path / "tests" / "new.chat.toml").read_text()
    assert re.sub(r'expect = ".*"', "", after) == re.sub(r'expect = ".*"', "", before)
    assert re.findall(r'expect = "(.*?\|)', after) == ["1|", "2|"]


def test_errors_in_files_and_code_are_all_named_before_anything_starts(folder: Folder) -> None:
    put(folder, a="steps = [ { dail = 1 } ]\n", b="[[steps\n")
    done = jsbox("test", "-c", str(folder.config))
    assert done.returncode == 3
    assert re.search(r"a\.chat\.toml:1: steps\.0\.dail: .*`dial`", done.stderr)
    assert re.search(r"b\.chat\.toml:1: not valid TOML", done.stderr)
    put(folder, a=FIRST, b=FIRST)
    (folder.path / "phone.js").write_text("function ( {")
    done = jsbox("test", "-c", str(folder.config))
    assert done.returncode == 3
    assert "phone.js:1:1: app phone: SyntaxError" in done.stderr
    empty = folder.path / "empty"
    empty.mkdir()
    assert jsbox("test", str(empty), "-c", str(folder.config)).returncode == 2


def test_watch_tests_again_at_every_change(folder: Folder) -> None:
    """Of the app, of a test, also one with errors; Ctrl-C ends it without a word."""
    put(folder, a=FIRST + 'expect = "1|app|"\n')
    argv = [*JSBOX, "test", "-c", str(folder.config), "--watch"]
    with terminal(argv) as watching:
        watching.until("1 passed")
        watching.until("waiting for a change")
        (folder.path / "phone.js").write_text(APP.replace("join('|')", "join('/')"))
        watching.until("+ 1/app/")
        watching.until("waiting for a change")
        put(folder, a=FIRST + "expekt = 1\n")
        watching.until("a.chat.toml:5: steps.0.expekt: unknown key")
        watching.until("waiting for a change")
        put(folder, a=FIRST + 'expect = "1/app/"\n', b=FIRST)
        watching.until("2 passed")
        watching.until("waiting for a change")
        (folder.path / "phone.js").write_text("function ( {")
        watching.until("phone.js:1:1: app phone: SyntaxError")
        watching.until("waiting for a change")
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(COMMAND_SECONDS) == 130
        assert "Traceback" not in watching.rest()


def test_a_recording_is_a_test(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.app("echo", ECHO)
    message = {"message_id": "m1", "content": "hi", "session_event": "new", "from_addr": "1"}
    asked = {"in_reply_to": "m1"}
    config = folder.config
    source = (tmp_path / "echo.js").read_text()
    (tmp_path / "seen.chat.toml").write_text('[[steps]]\ndial = "1"\n')
    for name, content in (("same", "you said hi"), ("other", "ho")):
        exchange = Exchange(
            "outbound.reply_to", 0.0, asked | {"content": content}, {"success": True}
        )
        recording = Recording(
            account="acct", app="echo", channel="echo", kind="message", id="m1", payload=message,
            began=0.0, outcome="ok", detail="", source=source, exchanges=[exchange],
        )  # fmt: skip
        (tmp_path / f"{name}.recording.json").write_bytes(msgspec.json.encode(recording))
    done = jsbox("test", "-c", str(config), "--junit", str(tmp_path / "out.xml"))
    assert done.returncode == 1
    assert "other.recording.json" in done.stdout
    assert "same.recording.json" not in done.stdout
    assert "content" in done.stdout
    assert "2 passed, 1 failed" in done.stdout
    cases = list(ET.parse(tmp_path / "out.xml").getroot())
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["other"]
    assert len(cases) == 3


def test_the_example_of_the_documentation_passes(tmp_path: Path) -> None:
    """docs/testing.md, with the sample app."""
    (text,) = re.findall(r"^```toml\n(.*?)^```$", DOCS.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for file in ("clinic.js", "config.json", "jsbox.toml"):
        shutil.copy(SAMPLE / file, tmp_path)
    (tmp_path / "clinic.chat.toml").write_text(text)
    done = jsbox("test", "-c", str(tmp_path / "jsbox.toml"))
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
