"""What a developer sees of an app's errors and warnings: a line in its log, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..gateway_client import connect
from ..service import ECHO, REPLY, Folder, running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def logged(service: object, app: str = "phone") -> list[tuple[str, str]]:
    """The app's log, oldest first."""
    entries = await service.stores.logbook.newest("acct", app, 1000)  # type: ignore[attr-defined]
    return [(entry.level, entry.message) for entry in reversed(entries)]


@pytest.mark.parametrize(
    ("javascript", "text"),
    [
        (
            "undefined_function();",
            (
                "ReferenceError: undefined_function is not defined\n    at api.on_inbound_message"
                " (phone.js:1:"
            ),
        ),
        (
            "Promise.resolve().then(function late() { throw new Error('later'); });",
            "Error: later\n    at late (phone.js:1:",
        ),
        ("require('q').reject(new Error('in q')).done();", "Error: in q"),
    ],
)
async def test_errors_reach_the_log_with_file_and_line(
    folder: Folder, javascript: str, text: str
) -> None:
    """Load errors, throws, rejections, and q's own end of a promise chain; the next message is
    handled again.
    """
    folder.app("phone", javascript)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for _ in range(2):
            outcome, _ = await client.say("x", "new")
            assert outcome["outcome"] == "app_error"
        lines = await logged(service)
        assert len(lines) == 2
        assert all(level == "ERROR" and text in message for level, message in lines), lines


async def test_a_moment_deprecation_warning_is_a_line_in_the_log_and_no_failure(
    folder: Folder,
) -> None:
    """Text that would have gone to stderr."""
    folder.app("phone", "require('moment')('not a date'); " + ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, replies = await client.say("hi", "new")
        assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hi")
        ((level, message),) = await logged(service)
        assert level == "WARNING"
        assert "Deprecation warning" in message


@pytest.mark.parametrize(
    "start", ["v.interact(this.api, A);", "new v.InteractionMachine(api, new A());"]
)
async def test_a_throw_inside_a_state_leaves_a_stack_and_an_answer(
    folder: Folder, start: str
) -> None:
    """The toolkit logs the message alone and sends nothing; here the developer sees where, and the
    user is told something.
    """
    folder.app(
        "phone",
        """var v = require('vumigo_v02');
        var A = v.App.extend(function (self) {
            v.App.call(self, 'states:menu');
            self.states.add('states:menu', function (name) {
                return new v.states.FreeText(name, {question: 'Hi', next: function (content) {
                    return content.no_such_method();
                }});
            });
        });
        """
        + start
        + " // api.on_",
        'limits = { fallback_reply = "Sorry." }\nconfig = { config = "{\\"name\\": \\"app\\"}" }',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, replies = await client.say(None, "new")
        assert (outcome["outcome"], replies[0]["content"]) == ("ok", "Hi")
        outcome, replies = await client.say("x", "resume")
        assert (outcome["outcome"], replies[0]["content"], replies[0]["session_event"]) == (
            "no_reply",
            "Sorry.",
            "close",
        )
        errors = [message for level, message in await logged(service) if level == "ERROR"]
        assert errors[0].startswith(
            'in state states:menu, message "x": TypeError: content.no_such_method is not a function'
        )
        assert "phone.js:6:" in errors[0]
        assert errors[1] == "content.no_such_method is not a function"  # the toolkit's own line
        assert errors[2].startswith("[no_reply]")


async def test_the_process_has_the_apps_time_zone(folder: Folder) -> None:
    """TZ as configured."""
    folder.app(
        "phone", REPLY % "String(new Date(0).getHours())", 'timezone = "Africa/Johannesburg"'
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await client.say("x"))[1][0]["content"] == "2"


async def test_a_throw_while_a_state_is_made_leaves_a_stack(folder: Folder) -> None:
    """The user gets the toolkit's error state; the developer sees where, not the message alone."""
    folder.app(
        "phone",
        """var v = require('vumigo_v02');
        var A = v.App.extend(function (self) {
            v.App.call(self, 'states:menu');
            self.states.add('states:menu', function (name) { return new v.NoSuchState(name); });
        });
        new v.InteractionMachine(api, new A()); // api.on_""",
        'config = { config = "{\\"name\\": \\"app\\"}" }',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, replies = await client.say(None, "new")
        assert (outcome["outcome"], replies[0]["content"]) == (
            "ok",
            "An error occurred. Please try again later.",
        )
        errors = [message for level, message in await logged(service) if level == "ERROR"]
        assert any(
            "TypeError: v.NoSuchState is not a constructor" in error and "phone.js:4:" in error
            for error in errors
        ), errors
