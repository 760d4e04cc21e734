"""`jsbox contacts import` of CSV, `groups`, `optouts` and `push` against a service."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import httpx2
import pytest
import trio

from resources.contact_fields import new_contact
from supervisor.cli import push as push_command

from ...gateway_client import PATIENCE
from .operator import Operator, operating

PEOPLE = """\
msisdn,name,extras-town,groups
0820000001,Thandi,Kuruman,Mothers; Clinic 2
0820000002,Sipho,,Mothers
0820000003,"No, number of cells",too,many,cells
0820000004,Ané,,
"""
ACCOUNT = '[accounts.acct]\ncountry_code = "27"\n'


async def test_contacts_and_groups_and_optouts_go_in_and_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run writes nothing, groups are made by name, what is exported can be imported."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "people.csv"
    file.write_text(PEOPLE)
    async with operating(tmp_path, ACCOUNT) as jsbox:
        contacts, groups = jsbox.service.stores.contacts, jsbox.service.stores.groups
        dry = await jsbox("contacts", "import", "acct", str(file), "--dry-run")
        assert (dry.exit_code, dry.stdout) == (1, "dry run: 3 would be written, 1 wrong\n")
        assert "line 4: expected 4 cells as in line 1, got 5" in dry.stderr
        assert (await contacts.count("acct"), await groups.all("acct")) == (0, [])
        assert not list(tmp_path.glob("people.csv.*"))

        done = await jsbox("contacts", "import", "acct", str(file))
        assert (done.exit_code, done.stdout) == (1, f"3 written, 1 wrong, see {file}.errors\n")
        mothers, clinic = sorted(await groups.all("acct"), key=lambda one: one["name"])[::-1]
        assert (mothers["name"], clinic["name"]) == ("Mothers", "Clinic 2")
        (first, second, third) = (await contacts.page("acct", 0, 10)).contacts
        assert (first["msisdn"], first["extras-town"]) == ("+27820000001", "Kuruman")
        assert first["groups"] == [mothers["key"], clinic["key"]]
        assert (second["groups"], third["groups"]) == ([mothers["key"]], [])
        again = await jsbox("contacts", "import", "acct", str(file), "--json")
        assert json.loads(again.stdout) == {"written": 3, "failed": 1}
        assert await contacts.count("acct") == 3  # the same rows are the same contacts

        listed = await jsbox("groups", "list", "acct")
        assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
            [clinic["key"], "1", "Clinic", "2"],
            [mothers["key"], "2", "Mothers"],
        ]
        assert (await jsbox("groups", "export", "acct", "-o", "groups.csv")).exit_code == 0
        text = Path("groups.csv").read_text().replace("Mothers,", "Mothers,name:thandi")
        Path("groups.csv").write_text(text + ",New,,\n,,a:b,\n")
        wrong = await jsbox("groups", "import", "acct", "groups.csv")
        assert (wrong.exit_code, "3 written, 1 wrong" in wrong.stdout) == (1, True)
        assert "line 5: 'name' needs to be a text" in wrong.stderr
        found = {one["name"]: (one["key"], one["query"]) for one in await groups.all("acct")}
        assert found["Mothers"] == (mothers["key"], "name:thandi")
        assert (found["Clinic 2"], found["New"][1]) == ((clinic["key"], None), None)

        Path("out.csv").write_text("address_value,created_at\n+271,2024-05-06\n+272,someday\n,\n")
        out = await jsbox("optouts", "import", "acct", "out.csv")
        assert (out.exit_code, "1 written, 1 wrong" in out.stdout) == (1, True)
        assert "line 3: 'created_at' needs to be an ISO 8601 date" in out.stderr
        assert (await jsbox("optouts", "export", "acct", "-o", "all.csv")).exit_code == 0
        rows = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
        assert rows == [
            {"address_type": "msisdn", "address_value": "+271", "message_id": "",
             "created_at": "2024-05-06 00:00:00.000000"}
        ]  # fmt: skip
        assert "+271" in (await jsbox("optouts", "list", "acct")).stdout
        copied = await jsbox("optouts", "import", "acct", "all.csv")
        assert (copied.exit_code, copied.stdout) == (0, "1 written, 0 wrong\n")
        nobody = await jsbox("optouts", "list", "nobody")
        assert (nobody.exit_code, "there is no account" in nobody.stderr) == (1, True)


async def test_every_optout_comes_in_pages(tmp_path: Path) -> None:
    """More than a page of them, and none is missing; beyond the account's limit they are refused by
    line.
    """
    file = tmp_path / "out.csv"
    numbers = [f"+27{n:09}" for n in range(1500)]
    file.write_text("address_value\n" + "\n".join(numbers) + "\n")
    async with operating(tmp_path, "[accounts.acct]\noptouts_max = 1450\n") as jsbox:
        done = await jsbox("optouts", "import", "acct", str(file))
        assert f"1450 written, 50 wrong, see {file}.errors" in done.stdout
        assert "line 1452: an account may have 1450 opt-outs" in done.stderr
        listed = await jsbox("optouts", "list", "acct", "--json", "-n", "5000")
        found = [one["address_value"] for one in json.loads(listed.stdout)["optouts"]]
        assert sorted(set(found)) == numbers[:1450]


async def seven(jsbox: Operator) -> None:
    """Seven contacts of a group, two of them of one person; a third has opted out."""
    stores = jsbox.service.stores
    await stores.groups.find_or_create("acct", "All of them", "g1", "2014", 10)
    for n in (0, 1, 2, 3, 4, 5, 5):
        number = f"+2782000000{n}"
        fields = new_contact({"msisdn": number, "groups": ["g1"]})
        await stores.contacts.create("acct", f"k{n}{number[-1]}{len(number)}", fields, 100)
    same = new_contact({"msisdn": "27820000005", "groups": ["g1"]})
    await stores.contacts.create("acct", "same", same, 100)


async def test_a_push_to_a_group_by_its_name_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an answer that was lost, nobody is pushed to twice, and nobody is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(push_command, "PART", 2)
    monkeypatch.setattr(push_command, "KEEP_SECONDS", 0)
    async with operating(tmp_path, ACCOUNT) as jsbox:
        await seven(jsbox)
        await jsbox("optouts", "import", "acct", _file(tmp_path, "address_value\n0820000001\n"))
        group = ("push", "phone", "--group", "All of them")
        dry = await jsbox(*group, "--dry-run")
        assert dry.stdout == ("dry run: 5 would be queued, 1 opted out, 0 without address\n"), (
            dry.output
        )
        assert not list(tmp_path.glob("push-*"))
        lost = push_command._Work._keep
        kept = []

        def lose(work: push_command._Work, state: push_command._State) -> None:
            if len(kept) == 2:  # the second part was sent; its answer is lost
                raise KeyboardInterrupt
            kept.append(state.done)
            lost(work, state)

        monkeypatch.setattr(push_command._Work, "_keep", lose)
        assert (await jsbox(*group)).exit_code == 130
        monkeypatch.setattr(push_command._Work, "_keep", lost)
        assert len(list(tmp_path.glob("push-*.json"))) == 1
        done = await jsbox(*group)
        assert "going on after 2 addresses" in done.stderr
        assert done.stdout == ("3 queued, 1 opted out, 0 without address, 2 queued before\n"), (
            done.output
        )
        assert not list(tmp_path.glob("push-*"))
        totals = jsbox.service.prometheus.registry.get_sample_value
        with trio.fail_after(60):
            while _runs(totals) < 5:
                await trio.sleep(0.05)
        assert _runs(totals) == 5


def _runs(value: object) -> float:
    labels = {"app": "phone", "kind": "message", "outcome": "ok"}
    return value("jsbox_messages_total", labels) or 0.0  # type: ignore[operator, no-any-return]


def _file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "given.csv"
    file.write_text(text)
    return str(file)


def test_how_far_a_push_has_come_is_not_written_after_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million addresses would be written ten thousand times; an interruption is still exact."""
    monkeypatch.setattr(push_command, "PART", 2)
    monkeypatch.setattr(push_command, "KEEP_SECONDS", 3600)
    keep, done = push_command._Work._keep, list[int]()

    def kept(work: push_command._Work, state: push_command._State) -> None:
        done.append(state.done)
        keep(work, state)

    def post(_: push_command._Work, state: push_command._State, part: list[str]) -> dict[str, int]:
        if state.done == 4:
            raise KeyboardInterrupt
        return {"queued": len(part)}

    monkeypatch.setattr(push_command._Work, "_keep", kept)
    monkeypatch.setattr(push_command._Work, "_post", post)
    with httpx2.Client() as client:
        work = push_command._Work(client, "phone", tmp_path / "push.json", None, is_quiet=True)
        with pytest.raises(KeyboardInterrupt):
            work.run("addresses", list("abcdefg"), restart=False)
        left = work._left("addresses")
    assert left is not None
    assert (left.done, left.counts["queued"], done) == (4, 4, [0, 4])


