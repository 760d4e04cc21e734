"""The config of `jsbox dev`: one app, on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from attrs import evolve, field, frozen

from ..config import (
    Account,
    Address,
    App,
    Channel,
    Config,
    Http,
    InvalidConfig,
    Problem,
    load,
)
from ..config.checks import check
from ..config.document import read_toml
from ..config.files import FILE_MAX, Unreadable, read_text
from ..config.json_values import not_json
from ..config.load import CONFIG_MAX
from ..config.model import Isolation, Level
from ..config.node import BUILTINS, TOOLKITS
from ..config.source_maps import source_map_of
from ..config.units import Natural
from .gruntfile import Gruntfile

TOML = "jsbox.toml"
CONFIGS_SHOWN = 10


@frozen
class Value:
    """A config value given with --set: the text, or the file that has it."""

    key: str
    text: str
    file: Path | None = None

    def read(self) -> str:
        """Return the text. Raises OSError and UnicodeDecodeError."""
        return self.text if self.file is None else self.file.read_text("utf-8-sig")


@frozen
class Options:
    """The options of the command line.

    Attributes:
        app: The JavaScript file; or the jsbox.toml or Gruntfile.js that has the app.
        name: Which of the apps of a jsbox.toml or Gruntfile.js; empty: the only one.
        port: Of the console; 0: any.
        stubs: A file with the stubs of back ends.
        inspect: The port for a debugger; None: there is none.
        gruntfile: What builds the app, if `app` is a Gruntfile.js.
    """

    app: Path
    config: Path | None
    values: tuple[Value, ...]
    modules_dir: Path | None
    state: Path
    allow: tuple[str, ...]
    isolation: Level
    name: str = ""
    connect_to: dict[str, str] = field(factory=dict)
    gruntfile: Gruntfile | None = None
    port: int = 0
    stubs: Path | None = None
    inspect: int | None = None

    @property
    def is_toml(self) -> bool:
        """Whether the app is one of a jsbox.toml."""
        return self.app.suffix == ".toml"


def find_app(given: Path) -> Path | None:
    """The app that a file or folder stands for; None if a folder has none."""
    if not given.is_dir():
        return given
    candidates = [given / TOML, given / "app.js"]
    try:
        package = json.loads((given / "package.json").read_text("utf-8-sig"))
        main = package["main"]
        candidates.insert(1, given / main if main.endswith(".js") else given / f"{main}.js")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return next((file for file in candidates if file.is_file()), None)


def find_modules(app: Path) -> Path | None:
    """The node_modules nearest to an app."""
    folders = (parent / "node_modules" for parent in app.absolute().parents)
    return next((folder for folder in folders if folder.is_dir()), None)


def make_config(options: Options) -> Config:
    """Make the config for one app on one channel. Raises InvalidConfig."""
    app, account = _of_toml(options) if options.is_toml else _of_file(options)
    files: dict[str, Path | None] = {one.key: one.file for one in options.values}
    if options.config is not None:
        files.setdefault("config", options.config)

    def place(key: str) -> tuple[Path, int]:
        if options.is_toml and key not in files:
            return place_in_toml(options.app, app.name, key)
        return files.get(key) or Path(f"--set {key}"), 1

    made = Config(
        data_dir=options.state,
        isolation=Isolation(options.isolation),
        accounts={app.account: account},
        apps={app.name: app},
        channels={"phone": Channel("phone", app=app.name, transport_type="ussd")},
        breakages=tuple(not_json(app, place)),
    ).with_listen(Address("127.0.0.1", 0), Address("127.0.0.1", options.port))
    declared = {"apps": frozenset({app.name}), "channels": frozenset({"phone"})}
    made, problems, _ = check(made, declared)
    if problems:
        raise InvalidConfig(
            options.app,
            [Problem(1, f"{'.'.join(map(str, path))}: {text}") for path, text in problems],
        )
    return made


def _of_toml(options: Options) -> tuple[App, Account]:
    """The app as the service would run it, but for where it sends: everything goes to the phone."""
    config = load(options.app)
    if options.name not in config.apps and (options.name or len(config.apps) != 1):
        known = ", ".join(config.apps) or "none"
        asked = f"there is no app {options.name!r}; " if options.name else "choose one with --app: "
        raise InvalidConfig(options.app, [Problem(1, f"{asked}it has {known}")])
    app = config.apps[options.name or next(iter(config.apps))]
    http = evolve(
        app.http,
        allow=(*app.http.allow, *options.allow),
        connect_to={**app.http.connect_to, **options.connect_to},
    )
    app = evolve(
        app,
        config={**app.config, **_values(options)},
        endpoints=dict.fromkeys(["default", *app.endpoints], "phone"),
        modules_dir=options.modules_dir or app.modules_dir,
        pool=evolve(app.pool, min_idle=Natural(0)),
        http=http,
    )
    return app, config.account(app.account)


def place_in_toml(file: Path, app: str, key: str) -> tuple[Path, int]:
    """The file that a config value of a jsbox.toml is in, and the line that it begins on."""
    document, lines = read_toml(file, CONFIG_MAX)
    value = document["apps"][app]["config"][key]
    if isinstance(value, dict):
        return file.parent / value["file"], 1
    return file, lines.get(("apps", app, "config", key), 1)


def _of_file(options: Options) -> tuple[App, Account]:
    file, source, source_map = _text_of(options)
    values = {"config": json.dumps({"name": file.stem}), **_values(options)}
    own = _packages(options.modules_dir) if options.modules_dir else ()
    app = App(
        name="app",
        account="dev",
        javascript=file,
        source=source,
        source_map=source_map,
        modules=(*dict.fromkeys(("vumigo_v01", *TOOLKITS, *BUILTINS, *own)),),
        modules_dir=options.modules_dir,
        config=values,
        endpoints=_endpoints(values["config"]),
        http=Http(allow=options.allow, connect_to=options.connect_to),
    )
    return app, Account(can_manage_optouts=True)


def _text_of(options: Options) -> tuple[Path, str, str]:
    """The file of an app, its text and source map. Raises InvalidConfig."""
    if options.gruntfile is not None:
        built = options.gruntfile.bundle(options.name)
        return options.app.parent / built.dest, built.text, built.map
    try:
        source = read_text(options.app, FILE_MAX)
    except Unreadable as error:
        raise InvalidConfig(options.app, [Problem(1, f"cannot be read: {error}")]) from error
    return options.app, source, source_map_of(options.app, source)


def no_config(options: Options, name: str) -> str:
    """A note on which config the app has, as none was given, and which ones there are."""
    note = f'note: no --config, so the config is {{"name": "{name}"}}'
    folder = options.app.parent / "config"
    found = sorted(folder.glob("*.json"))[:CONFIGS_SHOWN]
    if not found:
        return note
    return f"{note}; {folder} has {', '.join(one.name for one in found)}"


def _values(options: Options) -> dict[str, str]:
    """The config values of the command line. Raises InvalidConfig."""
    try:
        given = {"config": options.config.read_text("utf-8-sig")} if options.config else {}
        return given | {one.key: one.read() for one in options.values}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(options.app, [Problem(1, f"cannot be read: {error}")]) from error


def files_of(options: Options) -> Iterator[Path]:
    """The files that make the app what it is."""
    given = (options.app, options.config, options.stubs, *(one.file for one in options.values))
    yield from (file for file in given if file is not None)
    if options.gruntfile is not None:
        yield from options.gruntfile.watched
    elif not options.is_toml:
        yield options.app.with_name(f"{options.app.name}.map")
    if options.is_toml:
        try:
            document, _ = read_toml(options.app, CONFIG_MAX)
        except InvalidConfig:
            return
        yield from (options.app.parent / name for name in _named_files(document.get("apps")))


def _named_files(raw: object) -> Iterator[str]:
    """The names of files in the apps of a jsbox.toml that may still have errors."""
    for app in raw.values() if isinstance(raw, dict) else ():
        if not isinstance(app, dict):
            continue
        if isinstance(app.get("javascript"), str):
            yield app["javascript"]
            yield f"{app['javascript']}.map"
        values = app.get("config")
        for value in values.values() if isinstance(values, dict) else ():
            if isinstance(value, dict) and isinstance(value.get("file"), str):
                yield value["file"]


def _packages(modules_dir: Path) -> list[str]:
    """The names of the packages in a node_modules, scoped ones (@scope/name) too."""
    names = sorted(
        folder.name for folder in modules_dir.iterdir() if not folder.name.startswith(".")
    )
    plain = [name for name in names if not name.startswith("@")]
    scopes = [name for name in names if name.startswith("@")]
    return plain + [
        f"{scope}/{folder.name}"
        for scope in scopes
        if (modules_dir / scope).is_dir()
        for folder in sorted((modules_dir / scope).iterdir())
    ]


def _endpoints(config: str) -> dict[str, str]:
    """Connect the app's endpoints to the phone: "default", "sms" and those in its JSON config."""
    try:
        parsed = json.loads(config)
    except json.JSONDecodeError:
        parsed = None
    named = parsed.get("endpoints") if isinstance(parsed, dict) else None
    tag = parsed.get("sms_tag") if isinstance(parsed, dict) else None
    names = ["default", "sms", *(named if isinstance(named, dict) else ())]
    if isinstance(tag, list):
        names.append(":".join(map(str, tag)))
    return dict.fromkeys(names, "phone")
