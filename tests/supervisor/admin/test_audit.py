"""The audit log: what is written down when, what is not, and what happens when it cannot be."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import trio

from supervisor.admin import audit
from supervisor.admin.audit import AuditLog, Deed, Lost, cursor_of, read

from ...gateway_client import PATIENCE
from ...service import ECHO, Folder, running
from ..cli.operator import operating
from .admin_client import ask


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def test_deeds_come_back_with_what_came_of_them(tmp_path: Path) -> None:
    """Newest first; one without an end shows that no answer is known."""
    log = AuditLog(tmp_path)
    first = await log.begin("thandi", "10.0.0.1", "POST /v1/reload")
    await log.end(first, 200, "ok true")
    await log.begin("sipho", "::1", "POST /v1/x\n\x1b[2J" + "y" * 1000)
    second, done = read(tmp_path, 10)
    assert isinstance(done, Deed)
    assert isinstance(second, Deed)
    assert (done.who, done.source, done.status, done.result) == (
        "thandi",
        "10.0.0.1",
        200,
        "ok true",
    )
    assert (second.status, second.result, len(second.what)) == (0, "", audit.WHAT_MAX)
    assert [one.who for one in read(tmp_path, 10, who="sipho") if isinstance(one, Deed)] == [
        "sipho"
    ]
    assert read(tmp_path, 10, since=second.time) == [second]
    assert read(tmp_path, 1) == [second]
    path = tmp_path / audit.NAME
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b'{"line":"did","time"')  # as a power cut leaves it
    assert read(tmp_path, 10) == [second, done]
    third = await log.begin("thandi", "", "POST /v1/after")
    assert read(tmp_path, 10) == [third, second, done]


async def test_it_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row once, whatever is written meanwhile, gaps too; over several files; deeds keep their
    ends; a page whose beginning is no longer there is empty.
    """
    monkeypatch.setattr(audit, "FILE_BYTES", 3000)
    log = AuditLog(tmp_path)
    for n in range(20):
        log.lost = int(n == 10)  # as if a line had been lost just before
        await log.end(await log.begin("who", "", f"POST /{n}"), 200, f"n {n}")
    seen, cursor = list[Deed | Lost](), ""
    while page := read(tmp_path, 3, before=cursor):
        seen += page
        cursor = cursor_of(page[-1])
        await log.begin("other", "", "POST /meanwhile")
    assert len(list(tmp_path.iterdir())) > 1
    deeds = [(one.what, one.result) for one in seen if isinstance(one, Deed)]
    assert deeds == [(f"POST /{n}", f"n {n}") for n in range(19, -1, -1)]
    assert sum(isinstance(one, Lost) for one in seen) == 1
    assert read(tmp_path, 3, before="2026-01-01T00:00:00.000000Z gone") == []
    paged = read(tmp_path, 100, who="who", before=cursor_of(seen[4]))
    assert [one for one in seen[5:] if isinstance(one, Deed)] == [
        one for one in paged if isinstance(one, Deed)
    ]


async def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest files go; what is left has no hole."""
    monkeypatch.setattr(audit, "FILE_BYTES", 2000)
    log = AuditLog(tmp_path)
    for n in range(100):
        await log.end(await log.begin("who", "", f"POST /{n}"), 200, "")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + audit.OLDER
    assert all(file.stat().st_size <= 2000 for file in files)
    left = [one.what for one in read(tmp_path, 1000) if isinstance(one, Deed)]
    assert left == [f"POST /{n}" for n in range(99, 99 - len(left), -1)]
    assert len(left) > 15


async def test_what_cannot_be_written_is_not_lost_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the service's own log, a problem until a line can be written again, and counted
    there.
    """
    log = AuditLog(tmp_path / "data")
    (tmp_path / "data").write_text("not a folder")
    await log.end(await log.begin("thandi", "", "POST /v1/reload"), 200, "")
    assert "cannot be written" in log.problem
    assert caplog.text.count("the audit log has lost a line") == 2
    assert "POST /v1/reload" in caplog.text
    (tmp_path / "data").unlink()
    await log.begin("thandi", "", "POST /v1/again")
    assert log.problem == ""
    found = read(tmp_path / "data", 10)
    assert isinstance(found[1], Lost)
    assert found[1].count == 2


async def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    """The file that it names stays as it is."""
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / audit.NAME).symlink_to(other)
    log = AuditLog(tmp_path / "data")
    await log.begin("thandi", "", "POST /v1/reload")
    assert (log.problem != "", other.read_text()) == (True, "precious")


