"""CONTRIBUTING.md is true: the paths and names in it exist, and every folder is in its picture.

And neither pages nor code have lines over 100 columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PICTURE, WAY = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PROSE = TEXT.replace(PICTURE, "").replace(WAY, "")
FILE, FOLDER = r"(?<![\w/])\w+\.(?:py|js|lua|c)\b", r"(?<![\w/])\w+/(?=[\s:]|$)"
SOURCES = ("supervisor", "resources", "sandbox_js", "tests")
IGNORED = {"__pycache__", "node_modules", "web"}  # web: built from console/
# Python, too: Ruff does not measure a `noqa` or `type: ignore` at a line's end. Not JSON, which
# programs write: lock files, the dashboard, recorded cases.
CODE = {".c", ".css", ".html", ".js", ".jsx", ".lua", ".py", ".toml", ".yml"}


def _pictured() -> tuple[set[str], set[str]]:
    """The folders and the files of the picture, as paths."""
    folders, files, at = set[str](), set[str](), {-1: ""}
    for line in PICTURE.splitlines():
        depth = len(line) - len(line.lstrip())
        at = {level: folder for level, folder in at.items() if level < depth}
        within = at[max(at)]
        name, _, rest = line.strip().partition(" ")
        if name.endswith("/"):
            at[depth] = within = within + name
            folders.add(within)
            folders |= {within + inner for inner in re.findall(FOLDER, rest)}
        files |= {within + file for file in re.findall(FILE, line)}
    return folders, files


def test_the_picture_shows_what_is_there() -> None:
    """Every folder and file in it exists."""
    folders, files = _pictured()
    assert [name for name in folders if not (ROOT / name).is_dir()] == []
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert len(files) > 60


def test_every_folder_is_in_the_picture() -> None:
    """Those directly in the four trees."""
    there = {
        f"{tree}/{folder.name}/"
        for tree in SOURCES
        for folder in (ROOT / tree).iterdir()
        if folder.is_dir() and folder.name not in IGNORED and any(folder.iterdir())
    }
    assert there - _pictured()[0] == set()


def test_every_path_in_it_exists() -> None:
    """What is quoted or linked and looks like a path; in the second picture, every file."""
    links = re.findall(r"\]\(([^)]+)\)", PROSE)
    quoted = {*links, *re.findall(r"`(\.?[\w./]+/[\w./]*|\.?\w+\.md)`", PROSE)}
    assert [path for path in quoted if not (ROOT / path).exists()] == []
    assert len(quoted) > 30
    for path in re.findall(r"[\w/]+\.py", WAY):
        homes = (ROOT, ROOT / "supervisor", ROOT / "supervisor/gateway")
        assert any((home / path).is_file() for home in homes), path


def test_every_name_in_it_is_where_it_says() -> None:
    """`path`: `Name` and the names that follow it."""
    found = re.findall(r"`([\w./]+)`: ((?:(?:, | \([^)]*\), |, else )?`[\w.]+`)+)", PROSE)
    assert len(found) > 15
    for path, names in found:
        text = (ROOT / path).read_text("utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            definition = rf"\b(?:def|class|function) {last}\b|^{last}\b"
            assert re.search(definition, text, re.MULTILINE), (path, name)


def test_prose_has_100_columns() -> None:
    """In every page; a row of a table and a long address may be longer."""
    long = [
        f"{page.name}:{number}"
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        if len(line) > 100 and not line.startswith("|") and "://" not in line
    ]
    assert long == []


def _code(folder: Path) -> Iterator[Path]:
    """The files of code in a folder, at any depth."""
    for path in folder.iterdir():
        if path.suffix in CODE:
            yield path
        elif path.is_dir() and path.name not in IGNORED:
            yield from _code(path)


def test_code_has_100_columns() -> None:
    """In every language; a tab is 8 columns."""
    trees = (*SOURCES, "benchmarks", "console", "packaging")
    files = [ROOT / "pyproject.toml", *(file for tree in trees for file in _code(ROOT / tree))]
    long = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if len(line.expandtabs(8)) > 100
    ]
    assert long == []
    assert {file.suffix for file in files} == CODE
