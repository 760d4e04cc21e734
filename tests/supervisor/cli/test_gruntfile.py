"""What a Gruntfile.js builds, without grunt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from supervisor.cli.dev_config import Options, files_of, make_config
from supervisor.cli.gruntfile import Bundle, Gruntfile, find_gruntfile
from supervisor.config import Config, InvalidConfig
from supervisor.host.version import node_path

NODE = node_path(Config())
SOURCES = {"src/index.js": "var go = {};", "src/app.js": "go.a = 1;\ngo.b;", "src/init.js": "go;"}
WHOLE = "var go = {};\ngo.a = 1;\ngo.b;\ngo;"
MANY = """\
module.exports = function (grunt) {
    require('time-grunt')(grunt);
    require('load-grunt-tasks')(grunt, {pattern: 'grunt-*'});
    var paths = require('./paths');
    grunt.log.writeln('building' + grunt.option('target'));
    console.log('this is no answer');
    grunt.initConfig({
        pkg: grunt.file.readJSON('package.json'),
        paths: paths,
        watch: {src: {files: ['<%= paths.src.all %>'], tasks: ['build']}},
        concat: {
            options: {banner: '/* <%= pkg.name %>,\\n <%= grunt.template.today("yyyy") %> */\\n'},
            one: {src: ['<%= paths.src.one %>'], dest: '<%= paths.dest.one %>'},
            two: {
                options: {separator: ';\\n', banner: ''},
                files: {'<%= paths.dest.two %>': ['src/*.js', '!src/a*.js']},
            },
            'go-three.js': ['<%= paths.src.app %>', 'src/gone.js'],
            styles: {src: 'a.css', dest: 'all.css'},
        },
    });
    grunt.registerTask('default', ['concat', 'mochaTest']);
};
"""
PATHS = """\
module.exports = {
    src: {
        app: 'src/app.js', all: ['src/**/*.js'],
        one: ['src/index.js', '<%= paths.src.app %>', ['src/init.js']],
    },
    dest: {one: 'go-<%= pkg.name %>.js', two: 'build/go-two.js'},
};
"""


def repository(folder: Path, gruntfile: str, more: Mapping[str, str] = SOURCES) -> Gruntfile:
    for name, text in {"Gruntfile.js": gruntfile, **more}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return Gruntfile(folder / "Gruntfile.js", NODE)


def one(concat: str) -> str:
    return f"module.exports = function (grunt) {{ grunt.initConfig({{concat: {concat}}}); }};"


@pytest.fixture
def many(tmp_path: Path) -> Gruntfile:
    more = {"package.json": '{"name": "one"}', "paths.js": PATHS}
    return repository(tmp_path, MANY, SOURCES | more)


def test_bundles_of_each_kind(many: Gruntfile) -> None:
    found = {bundle.name: bundle for bundle in many.bundles()}
    assert {name: bundle.dest for name, bundle in found.items()} == {
        "one": "go-one.js", "two": "build/go-two.js", "go-three": "go-three.js",
    }  # fmt: skip
    assert found["one"].text == f"/* one,\n  */\n{WHOLE}"
    assert found["two"].text == "var go = {};;\ngo;"
    assert found["go-three"].text.endswith("*/\ngo.a = 1;\ngo.b;")
    assert many.missing == ("src/gone.js",)


def test_an_app_is_found_by_its_name_or_file(many: Gruntfile) -> None:
    for name, target in (("two", "two"), ("go-two", "two"), ("build/go-two.js", "two"),
                         ("go-one.js", "one")):  # fmt: skip
        assert many.bundle(name).name == target
    with pytest.raises(InvalidConfig, match=r"choose one with --app: it builds one, two, go-three"):
        many.bundle("")
    with pytest.raises(InvalidConfig, match=r"no app 'four'; it builds one, two, go-three"):
        many.bundle("four")


def test_its_map_leads_to_the_sources(many: Gruntfile) -> None:
    """Line by line, the banner left out."""
    found = json.loads(many.bundle("one").map)
    assert found["sources"] == ["src/index.js", "src/app.js", "src/init.js"]
    assert found["mappings"] == ";;AAAA;ACAA;AACA;ACDA"


def test_all_that_it_depends_on_is_watched(many: Gruntfile) -> None:
    many.bundles()
    names = {str(file.relative_to(many.file.parent)) for file in many.watched}
    assert names == {"Gruntfile.js", "package.json", "paths.js", "src", *SOURCES, "src/gone.js"}


@pytest.mark.parametrize(
    "concat",
    [
        "{a: {src: ['src/index.js', 'src/app.js', 'src/init.js'], dest: 'go.js'}}",
        "{a: {files: [{cwd: 'src', src: ['index.js', 'app.js', 'init.js'], dest: 'go.js'}]}}",
        "{a: {src: 'src/{index,app,init}.js', dest: 'go.js', options: {process: (text) => text}}}",
    ],
)
def test_forms_of_a_target(concat: str, tmp_path: Path) -> None:
    found = repository(tmp_path, one(concat)).bundle("")
    assert sorted(found.text.split("\n")) == sorted(WHOLE.split("\n"))
    assert (found.name, found.dest) == ("a", "go.js")


@pytest.mark.parametrize(
    ("gruntfile", "expected"),
    [
        ("module.exports = {};", "1: expected module.exports = function"),
        ("\n\nmodule.exports = function (", "3: Unexpected"),
        ("module.exports = function (g) {\n  nope();\n};", "2: nope is not defined"),
        ("module.exports = function (g) { g.initConfig({}); };", "1: expected a concat task"),
        ("module.exports = function () { require('./gone'); };", "1: Cannot find module './gone'"),
        ("process.exit(1);", "1: it ended without an answer"),
        (one("{a: {src: '<%= concat.a.src %>', dest: 'a.js'}}"), "1: its templates refer"),
    ],
)
def test_what_is_wrong_is_at_its_line(gruntfile: str, expected: str, tmp_path: Path) -> None:
    made = repository(tmp_path, gruntfile)
    with pytest.raises(InvalidConfig) as found:
        made.bundle("")
    assert str(found.value).startswith(f"{made.file}:{expected}")
    assert made.file in made.watched


def test_one_that_builds_no_app_is_none(tmp_path: Path) -> None:
    repository(tmp_path, "module.exports = function (g) { g.initConfig({jshint: {}}); };")
    assert find_gruntfile(tmp_path, NODE) is None
    repository(tmp_path, "module.exports = function (")
    assert find_gruntfile(tmp_path, NODE) is not None


def test_dev_runs_what_it_builds_and_watches_its_sources(many: Gruntfile) -> None:
    options = Options(
        app=many.file, config=None, values=(), modules_dir=None, state=many.file.parent / "state",
        allow=(), isolation="none", name="two", gruntfile=many,
    )  # fmt: skip
    (app,) = make_config(options).apps.values()
    built: Bundle = many.bundle("two")
    assert (app.source, app.source_map) == (built.text, built.map)
    assert app.javascript == many.file.parent / "build" / "go-two.js"
    assert json.loads(app.config["config"]) == {"name": "go-two"}
    assert many.file.parent / "src" / "init.js" in set(files_of(options))
