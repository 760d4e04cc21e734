"""Commands that ask several servers, while some of them come, go, or are of another version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result

from supervisor.cli import client as client_module
from supervisor.cli import reload as reload_module
from supervisor.cli.client import Unreachable

from .operator import invoke

HOSTS = [("a", True), ("b", False), ("c", False)]
Answers = Callable[[str, str, str], tuple[int, Any]]
"""What is answered to a method and path of a host (its id, `all`, or empty)."""


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs commands against an admin port that answers as it is told."""
    (tmp_path / "app.js").write_text("")
    (tmp_path / "jsbox.toml").write_text(
        'version = 1\n[accounts.acct]\n[apps.phone]\naccount = "acct"\njavascript = "app.js"\n'
        '[channels.phone]\napp = "phone"\ntransport_type = "ussd"\n'
    )
    monkeypatch.setattr(reload_module, "READY_SECONDS", 0.0)
    monkeypatch.setattr(reload_module, "SAME_SECONDS", 0.0)

    def run(answers: Answers, *arguments: str) -> Result:
        def answer(request: httpx2.Request) -> httpx2.Response:
            host = request.url.params.get("host", "")
            code, body = answers(request.method, request.url.path, host)
            if isinstance(body, str):
                return httpx2.Response(code, text=body)
            return httpx2.Response(code, json=body)

        @contextmanager
        def reaching(*_: object) -> Iterator[httpx2.Client]:
            with httpx2.Client(
                base_url="http://admin", transport=httpx2.MockTransport(answer)
            ) as client:
                try:
                    yield client
                except httpx2.TransportError as error:
                    raise Unreachable(f"it cannot be reached: {error}") from error

        monkeypatch.setattr(client_module, "reaching", reaching)
        monkeypatch.setattr(reload_module, "reaching", reaching)
        return invoke(*arguments, "-c", str(tmp_path / "jsbox.toml"))

    return run


def _hosts(configs: Mapping[str, str] | None = None) -> dict[str, Any]:
    rows = [
        {"id": one, "name": f"host-{one}", "is_this": is_this, "state": "serving", "admin": "",
         "version": "", "config": (configs or {}).get(one, "same")}
        for one, is_this in HOSTS
    ]  # fmt: skip
    return {"hosts": rows}


def _of_all(answer: Any) -> dict[str, Any]:
    rows = [
        {"id": one, "name": f"host-{one}", "is_this": is_this, "status": 200, "answer": answer}
        for one, is_this in HOSTS
    ]
    return {"hosts": rows}


def test_a_server_that_stops_between_two_answers_is_named(
    operator: Callable[..., Result],
) -> None:
    """So is one that is busy. The others are shown."""
    own = {
        "/v1/apps": {"apps": []},
        "/v1/channels": {"channels": []},
        "/v1/overview": {"troubles": []},
        "/readyz": "ok\n",
    }

    def answers(_: str, path: str, host: str) -> tuple[int, Any]:
        if host == "all":
            return 200, _of_all({"sandboxes": [], "spares": []})
        if host == "b":
            return 404, {"error": "no host is 'b'"}
        if host == "c" and path == "/v1/channels":
            return 503, {"error": "it starts, stops, or answers too many others"}
        return 200, own[path] if host == "a" else _hosts()

    shown = operator(answers, "ps", "--host", "all")
    assert shown.exit_code == 4
    assert "host host-a, this one\nAPP " in shown.stdout
    assert "host host-b: no host is 'b'\n" in shown.stdout
    assert "host host-c: it starts, stops" in shown.stdout


def test_limits_of_a_server_of_another_version_are_shown(operator: Callable[..., Result]) -> None:
    row = {"name": "newer", "value": 5, "seen": None}
    shown = operator(
        lambda *_: (200, _of_all({"app": "phone", "limits": [row]})),
        "limits", "phone", "--host", "all", "--explain",
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("newer") == shown.stdout.count("not known here") == 3


DONE = {"ok": True, "live": ["apps.phone"], "next_process": [], "restart": []}


@pytest.mark.parametrize(
    ("answer", "ready", "state", "code"),
    [
        ((422, {"ok": False, "errors": ["line 3: no"]}), (200, "ok"), "refused", 3),
        ((403, {"error": "the token may only read"}), (200, "ok"), "not reloaded", 1),
        ((503, {"error": "it answers too many others"}), (200, "ok"), "not reloaded", 1),
        ((504, {"error": "host host-b did not answer"}), (200, "ok"), "no answer", 4),
        ((0, "it broke"), (200, "ok"), "no answer", 4),
        ((200, DONE), (503, "not ready: store"), "not ready: apps.phone", 1),
        ((200, DONE), (0, "it broke"), "not ready: apps.phone", 1),
    ],
)
def test_a_reload_of_all_says_what_is_known_of_each(
    answer: tuple[int, Any],
    ready: tuple[int, Any],
    state: str,
    code: int,
    operator: Callable[..., Result],
) -> None:
    """What came of the one that stopped it, and that those after it were not asked."""

    def answers(method: str, path: str, host: str) -> tuple[int, Any]:
        if path == "/v1/hosts":
            return 200, _hosts()
        found = answer if method == "POST" else ready
        if host != "b":
            found = (200, DONE if method == "POST" else "ok")
        if not found[0]:
            raise httpx2.ReadError(found[1])
        return found

    done = operator(answers, "reload", "--all")
    assert done.exit_code == code
    assert done.stdout.splitlines() == [
        f"host-b  {state}", "host-c  not asked", "host-a  not asked",
    ]  # fmt: skip
    why = answer[1] if isinstance(answer[1], str) or answer[0] >= 400 else ready[1]
    text = why if isinstance(why, str) else why.get("error") or why["errors"][0]
    assert text in done.stderr
    count = int(answer[0] == 200)
    assert f"stopped: {count} of 3 servers have reloaded their config" in done.stderr


def test_a_reload_of_all_says_if_the_files_are_not_the_same(
    operator: Callable[..., Result],
) -> None:
    configs = {"a": "one", "b": "one", "c": "other"}

    def answers(method: str, path: str, _: str) -> tuple[int, Any]:
        if path == "/v1/hosts":
            return 200, _hosts(configs)
        return 200, DONE if method == "POST" else "ok"

    differs = operator(answers, "reload", "--all")
    assert differs.exit_code == 0
    assert "warning: the servers run different configs (host-a one, host-b one," in differs.stderr
    configs["c"] = "one"
    assert "warning" not in operator(answers, "reload", "--all").stderr


def test_a_reload_of_all_that_takes_its_own_token_away(operator: Callable[..., Result]) -> None:
    """The server that is asked is the last; then only /readyz, without a host, answers."""
    reloaded = list[str]()

    def answers(method: str, path: str, host: str) -> tuple[int, Any]:
        is_open = path == "/readyz" and not host
        if not {"", "a"}.isdisjoint(reloaded) and not is_open:
            return 401, {"error": "a bearer token is needed"}
        if method == "POST":
            reloaded.append(host)
            return 200, {"ok": True, "live": ["x"], "next_process": [], "restart": []}
        return (200, "ok") if path == "/readyz" else (200, _hosts())

    done = operator(answers, "reload", "--all")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("reloaded: x") == 3
    assert done.stderr == ""
