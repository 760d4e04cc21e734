"""`jsbox new`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import click

from .common import fail

TEMPLATES = Path(__file__).parents[1] / "extras" / "new"
NAME = "@NAME@"
NAME_MAX = 50  # characters
Kind = Literal["vumigo", "bare", "typescript"]

BUILD = """\
npm install        # esbuild and the TypeScript compiler
npm run build      # makes dist/app.js of src/app.ts; `npm run watch`: at every save
"""
README = """\
# {name}

An app for [jsbox]: {what}.

```sh
{build}jsbox dev          # a phone in the terminal; what you save is there at once
jsbox test         # holds the conversations in tests/
jsbox check        # looks at jsbox.toml and the app
jsbox serve        # serves it
```

| file | |
|---|---|
{files}

[jsbox]: docs/first-app.md, docs/toolkit.md, docs/testing.md and docs/resources.md of its source
"""
WHAT: Mapping[Kind, str] = {
    "vumigo": "a USSD menu on the toolkit vumigo_v02",
    "bare": "without a toolkit",
    "typescript": "without a toolkit, in TypeScript",
}
FILES: Mapping[Kind, Mapping[str, str]] = {
    "vumigo": {
        "app.js": "the app",
        "config.json": "its config, `self.im.config`",
        "translations/af.json": "its texts in Afrikaans",
        "jsbox.toml": "how it is served",
        "tests/": "conversations that it should hold",
    },
    "bare": {
        "app.js": "the app",
        "jsbox.toml": "how it is served, and its config",
        "tests/": "conversations that it should hold",
    },
    "typescript": {
        "src/app.ts": "the app",
        "src/jsbox.d.ts": "what the sandbox gives it: `jsbox types > src/jsbox.d.ts`",
        "package.json": "how it is built: one file, with a source map",
        "jsbox.toml": "how it is served, and its config",
        "tests/": "conversations that it should hold",
    },
}
IGNORED = ("node_modules/", "dist/", "jsbox-data/")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--bare", is_flag=True, help="Without a toolkit: only `api`.")
@click.option("--typescript", is_flag=True, help="Likewise, in TypeScript, built with esbuild.")
def new(folder: Path, bare: bool, typescript: bool) -> None:
    """Make the folder of a new app: the app, its config, translations, tests, a README.

    By default it is a USSD menu on the toolkit vumigo_v02, which comes with jsbox. Nothing is ever
    overwritten.
    """
    if bare and typescript:
        raise click.UsageError("expected one of --bare and --typescript, got both")
    kind: Kind = "typescript" if typescript else "bare" if bare else "vumigo"
    files = dict(_files(kind, _name_of(folder)))
    if taken := [name for name in files if (folder / name).exists()]:
        fail(f"{folder} has {', '.join(sorted(taken))} already; nothing was written")
    try:
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as out:
                out.write(text)
    except OSError as error:
        fail(f"cannot write {error.filename or folder}: {error.strerror}")
    click.echo(f"made {folder}: {', '.join(sorted(files))}")
    build = "npm install && npm run build && " if kind == "typescript" else ""
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"next: {there}{build}jsbox test && jsbox dev")


def _name_of(folder: Path) -> str:
    """The app's name: that of the folder, as far as a config can have it."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_")
    return name[:NAME_MAX] or "app"


def _files(kind: Kind, name: str) -> Iterator[tuple[str, str]]:
    """The files of an app, by their names in its folder."""
    template = TEMPLATES / kind
    for file in sorted(template.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(template)), file.read_text("utf-8").replace(NAME, name)
    if kind == "typescript":
        from .types import declarations

        yield "src/jsbox.d.ts", declarations()
    rows = "\n".join(f"| `{file}` | {text} |" for file, text in FILES[kind].items())
    build = BUILD if kind == "typescript" else ""
    yield "README.md", README.format(name=name, what=WHAT[kind], build=build, files=rows)
    yield ".gitignore", "".join(f"{line}\n" for line in IGNORED)
