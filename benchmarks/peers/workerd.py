"""The survey app in workerd: in one isolate, or in a fresh one for each message."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from attrs import define, field, frozen

from ..speed.drive import REPLIES, STEPS
from ..speed.measure import CONFIG, HARNESS, SURVEY, TICK

ESBUILD = Path(__file__).parents[2] / "console" / "node_modules" / ".bin" / "esbuild"
WORKER = Path(__file__).parent / "worker.mjs"
MODULES = ("vumigo_v02", "lodash", "moment")
AT_ONCE = 5 * len(STEPS)  # messages a request
FRESH_AT_ONCE = 1  # the same, if each has an isolate of its own
SECONDS = 30.0  # for a request, and for the start

CONFIG_TEXT = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [
      (name = "main.js", esModule = embed "main.js"),
      (name = "app.js", commonJsModule = embed "app.js"),
    ],
    bindings = [
      (name = "LOADER", workerLoader = ()),
      (name = "MAIN", text = embed "main.js"),
      (name = "APP", text = embed "app.js"),
    ],
    compatibilityDate = "2026-01-01",
    compatibilityFlags = [
      "nodejs_compat", "allow_insecure_inefficient_logged_eval", "experimental",
    ],
  ))],
  sockets = [(name = "http", service = "main")],
);
"""


@frozen
class Spent:
    """Messages, the seconds that they took, of which CPU, and MiB of memory at most."""

    messages: int
    seconds: float
    cpu: float
    memory: float


@define
class Workerd:
    """A running one."""

    _process: subprocess.Popen[bytes]
    _client: httpx2.Client
    _done: int = field(default=0, init=False)
    _kv: dict[str, str] = field(factory=dict, init=False)

    def handle(self, seconds: float, *, is_fresh: bool) -> Spent:
        """Handle messages for some seconds. `is_fresh`: each in an isolate of its own."""
        began, cpu, first = time.perf_counter(), self._cpu(), self._done
        while time.perf_counter() < began + seconds:
            self.handle_some(FRESH_AT_ONCE if is_fresh else AT_ONCE, is_fresh=is_fresh)
        took = time.perf_counter() - began
        return Spent(self._done - first, took, self._cpu() - cpu, self._memory())

    def handle_some(self, count: int, *, is_fresh: bool) -> None:
        """Handle some messages. Raises if the app does not reply as it should."""
        body = {"from": self._done, "count": count, "kv": self._kv}
        body |= {"replies": REPLIES, "fresh": is_fresh}
        answer = self._client.post("/", json=body)
        if answer.status_code != httpx2.codes.OK:
            raise SystemExit(f"workerd answered {answer.status_code}: {answer.text}")
        self._done += count
        # Of a user who has ended there is nothing to hand over.
        self._kv = answer.json() if self._done % len(STEPS) else {}

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def _memory(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def serve(program: str, folder: Path) -> Iterator[Workerd]:
    """Run workerd; `folder` is for its files."""
    _bundle(folder)
    (folder / "config.capnp").write_text(CONFIG_TEXT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = (program, "serve", "--experimental", f"--socket-fd=http={listener.fileno()}")
        process = subprocess.Popen(
            (*argv, str(folder / "config.capnp")),
            pass_fds=(listener.fileno(),),
            stderr=subprocess.DEVNULL,  # it logs each template that is compiled
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
            yield Workerd(process, client)
    finally:
        process.kill()
        process.wait()


def _bundle(folder: Path) -> None:
    """Put toolkit and app into one file, beside the worker."""
    modules = ", ".join(f"{name}: require({name!r})" for name in MODULES)
    source = folder / "source.cjs"
    source.write_text(
        f"const modules = {{ {modules} }};\n"
        "const load = (name) => modules[name] ?? null;\n"
        f"exports.config = {json.dumps(CONFIG)};\n"
        "exports.start = (api) => { start.call({ api }, api, load); };\n"
        f"function start(api, require) {{\n{SURVEY.read_text()}\n}}\n"
    )
    argv = (str(ESBUILD), str(source), "--bundle", "--platform=node", "--log-level=error")
    subprocess.run(
        (*argv, f"--outfile={folder / 'app.js'}"),
        env=os.environ | {"NODE_PATH": str(HARNESS / "node_modules")},
        check=True,
    )
    shutil.copy(WORKER, folder / "main.js")
