"""What the config finds in the files of apps: JSON that is none, names that require() does not
give.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config.json_values import json_error
from supervisor.config.requires import required, unmet

from .reading import APP, CHANNEL, read

TOOLKIT = "var vumigo = require('vumigo_v02');\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", (1, 1)),
        ('{\n  "a": 1\n  "b": 2}', (3, 3)),
        ("{'a': 1}", (1, 2)),
        ('{"NaN": "Infinity",\n "a": -Infinity}', (2, 7)),
        ("[1, NaN]", (1, 5)),
        ('"\t"', (1, 2)),
        ("// a comment\n{}", (1, 1)),
        ("[" * 100_000, (1, 0)),
    ],
)
def test_what_is_not_json_has_its_place(text: str, place: tuple[int, int]) -> None:
    error = json_error(text)
    assert error is not None
    assert error[:2] == place


@pytest.mark.parametrize("text", ["1" * 5000, "null", '{"a": "\\ud83d"}', " [1e999] ", '"NaN"'])
def test_what_javascript_reads_is_json(text: str) -> None:
    assert json_error(text) is None


def test_values_that_the_app_reads_as_json_are_checked(folder: Path) -> None:
    """Files *.json always; `config` and translations if the app uses a toolkit."""
    (folder / "survey.js").write_text(TOOLKIT)
    (folder / "own.json").write_text('{"name": "x",\n\n "a" 1}')
    (folder / "fine.txt").write_text("{not json")
    text = (
        APP
        + "config.greeting = '{not json'\n"
        + "config.mine = { file = 'own.json' }\n"
        + "config.text = { file = 'fine.txt' }\n"
        + "config.config = '''{\n\n}}'''\n"
        + "config.'translation.af' = { file = 'fine.txt' }\n"
        + CHANNEL
    )
    found = read(folder, text)
    assert [str(one).removeprefix(f"{folder}/") for one in found.breakages] == [
        "own.json:3:6: app survey: config.mine is not JSON: Expecting ':' delimiter",
        "jsbox.toml:10: app survey: config.config is not JSON: Extra data",
        (
            "fine.txt:1: app survey: config.translation.af is not JSON: Expecting property name"
            " enclosed in double quotes"
        ),
    ]
    assert not any("should be JSON" in one for one in found.warnings)
    (folder / "survey.js").write_text("// no toolkit: it may read them as it likes")
    found = read(folder, text)
    assert [one.file.name for one in found.breakages] == ["own.json"]
    assert any("should be JSON" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("var a = require('a'), b = require( \"b/c\" ), a2 = require('a');", ["a", "b/c"]),
        ("// require('a')\n/* require('b')\n require('c') */ require('@s/d')", ["@s/d"]),
        ("var s = \"require('a')\", t = 'it\\'s'; require('b')", ["b"]),
        ("x.require('a'); $require('b'); required('c'); require(name); require('d' + e)", []),
        ("var url = 'http://x'; require('a')", ["a"]),
        ("s.replace(/'/g, '');\nrequire('a')", ["a"]),
        ("require('node:crypto')", ["node:crypto"]),
        ("(function e(t,n,r){})({1:[function(require,module,exports){require('./x')}]})", []),
        ("define(function (require) { require('a'); })", []),
        ("[(require, module) => { require('a'); }]", []),
        ("var require = null; require('a')", []),
        ("if (typeof require === 'function') { require('a'); }", ["a"]),
    ],
)
def test_literal_names_are_found_and_no_others(source: str, names: list[str]) -> None:
    assert required(source) == names


def test_each_name_that_gives_null_has_its_remedy(folder: Path) -> None:
    modules = folder / "node_modules"
    (modules / "@me" / "tools").mkdir(parents=True)
    (modules / "mine").mkdir()
    names = [
        "q", "mine", "@me/tools/sub", "left-pad", "@x/y/z", "jed", "crypto", "node:url", "url",
        "fs", "fs/promises", "node:sea", "./x",
    ]  # fmt: skip
    (folder / "survey.js").write_text("\n".join(f"require('{name}');" for name in names))
    text = APP + 'modules = ["q", "node:url"]\nmodules_dir = "node_modules"\n' + CHANNEL
    app = read(folder, text).apps["survey"]
    assert app.modules == ("q", "url")
    said = [line.removeprefix("require('").split("') gives null: ") for line in unmet(app)]
    of_node = "apps cannot have this module of Node's"
    install = f"and run `npm install --prefix {folder}"
    assert said == [
        ["mine", 'add "mine" to its modules'],
        ["@me/tools/sub", 'add "@me/tools/sub" to its modules'],
        ["left-pad", f'add "left-pad" to its modules, {install} left-pad`'],
        ["@x/y/z", f'add "@x/y/z" to its modules, {install} @x/y`'],
        ["jed", 'add "jed" to its modules'],
        ["crypto", 'add "crypto" to its modules'],
        ["fs", of_node],
        ["fs/promises", of_node],
        ["node:sea", of_node],
        ["./x", "an app is one file: put that file into it, with a bundler"],
    ]
    app = read(folder, APP + CHANNEL).apps["survey"]
    line = next(line for line in unmet(app) if "left-pad" in line)
    assert "run `npm install left-pad`, and set its modules_dir to that node_modules" in line
