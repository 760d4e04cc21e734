"""Rows of files that are imported: what is a row, where an error is, and how reading goes on."""

from __future__ import annotations

import io

import pytest

from supervisor.cli import rows
from supervisor.cli.contacts import COLUMNS
from supervisor.cli.rows import Row, Unreadable, csv_rows, json_rows, read_header


def read(text: str | bytes) -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    file = io.BytesIO(data)
    found = list(csv_rows(file, 0, 0, read_header(file, COLUMNS)))
    # Reading on from the end of any row gives the rest, as an import that is resumed does.
    header = read_header(file, COLUMNS)
    for n, row in enumerate(found):
        assert list(csv_rows(file, row.end, row.last_line, header)) == found[n + 1 :]
    return found


def test_cells_are_fields_by_the_header() -> None:
    """Empty cells are left out, groups are several names, texts may have quotes and lines."""
    text = (
        'msisdn,name,extras-town,groups\r\n+271,"Thandi, N.","a ""b""\nc",Mothers; clinic 2;\r\n'
        "\r\n,,,\r\n+272,Ané,,\r\n"
    )
    found = read("\ufeff" + text)
    assert [(row.line, row.last_line, row.value) for row in found] == [
        (2, 3, {"msisdn": "+271", "name": "Thandi, N.", "extras-town": 'a "b"\nc',
                "groups": ["Mothers", "clinic 2"]}),
        (6, 6, {"msisdn": "+272", "name": "Ané"}),
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_that_of_the_header(delimiter: str) -> None:
    """Spreadsheets write commas, semicolons or tabs, by their language."""
    text = f"name{delimiter}msisdn\nA{delimiter}+271\n"
    assert [row.value for row in read(text)] == [{"name": "A", "msisdn": "+271"}]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"\n", "expected a row with the names of the columns"),
        (b"phone,name\n", "column 1: there is no field 'phone'; known: key, name"),
        (b"Msisdn\n", "did you mean msisdn?"),
        (b"extras-\n", "there is no field 'extras-'"),
        (b"name,name\n", "two columns are named 'name'"),
        (b"nam\xe9\n", "line 1 is not UTF-8"),
        ("name".encode("utf-16"), "line 1 is not UTF-8"),
        (b'"name\n', "expected a row with the names of the columns"),
        (",".join(f"extras-{n}" for n in range(1101)).encode(), "1100 columns at most, got 1102"),
        (b"\x1b[2J\n", "there is no field"),
    ],
)
def test_a_file_without_a_proper_header_is_refused(header: bytes, text: str) -> None:
    """As a whole, with what is wrong in the first line."""
    with pytest.raises(Unreadable) as error:
        read_header(io.BytesIO(header + b"x,y\n"), COLUMNS)
    assert text in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_wrong_row_does_not_hide_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few cells, a byte that is no text, a quote that is not closed, a row that never ends."""
    monkeypatch.setattr(rows, "LINE_MAX", 1000)
    long = b"x" * 5000
    data = b"name,surname\nA\nB,\xff\nC,D\n" + long + b",E\nF,G\n" + b'"H,I\n' + b'J,"K" L\nM,N'
    found = [(row.line, row.value, row.error[:30]) for row in read(data)]
    assert found == [
        (2, {}, "expected 2 cells as in line 1,"),
        (3, {}, "not UTF-8"),
        (4, {"name": "C", "surname": "D"}, ""),
        (5, {}, "not CSV: more than 1048576 byt"),
        (6, {"name": "F", "surname": "G"}, ""),
        (7, {}, "not CSV: ',' expected after '\""),
        (8, {}, "not CSV: ',' expected after '\""),
        (9, {"name": "M", "surname": "N"}, ""),
    ]


def test_a_quote_that_is_never_closed_costs_one_row() -> None:
    """Not the rest of the file."""
    text = "name\nA\n" + '"B\n' + "C\n" * 2500
    found = _rows(text)
    assert [row.line for row in found if row.error] == [3]
    assert len(found) == 2502


def _rows(text: str) -> list[Row]:
    file = io.BytesIO(text.encode())
    return list(csv_rows(file, 0, 0, read_header(file, COLUMNS)))


def test_json_lines_are_read_likewise() -> None:
    """With the line of what is wrong."""
    file = io.BytesIO(b'\xef\xbb\xbf{"name": "a"}\n\n{"name"\n{"a": 1, "a": 2}\n[1]')
    found = [(row.line, row.value, bool(row.error)) for row in json_rows(file, 0, 0)]
    assert [(line, wrong) for line, _, wrong in found] == [
        (1, False), (3, True), (4, True), (5, False),
    ]  # fmt: skip
