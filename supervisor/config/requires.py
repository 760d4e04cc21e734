"""What the text of an app requires: the literal `require('...')` in it, against its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .model import App
from .node import BUILTINS, NODES_OWN

BUNDLED = Path(__file__).parents[2] / "sandbox_js" / "node_modules"

# Every pattern takes linear time, whatever the text: apps are read while others run.
_TOKEN = re.compile(
    r"""(?P<comment>/\*) | //[^\n]*+
    | (?<![\w$.])require\s*+\(\s*+(?P<quote>['"])(?P<name>[^'"\\\n]++)(?P=quote)\s*+\)
    | (?P<string>['"])""",
    re.VERBOSE,
)
_IN_STRING = {quote: re.compile(rf"(?:\\.|[^{quote}\\\n])*+", re.DOTALL) for quote in "'\""}
# A bundle with a `require` of its own: browserify, webpack, AMD.
_OWN = re.compile(
    r"""\bfunction\b\s*+[\w$]*+\s*+\((?:(?!\brequire\b)[^()])*+require\b
    | \b(?:var|let|const|function)\s++require\b
    | \(\s*+require\s*+[,)][^=\n(]*+=>""",
    re.VERBOSE,
)


def required(source: str) -> list[str]:
    """The names that an app requires, each once, in their order; none if it has a `require` of its
    own.
    """
    return [] if _OWN.search(source) else [*dict.fromkeys(_calls(source))]


def _calls(source: str) -> Iterator[str]:
    """The names in calls of `require`. Comments and strings are passed over, so that nothing in
    them counts.
    """
    at = 0
    last_comment_end = source.rfind("*/")
    # By quote: up to here it ends no string. An unclosed one may be part of a regular expression.
    unclosed = {"'": 0, '"': 0}
    while found := _TOKEN.search(source, at):
        at = found.end()
        if found["name"]:
            yield found["name"]
        elif found["comment"] and at <= last_comment_end:
            at = source.index("*/", at) + 2
        elif (quote := found["string"]) and at > unclosed[quote]:
            rest = _IN_STRING[quote].match(source, at)
            end = rest.end() if rest else at
            if source.startswith(quote, end):
                at = end + 1
            else:
                unclosed[quote] = end


def is_available(name: str, modules_dir: Path | None) -> bool:
    """Whether apps may have a module: Node's own, bundled, or in `modules_dir`."""
    package = package_of(name)
    places = [place for place in (modules_dir, BUNDLED) if place is not None]
    return name in BUILTINS or bool(
        package.strip(".") and any((place / package).exists() for place in places)
    )


def package_of(name: str) -> str:
    """The package that a required name is of."""
    return "/".join(name.split("/")[: 2 if name.startswith("@") else 1])


def line_of(source: str, names: Iterable[str]) -> int:
    """The first line that requires one of these names; 0 if none does."""
    wanted = set(names)
    if not wanted & set(required(source)):
        return 0
    called = re.compile(r"require\s*+\(\s*+['\"]([^'\"\\\n]++)['\"]\s*+\)")
    calls = (found for found in called.finditer(source) if found[1] in wanted)
    first = next(calls, None)
    return 0 if first is None else source.count("\n", 0, first.start()) + 1


def unmet(app: App) -> Iterator[str]:
    """A sentence for each name that an app requires and will get null for."""
    for name in required(app.source):
        if name.removeprefix("node:") not in app.modules and name not in app.modules:
            yield f"require({name!r}) gives null: {_remedy(app, name)}"


def _remedy(app: App, name: str) -> str:
    plain = name.removeprefix("node:")
    if plain in BUILTINS:
        return f'add "{plain}" to its modules'
    if name != plain or plain.split("/")[0] in NODES_OWN:
        return "apps cannot have this module of Node's"
    if name.startswith((".", "/")):
        return "an app is one file: put that file into it, with a bundler"
    package = package_of(name)
    if (BUNDLED / package).is_dir() or (app.modules_dir and (app.modules_dir / package).is_dir()):
        return f'add "{name}" to its modules'
    if app.modules_dir is None:
        return (
            f'add "{name}" to its modules, run `npm install {package}`,'
            " and set its modules_dir to that node_modules"
        )
    where = app.modules_dir
    folder = where.parent if where.name == "node_modules" else where
    return f'add "{name}" to its modules, and run `npm install --prefix {folder} {package}`'
