"""`jsbox dev --install`: the packages that an app requires, in a folder of our own. That of the app
stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..config import InvalidConfig, Problem
from ..config.model import App
from ..config.node import BUILTINS, NODES_OWN
from ..config.requires import is_available, package_of, required

SECONDS = 600.0  # that npm may take
PARENTS = 4  # folders in which the package.json of an app is looked for
OPTIONS = (
    "--no-audit", "--no-fund", "--no-package-lock", "--no-update-notifier", "--loglevel=error",
    "--logs-max=0",
    "--ignore-scripts",  # what they would build is native code, which no sandbox loads
    "--install-links",  # a sandbox reads nothing outside the folder
)  # fmt: skip


def packages_of(app: App) -> list[str]:
    """The packages that an app requires besides what comes with jsbox."""
    names = [name for name in required(app.source) if not name.startswith((".", "/", "node:"))]
    wanted = dict.fromkeys(package_of(name) for name in names)
    own = [name for name in wanted if name not in BUILTINS and name not in NODES_OWN]
    return [name for name in own if not is_available(name, None)]


def missing(app: App) -> list[str]:
    """Those of them that its modules_dir does not have."""
    return [name for name in packages_of(app) if not is_available(name, app.modules_dir)]


def folder_for(app: App) -> Path:
    """Where the packages of an app are put."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "jsbox" / "dev" / hashlib.sha256(str(app.javascript).encode()).hexdigest()[:16]


def specifications(app: App) -> Iterator[str]:
    """What npm is to install: each package, in the version of the app's package.json."""
    file, versions = _versions(app.javascript.parent)
    for name in packages_of(app):
        version = versions.get(name, "")
        if version.startswith("file:"):
            version = f"file:{file.parent / version.removeprefix('file:')}"
        yield f"{name}@{version}" if version else name


def _versions(folder: Path) -> tuple[Path, dict[str, str]]:
    """The package.json nearest to a folder, and the versions that it asks for."""
    for parent in (folder, *folder.parents)[:PARENTS]:
        file = parent / "package.json"
        try:
            found = json.loads(file.read_text("utf-8-sig"))
            tables = [found.get("devDependencies", {}), found.get("dependencies", {})]
            return file, {key: one for table in tables for key, one in table.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return folder / "package.json", {}


def install(app: App, folder: Path, node: Path) -> Path:
    """Install all that an app requires; return the node_modules.

    Raises:
        InvalidConfig: npm cannot be run, or fails.
    """
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node), str(npm)] if npm.is_file() else ["npm"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    command += ["install", "--prefix", str(folder), *OPTIONS, *specifications(app)]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _failed(app, f"it was not done in {SECONDS:g} s") from None
    except OSError as error:
        raise _failed(app, f"npm cannot be run: {error}") from error
    if done.returncode:
        raise _failed(app, done.stderr.strip()[-2000:])
    return folder / "node_modules"


def _failed(app: App, text: str) -> InvalidConfig:
    return InvalidConfig(app.javascript, [Problem(1, f"--install: {text}")])