async def test_a_push_keeps_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many addresses a second as asked for, not more; the file of addresses has one a line."""
    monkeypatch.chdir(tmp_path)
    slept = list[float]()
    monkeypatch.setattr(push_command.time, "sleep", slept.append)
    file = _file(tmp_path, "\n".join(f"+27{n:09}" for n in range(25)) + "\n\n")
    async with operating(tmp_path) as jsbox:
        done = await jsbox("push", "phone", "--file", file, "--rate", "10", "--json")
        assert json.loads(done.stdout) == {
            "queued": 25, "opted_out": 0, "no_address": 0, "already": 0
        }, done.output  # fmt: skip
    # Ten, ten and five; the sleeps are not real, so each is counted from about the same moment.
    assert len(slept) == 3
    assert slept[0] == 0
    assert 0.5 < slept[1] <= 1
    assert 1.5 < slept[2] <= 2


async def test_what_cannot_be_pushed_is_said(tmp_path: Path) -> None:
    """With what was expected."""
    async with operating(tmp_path) as jsbox:
        for arguments, text in (
            (("phone",), "expected ADDRESSES, or --group NAME, or --file FILE"),
            (("phone", "+271", "--group", "g"), "expected ADDRESSES"),
            (("phone", "--group", "nothing"), "account acct has no group 'nothing'"),
            (("nobody", "--group", "nothing"), "there is no app 'nobody'"),
            (("nobody", "+271"), "there is no app 'nobody'"),
            (("phone", "--file", _file(tmp_path, " \n\n")), "has no addresses: expected one"),
        ):
            failed = await jsbox("push", *arguments)
            assert (failed.exit_code > 0, text in failed.stderr) == (True, True), failed.output


async def test_contacts_go_through_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export to a file .csv is CSV, which the import takes: it held JSON Lines. What CSV cannot
    hold is said, and no file is left that looks like an export.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(
        '{"msisdn": "+2782", "name": "=1, \\"a\\"", "extra": {"a;b": "x\\r\\ny", "é": "2"}}\n'
        '{"msisdn": "+2783", "subscription": {"w": "on"}, "groups": ["g1", "g2"],'
        ' "created_at": "2014-01-02T03:04:05Z"}\n'
    )
    async with operating(tmp_path, ACCOUNT) as jsbox:
        await jsbox("groups", "import", "acct", _named("groups.csv", "key,name\ng1,A\ng2,B\n"))
        await jsbox("contacts", "import", "acct", "in.jsonl")
        before = (await jsbox("contacts", "export", "acct")).stdout
        assert (await jsbox("contacts", "export", "acct", "-o", "out.csv")).exit_code == 0
        text = Path("out.csv").read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [row["groups"] for row in rows] == ["", "g1;g2"]
        assert rows[0]["extras-a;b"] == "x\r\ny"
        done = await jsbox("contacts", "import", "acct", "out.csv")
        assert done.stdout == "2 written, 0 wrong\n", done.stderr
        assert (await jsbox("contacts", "export", "acct")).stdout == before

        extra = '{"msisdn": "+2784", "extra": {"a\\nb": "x"}}\n'
        await jsbox("contacts", "import", "acct", _named("more.jsonl", extra))
        failed = await jsbox("contacts", "export", "acct", "-o", "more.csv")
        assert failed.exit_code == 1
        assert "do not fit CSV: export JSON Lines" in failed.stderr
        assert not Path("more.csv").exists()


@pytest.mark.parametrize(
    ("kind", "text"),
    [("contacts", "msisdn\n0820000001\n"), ("optouts", "address_value\n0820000001\n")],
)
async def test_a_store_without_memory_makes_no_row_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, text: str
) -> None:
    """The import stops, and goes on when it is called again: every row was named as wrong."""
    monkeypatch.chdir(tmp_path)
    file = _named("in.csv", text)
    async with operating(tmp_path, ACCOUNT) as jsbox:
        redis = jsbox.service.stores.redis
        await redis.execute("CONFIG", "SET", "maxmemory", "1")
        failed = await jsbox(kind, "import", "acct", file)
        assert (failed.exit_code, failed.stdout) == (1, "")
        assert "OOM command not allowed when used memory > 'maxmemory'.\n" in failed.stderr
        await redis.execute("CONFIG", "SET", "maxmemory", "0")
        with trio.fail_after(PATIENCE):
            while redis.statistics().problem:
                await trio.sleep(0.05)
        assert (await jsbox(kind, "import", "acct", file)).stdout == "1 written, 0 wrong\n"


async def test_a_rate_is_a_number(tmp_path: Path) -> None:
    """`--rate nan` was a traceback."""
    async with operating(tmp_path, ACCOUNT) as jsbox:
        done = await jsbox("push", "phone", "+27", "--rate", "nan")
    assert (done.exit_code, "expected a number, got nan" in done.stderr) == (2, True)


def _named(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name
