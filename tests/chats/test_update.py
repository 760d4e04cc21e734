"""What the app said replaces what was expected, and nothing else in the file changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from supervisor.chats.reading import load_chat
from supervisor.chats.update import rewrite, toml, update

TEXT = """# comment
steps = [
  { dial = "1", expect = "" }, # one
  { send = "2", expect = \'two\', expect_end = true },
]
"""
TABLES = """[[steps]]
dial = "1"
expect = \"\"\"
a
b\"\"\"   # comment
[[steps]]
send = "x"
expect_end = true # so
"""


def test_inline_tables(tmp_path: Path) -> None:
    file = tmp_path / "a.chat.toml"
    file.write_text(TEXT)
    rewrite(file, {("steps", 0, "expect"): 'He said "1"\n2', ("steps", 1, "expect_end"): False})
    changed = TEXT.replace('expect = ""', r'expect = "He said \"1\"\n2"').replace("true", "false")
    assert file.read_text() == changed


def test_tables_and_texts_of_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.chat.toml"
    file.write_text(TABLES)
    rewrite(file, {("steps", 0, "expect"): "c", ("steps", 1, "expect_end"): False})
    changed = TABLES.replace('"""\na\nb"""', '"c"').replace("true", "false")
    assert file.read_text() == changed


def test_byte_order_mark_and_line_ends_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.chat.toml"
    file.write_bytes(b"\xef\xbb\xbf" + TABLES.replace("\n", "\r\n").encode())
    rewrite(file, {("steps", 1, "expect_end"): False})
    changed = TABLES.replace("true", "false").replace("\n", "\r\n")
    assert file.read_bytes() == b"\xef\xbb\xbf" + changed.encode()


def test_a_file_that_has_changed_is_left_alone(tmp_path: Path) -> None:
    """Its first step is another one now, or it has an error, or is gone."""
    file = tmp_path / "a.chat.toml"
    file.write_text(TABLES)
    chat, words = load_chat(file), {("steps", 1, "expect_end"): False}
    inserted = TABLES.replace("[[steps]]", '[[steps]]\ndial = "0"\n[[steps]]', 1)
    for text in (inserted, TABLES + "[[", TABLES.replace("[[steps]]\nsend", "[other]\nsend")):
        file.write_text(text)
        assert update(chat, words).startswith("it was changed while it was played")
        assert file.read_text() == text
    file.unlink()
    assert "changed" in update(chat, words)
    file.write_text(f"# more\n{TABLES}")
    assert update(chat, words) == ""
    assert file.read_text() == "# more\n" + TABLES.replace("true", "false")


@pytest.mark.parametrize("text", ["\x00\x1f\x7f", 'a"\\', "\u2028é😀", "\t\r\n", ""])
def test_any_text_comes_back(text: str) -> None:
    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}