async def test_a_disk_that_hangs_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request goes on, and the line counts as lost."""
    fifo = tmp_path / audit.NAME
    os.mkfifo(fifo)  # opening it to write waits for a reader
    monkeypatch.setattr(audit, "WRITE_SECONDS", 0.2)
    log = AuditLog(tmp_path)
    with trio.fail_after(60):
        await log.begin("thandi", "", "POST /v1/reload")
    assert "did not take a line" in log.problem
    with fifo.open("rb") as reader:  # lets the thread go
        await trio.to_thread.run_sync(reader.read, 1)


TOKENS = f"""admin_tokens = [
  "{digest("old")}",
  {{ name = "grafana", sha256 = "{digest("reader")}", scopes = ["read"] }},
  {{ name = "thandi", sha256 = "{digest("thandi")}", expires = 2999-01-01 }},
  {{ name = "sipho", sha256 = "{digest("sipho")}", expires = "2001-01-01T00:00:00+02:00" }},
]
"""


async def test_tokens_have_names_scopes_and_an_end(tmp_path: Path) -> None:
    """Who may only read changes nothing; who may operate is written down by name. A reload changes
    them at once.
    """
    folder = Folder(tmp_path)
    folder.text = folder.text.replace("[listen]\n", f"[listen]\n{TOKENS}")
    folder.app("phone", ECHO)
    async with running(folder) as service:

        async def status(token: str, method: str, path: str) -> int:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return (await ask(service, method, path, **headers))[0]

        assert await status("", "GET", "/v1/apps") == 401
        assert await status("nobody", "GET", "/v1/apps") == 401
        assert await status("sipho", "GET", "/v1/apps") == 401
        assert await status("reader", "GET", "/v1/apps") == 200
        assert await status("reader", "GET", "/metrics") == 200
        assert await status("reader", "POST", "/v1/reload") == 403
        assert await status("reader", "DELETE", "/v1/outbox/phone?until=1") == 403
        assert await status("thandi", "POST", "/v1/sandboxes/1/kill") == 404
        assert await status("old", "POST", "/v1/apps/phone/push") == 400
        _, well = await ask(service, "GET", "/readyz", authorization="Bearer reader")
        assert "without a valid token" not in well  # a few wrong ones are somebody's mistake
        for _ in range(10):
            assert await status("guess", "GET", "/v1/apps") == 401
        _, tried = await ask(service, "GET", "/readyz", authorization="Bearer reader")
        assert "requests without a valid token in 10 minutes, the last from 127.0.0.1" in tried
        _, metrics = await ask(service, "GET", "/metrics", authorization="Bearer reader")
        assert "jsbox_admin_refused_total 15.0" in metrics
        _, said = await ask(service, "GET", "/v1/apps", authorization="Bearer sipho")
        assert "the token sipho expired at 2000-12-31 22:00" in said["error"]

        text = folder.text
        folder.text = text.replace('name = "grafana"', 'name = "prometheus"').replace(
            'scopes = ["read"]', 'scopes = ["operate"]'
        )
        assert folder.config.exists()  # it is written now
        code, result = await ask(service, "POST", "/v1/reload", authorization="Bearer thandi")
        assert (code, result["live"], result["restart"]) == (200, ["listen.admin_tokens"], [])
        assert await status("reader", "POST", "/v1/sandboxes/2/kill") == 404

        with trio.fail_after(PATIENCE):
            while True:  # the end of a deed is written after its answer
                _, found = await ask(service, "GET", "/v1/audit", authorization="Bearer reader")
                if found["deeds"][0]["status"]:
                    break
        deeds = [(one["who"], one["what"], one["status"]) for one in found["deeds"]]
        assert deeds == [
            ("prometheus", "POST /v1/sandboxes/2/kill", 404),
            ("thandi", "POST /v1/reload", 200),
            (f"token-{digest('old')[:8]}", "POST /v1/apps/phone/push", 400),
            ("thandi", "POST /v1/sandboxes/1/kill", 404),
        ]
        assert "live listen.admin_tokens" in found["deeds"][1]["result"]


async def test_audit_reads_with_and_without_a_server(tmp_path: Path) -> None:
    """The same; no text of a user is in it."""
    async with operating(tmp_path) as jsbox:
        body = json.dumps({"contacts": [{"name": 5, "surname": "Secret"}]}).encode()
        await ask(jsbox.service, "POST", "/v1/accounts/acct/contacts", body)
        await jsbox.service.reload_by_signal()
        shown = await jsbox("audit")
        first, second = shown.stdout.splitlines()
        assert "local            127.0.0.1       200 POST /v1/accounts/acct/contacts" in first
        assert first.endswith("written 0; errors 1")
        assert ("SIGHUP" in second, second.endswith("200 reload  ok true")) == (True, True)
        rows = json.loads((await jsbox("audit", "--json", "--who", "SIGHUP")).stdout)["deeds"]
        assert [one["what"] for one in rows] == ["reload"]
        wrong = await jsbox("audit", "--since", "yesterday")
        assert (wrong.exit_code, "expected a time with its zone" in wrong.stderr) == (2, True)
    offline = await jsbox("audit", "--since", "1h")
    assert offline.stdout == shown.stdout
    assert "cannot be reached" in offline.stderr


def test_processes_that_write_at_the_same_time_lose_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each begins a new file: the files are those of one server."""
    monkeypatch.setattr(audit, "FILE_BYTES", 4000)
    monkeypatch.setattr(audit, "OLDER", 40)
    pids = []
    for name in ("one", "two", "three"):
        if not (pid := os.fork()):
            code = 1
            try:
                for n in range(40):
                    audit._append(tmp_path, f"{name} {n} {'x' * 100}\n".encode())
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    text = "".join(file.read_text() for file in tmp_path.iterdir())
    lines = [line.rsplit(" ", 1)[0] for line in text.splitlines()]
    assert sorted(lines) == sorted(f"{a} {n}" for a in ("one", "two", "three") for n in range(40))
