"""What the app said replaces what was expected, and nothing else in the file changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from supervisor.chats.update import rewrite, toml

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


@pytest.mark.parametrize("text", ["\x00\x1f\x7f", 'a"\\', "\u2028é😀", "\t\r\n", ""])
def test_any_text_comes_back(text: str) -> None:
    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}
