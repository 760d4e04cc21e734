"""The source map of an app: a file beside it that its text refers to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.config import load
from supervisor.config.source_maps import MAP_MAX, map_file, source_map_of

MAP = {
    "version": 3,
    "sources": ["../src/app.ts"],
    "sourcesContent": ["let a: number;"],
    "names": ["a"],
    "mappings": "AAAA",
}
KEPT = {"mappings": "AAAA", "sources": ["../src/app.ts"], "sourceRoot": None}
REFERENCE = "api.x = 1;\n//# sourceMappingURL=app.js.map\n"


@pytest.fixture
def javascript(tmp_path: Path) -> Path:
    (tmp_path / "app.js.map").write_text(json.dumps(MAP))
    return tmp_path / "app.js"


def test_it_is_kept_without_the_sources(javascript: Path) -> None:
    assert json.loads(source_map_of(javascript, REFERENCE)) == KEPT


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("//# sourceMappingURL=app.js.map", "app.js.map"),
        ("//@ sourceMappingURL=a%20b.map  \n\n", "a b.map"),
        ("//# sourceMappingURL=old.map\nx\n//# sourceMappingURL=new.map", "new.map"),
        ("//# sourceMappingURL=../up.map", None),
        ("//# sourceMappingURL=/etc/x.map", None),
        ("//# sourceMappingURL=%2e%2e%2fx.map", None),
        ("//# sourceMappingURL=app.json", None),
        ("//# sourceMappingURL=https://x.example/a.map", None),
        ("//# sourceMappingURL=data:application/json;base64,e30=", None),
        ("var a = 'sourceMappingURL=a.map';", None),
        ("", None),
    ],
)
def test_only_a_file_in_the_folder_of_the_app_counts(text: str, name: str | None) -> None:
    """The text may be somebody else's: it must not have other files read."""
    assert map_file(Path("/apps/app.js"), text) == (name and Path("/apps") / name)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "5", '{"mappings": 5}', '{"sources": []}', "\udc80",
        '{"mappings": "", "sources": [], "x": ' + "[" * 100_000,
        '{"sections": [{"offset": {}, "map": ' + '{"x":' * 100_000,
    ],
    ids=lambda text: ascii(text[:40]),
)  # fmt: skip
def test_what_is_no_map_is_none(text: str, javascript: Path) -> None:
    javascript.with_name("app.js.map").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert source_map_of(javascript, REFERENCE) == ""
    javascript.with_name("app.js.map").unlink()
    assert source_map_of(javascript, REFERENCE) == ""


def test_one_that_is_too_large_is_none(javascript: Path) -> None:
    large = json.dumps(MAP | {"mappings": "A" * MAP_MAX})
    javascript.with_name("app.js.map").write_text(large)
    assert source_map_of(javascript, REFERENCE) == ""


def test_a_map_of_sections(javascript: Path) -> None:
    sections = [{"offset": {"line": 1, "column": 0}, "map": MAP}]
    javascript.with_name("app.js.map").write_text(json.dumps({"version": 3, "sections": sections}))
    kept = json.loads(source_map_of(javascript, REFERENCE))
    assert kept == {"sections": [{"offset": {"line": 1, "column": 0}, "map": KEPT}]}


def test_a_config_has_it_and_a_new_one_is_a_new_generation(javascript: Path) -> None:
    """The lines of the source move without the text that is run."""
    javascript.write_text(REFERENCE)
    file = javascript.with_name("jsbox.toml")
    file.write_text('[accounts.a]\n[apps.x]\naccount = "a"\njavascript = "app.js"\n')
    before = load(file).apps["x"]
    assert json.loads(before.source_map) == KEPT
    javascript.with_name("app.js.map").write_text(json.dumps(MAP | {"mappings": "AAEA"}))
    after = load(file).apps["x"]
    assert (after.digest, after.generation != before.generation) == (before.digest, True)
