"""Data of users: read strictly, and put into what each of them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.load.campaign import Dialogue, Step
from supervisor.load.feeding import filled, read_rows
from supervisor.load.reading import load_campaign
from supervisor.load.schedule import UserPool, schedule

from .test_campaign import errors

CAMPAIGN = """\
[run]
channel = "phone"
users = { pool = 3, returning = 0.0, data = "people.csv" }
stages = [ { rate = "5/s", for = "30s" } ]
[[dialogue]]
name = "talk"
steps = [
  { dial = "*1#", expect = "Name?" },
  { send = "{name}", expect = "Hello {name} of {town}" },
]
"""


def test_each_user_has_a_row_and_keeps_it(tmp_path: Path) -> None:
    """Rows are used again in turn if there are more users; braces in the data stay."""
    (tmp_path / "people.csv").write_text('\ufeffname,town\nThandi,"Kuruman, NC"\nSipho,{name}\n')
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    campaign = load_campaign(tmp_path / "campaign.toml")
    users = UserPool(campaign.run.users.from_, campaign.run.users.pool, campaign.rows)
    first, *rest = schedule(campaign, 1)
    taken = [users.take(one) for one in [first, *rest[:2]]]
    names = [(users.row_of(user) or {})["name"] for user in taken if user is not None]
    assert names == ["Thandi", "Sipho", "Thandi"]
    (_, told) = filled(first.dialogue, campaign.rows[1]).steps
    assert (told.send, told.expect) == ("Sipho", "Hello Sipho of {name}")
    assert filled(Dialogue("x", steps=(Step(dial="*1#"),)), {}).steps[0].send is None


def test_only_line_ends_end_a_row(tmp_path: Path) -> None:
    """Other characters that some take for line ends are in what people write and spreadsheets
    export.
    """
    file = tmp_path / "people.csv"
    file.write_text('name,town\nThandi\u2028,a\x0bb\nSipho,"two\nlines"\n', newline="")
    assert read_rows(file) == [
        {"name": "Thandi\u2028", "town": "a\x0bb"},
        {"name": "Sipho", "town": "two\nlines"},
    ]


def test_users_may_have_addresses(tmp_path: Path) -> None:
    """Then there are no more users than rows."""
    (tmp_path / "people.csv").write_text("address,name,town\n+1,a,x\n+2,b,y\n")
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    campaign = load_campaign(tmp_path / "campaign.toml")
    users = UserPool(campaign.run.users.from_, 3, campaign.rows)
    assert [users.take(one) for one in schedule(campaign, 1)[:3]] == ["+1", "+2", None]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected a header row and at least one user"),
        ("name,town\n", "expected a header row and at least one user"),
        ("name,name\na,b\n", "line 1: expected a row with the names of the columns"),
        ("name,town\na\n", "line 2: expected 2 cells, got 1"),
        ('name,town\n"a,b\n', "line 2: not CSV"),
        ("name,address\na,+1\nb,+1\n", "two users have the same address"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, error: str) -> None:
    """With its line."""
    file = tmp_path / "people.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=error):
        read_rows(file)


def test_a_campaign_names_what_is_missing(tmp_path: Path) -> None:
    """A file that is not there, and a column that the steps want."""
    (problem,) = errors(tmp_path, CAMPAIGN)
    assert problem.startswith("3: run.users.data: ")
    (tmp_path / "people.csv").write_text("name\na\n")
    (problem,) = errors(tmp_path, CAMPAIGN)
    assert problem.endswith('dialogue.0.steps.1: "people.csv" has no column "town"')
