"""`jsbox contacts`: import, export, get and search against a running server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from supervisor.cli.imports import Import, ImportChanged

from ..programs import Server, free_ports, jsbox, serve
from ..service import ECHO, Folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server, and its config file."""
    folder = Folder(tmp_path_factory.mktemp("contacts"))
    folder.text = folder.text.replace(
        'admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{free_ports(1)[0]}"'
    )
    folder.text += "[accounts.small]\ncontacts_max = 2\n"
    folder.text += '[accounts.home]\ncountry_code = "27"\n'
    folder.app("phone", ECHO)
    with serve(folder.config) as running:
        yield running, str(folder.config)


def test_an_import_makes_national_numbers_international(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """By the account's country code; a contact without a number has the msisdn unknown."""
    _, config = server
    file = tmp_path / "people.jsonl"
    rows = [{"key": "a", "msisdn": "0821234567"}, {"key": "b", "msisdn": "123"}, {"key": "c"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    done = jsbox("contacts", "import", "home", str(file), "-c", config)
    assert done.returncode == 0, done.stderr
    copy = jsbox("contacts", "export", "home", "-c", config).stdout.splitlines()
    found = [json.loads(line)["msisdn"] for line in copy]
    assert found == ["+27821234567", "123", "unknown"]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_import_keeps_what_a_line_gives(server: tuple[Server, str], tmp_path: Path) -> None:
    """Key, created_at and groups stay; wrong lines go to a file beside; the export can be imported
    again.
    """
    _, config = server
    file = tmp_path / "people.jsonl"
    rows = [
        {
            "key": "k1",
            "name": "Thandi",
            "msisdn": "+27",
            "created_at": "2014-01-02T03:04:05+02:00",
            "groups": ["g"],
        },
        {"name": "No Key", "extra": {"age": "5"}, "subscription": {"list": "on"}},
        {"name": 5},
        {"nome": "x"},
        {"key": "k2", "extras-a": "1", "user_account": "elsewhere", "$VERSION": 1},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\nnot json\n[1]\n")
    done = jsbox("contacts", "import", "acct", str(file), "-c", config)
    assert (done.returncode, done.stdout) == (1, f"3 written, 4 wrong, see {file}.errors\n"), (
        done.stderr
    )
    errors = lines(tmp_path / "people.jsonl.errors")
    assert [error["line"] for error in errors] == [3, 4, 7, 8]
    assert "'name' needs to be a string" in str(errors[0]["error"])
    assert "there is no field 'nome'" in str(errors[1]["error"])
    assert "not JSON" in str(errors[2]["error"])
    assert "expected an object" in str(errors[3]["error"])
    assert not (tmp_path / "people.jsonl.progress").exists()

    got = json.loads(jsbox("contacts", "get", "acct", "k1", "-c", config).stdout)
    assert (got["created_at"], got["groups"], got["user_account"]) == (
        "2014-01-02 01:04:05.000000",
        ["g"],
        "acct",
    )
    found = jsbox("contacts", "search", "acct", "extras-age:5", "-c", config).stdout
    assert "No Key" in found
    copy = tmp_path / "copy.jsonl"
    assert jsbox("contacts", "export", "acct", "-o", str(copy), "-c", config).returncode == 0
    before = lines(copy)
    assert len(before) == 3
    again = jsbox("contacts", "import", "acct", str(copy), "--json", "-c", config)
    assert json.loads(again.stdout) == {"written": 3, "failed": 0}
    assert [
        json.loads(line)
        for line in jsbox("contacts", "export", "acct", "-c", config).stdout.splitlines()
    ] == before


def test_the_same_file_twice_makes_no_more_contacts(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """Lines without a key get the same one each time."""
    running, config = server
    file = tmp_path / "nokeys.jsonl"
    file.write_text(
        "".join(json.dumps({"name": f"twice{n}", "surname": "Twice"}) + "\n" for n in range(1200))
    )
    for _ in range(2):
        done = jsbox("contacts", "import", "acct", str(file), "-c", config)
        assert (done.returncode, done.stdout) == (0, "1200 written, 0 wrong\n"), done.stderr
        assert not (tmp_path / "nokeys.jsonl.errors").exists()
    keys = set()
    cursor: str | None = "0"
    while cursor is not None:
        params = {"query": "surname:twice", "limit": "500", "cursor": cursor}
        page = httpx2.get(
            f"{running.admin}/v1/accounts/acct/contacts", params=params, trust_env=False
        ).json()
        keys.update(page["keys"])
        cursor = page["cursor"]
    assert len(keys) == 1200


def test_limits_and_unknown_names_are_told(server: tuple[Server, str], tmp_path: Path) -> None:
    """An account that is full, one that is not there, a contact that is not there, a query that
    makes no sense.
    """
    _, config = server
    file = tmp_path / "many.jsonl"
    file.write_text('{"name": "a"}\n' * 3)
    done = jsbox("contacts", "import", "small", str(file), "-c", config)
    assert done.returncode == 1
    assert lines(tmp_path / "many.jsonl.errors") == [
        {"line": 3, "error": "an account may have 2 contacts"}
    ]
    for arguments, text in (
        (["import", "nobody", str(file)], "there is no account 'nobody'"),
        (["get", "acct", "nothing"], "account acct has no contact 'nothing'"),
        (["search", "acct", "name:["], "Bad query at character 7"),
    ):
        failed = jsbox("contacts", *arguments, "-c", config)
        assert failed.returncode == 1
        assert text in failed.stderr


@pytest.mark.parametrize(
    "params", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"cursor": "-1"}, {"cursor": "x"}]
)
def test_bad_parameters_of_a_page_are_refused(
    server: tuple[Server, str], params: dict[str, str]
) -> None:
    """With what was expected."""
    answer = httpx2.get(
        f"{server[0].admin}/v1/accounts/acct/contacts", params=params, trust_env=False
    )
    assert (answer.status_code, "limit=1 to 1000" in answer.text) == (400, True)


@pytest.mark.parametrize("body", ["", "[]", '{"contacts": []}', '{"contacts": 5}', "{" * 2000])
def test_bad_bodies_are_refused(server: tuple[Server, str], body: str) -> None:
    """With what was expected."""
    answer = httpx2.post(
        f"{server[0].admin}/v1/accounts/acct/contacts", content=body, trust_env=False
    )
    assert (answer.status_code, "contacts" in answer.text) == (400, True)


def test_an_import_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """What was noted is not sent again, what was not is; the errors of an unnoted batch are written
    once.
    """
    file = tmp_path / "f.jsonl"
    file.write_text('{"name": "a"}\n' * 499 + "bad\n" + '{"name": "b"}\n' * 600)
    with Import.open(file, "acct", restart=False) as work:
        first, second = list(work.batches())[:2]
        work.finish(first)
        assert (work.summary.written, work.summary.failed, work.lines) == (499, 1, 500)
        work._errors.write(b"of a batch that was never noted\n")
    with Import.open(file, "acct", restart=False) as work:
        rest = list(work.batches())
        assert rest[0].rows == second.rows
        assert rest[0].rows[0][0] == 501
        for batch in rest:
            work.finish(batch)
        work.end()
        assert (work.summary.written, work.summary.failed) == (1099, 1)
    assert [line["line"] for line in lines(tmp_path / "f.jsonl.errors")] == [500]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.jsonl", "f.jsonl.errors"]


def test_a_file_that_changed_meanwhile_is_not_gone_on_with(tmp_path: Path) -> None:
    """Unless it is begun anew."""
    file = tmp_path / "f.jsonl"
    file.write_text('{"name": "a"}\n' * 700)
    with Import.open(file, "acct", restart=False) as work:
        work.finish(next(work.batches()))
    file.write_text('{"name": "b"}\n' * 700)
    with pytest.raises(ImportChanged, match="--restart"), Import.open(file, "acct", restart=False):
        pass
    with Import.open(file, "acct", restart=True) as work:
        assert work.lines == 0


def test_a_huge_line_is_wrong_and_the_next_one_is_not(tmp_path: Path) -> None:
    """It is read over in pieces."""
    file = tmp_path / "f.jsonl"
    file.write_text('{"name": "' + "x" * 3_000_000 + '"}\n{"name": "b"}\n')
    with Import.open(file, "acct", restart=False) as work:
        (batch,) = work.batches()
        assert list(batch.errors) == [1]
        assert batch.rows[0][0] == 2


def test_a_line_that_cannot_be_is_named_and_the_rest_is_written(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """By its number: half of an emoji, depth, numbers, keys twice, bytes that are no text. Lines
    that are too much only together are written.
    """
    many = '{"groups": [' + '"a",' * 250_000 + '"a"]}'
    wrong = {
        2: b'{"key": "cut \\ud83d"}',
        4: b'{"name": "cut \\ud83d"}',
        5: b'{"extra": ' + b'{"x":' * 100 + b"1" + b"}" * 100 + b"}",
        6: b'{"extra": ' + b"[" * 100_000,
        8: b'{"extra": {"n": ' + b"9" * 5000 + b"}}",
        9: b'{"extra": {"n": 1e999}}',
        10: b'{"extra": {"n": NaN}}',
        11: b'{"name": "a", "name": "b"}',
        12: b'{"name": "caf\xe9"}',
        15: b"[" + b"1," * 450_000 + b"1]",
        16: b'{"key": ""}',
    }
    right = {
        number: json.dumps(
            {"key": f"line-{number}", "name": "Zoë \U0001f600"}, ensure_ascii=number % 2 == 0
        ).encode()
        for number in (1, 3, 7, 17)
    }
    together = dict.fromkeys((13, 14), many.encode())
    text = [(wrong | right | together)[number] for number in range(1, 18)]
    (tmp_path / "people.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(text) + b"\n")
    done = jsbox("contacts", "import", "acct", str(tmp_path / "people.jsonl"), "-c", server[1])
    assert (done.returncode, done.stdout.split(" wrong")[0]) == (1, f"6 written, {len(wrong)}"), (
        done.stderr
    )
    errors = lines(tmp_path / "people.jsonl.errors")
    assert [error["line"] for error in errors] == list(wrong)
    assert "internal" not in json.dumps(errors)
    for number in right:
        got = json.loads(jsbox("contacts", "get", "acct", f"line-{number}", "-c", server[1]).stdout)
        assert got["name"] == "Zoë \U0001f600"


def test_an_import_that_cannot_be_read_is_said_in_one_line(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """A note that is damaged, a file that can be read only once, a folder that cannot be written
    to.
    """
    file = tmp_path / "people.jsonl"
    file.write_text('{"key": "x"}\n')
    (tmp_path / "people.jsonl.progress").write_text('{"account": 5')
    done = jsbox("contacts", "import", "acct", str(file), "-c", server[1])
    assert (done.returncode, "use --restart" in done.stderr, "Traceback" in done.stderr) == (
        1,
        True,
        False,
    )
    assert (
        jsbox("contacts", "import", "acct", str(file), "--restart", "-c", server[1]).returncode == 0
    )
    (tmp_path / "people.jsonl.errors").mkdir()
    done = jsbox("contacts", "import", "acct", str(file), "-c", server[1])
    assert (done.returncode, done.stderr.count("\n")) == (1, 2), done.stderr
    os.mkfifo(tmp_path / "fifo")
    done = jsbox("contacts", "import", "acct", str(tmp_path / "fifo"), "-c", server[1])
    assert (done.returncode, "no regular file" in done.stderr) == (1, True)
