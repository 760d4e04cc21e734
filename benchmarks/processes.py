"""What a server of several processes costs and carries: `python -m benchmarks.processes [ROUNDS]`.

Two apps at a fixed rate, with 1, 2 and 3 processes in turns: the survey of benchmarks.speed, which
computes, and one that waits 200 ms for a back end. For each: CPU time a message, of all server
processes together, of Node and of the store, and its ratio to that of one process in the same
round; and what the service uses when nothing happens, which is taken off before. Rates say little
where other programs run; CPU time depends less on them.

From that follow the last lines: how many messages a second one process can have handled before its
core is full, and from how many cores on several processes carry more than one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.programs import Server, serve
from tests.service import Folder

from .speed.measure import CONFIG, SURVEY, TICK

COUNTS = (1, 2, 3)
RATE = 24.0  # messages a second, in all: two cores carry it beside other work
SECONDS = 15.0
IDLE_SECONDS = 6.0
WARM_SECONDS = 3.0
SETTLE_SECONDS = 8.0  # what a start leaves to be done: the toolkits are compiled, for example
CONNECTIONS = 3
BACK_END_SECONDS = 0.2
KINDS = ("server", "node", "store", "other")
# As the survey of benchmarks.speed.drive answers, after waiting.
WAITS = """
var texts = [
    'Choose your language:\\n1. English\\n2. Afrikaans', 'How old are you?',
    'Where do you live?\\n1. Abel\\n2. Baker\\n3. Cole\\n4. More',
    'Born about 1986 in Abel. Thank you!'];
var steps = {};
api.on_inbound_message = function (command) {
    var user = command.msg.from_addr;
    api.request('http.get', {url: '%s'}, function () {
        api.request('kv.incr', {key: 'step ' + user}, function (reply) {
            var content = texts[(reply.value - 1) %% 4];
            api.request('outbound.reply_to', {content: content, continue_session: true,
                in_reply_to: command.msg.message_id}, function () { api.done(); });
        });
    });
};
"""


class _Slow(BaseHTTPRequestHandler):
    """A back end that takes its time."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer late."""
        threading.Event().wait(BACK_END_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _back_end() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@contextmanager
def _service(count: int, app: str, back_end: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        folder.text += f"[cluster]\nprocesses = {count}\n"
        pool = "pool = { max_processes = 12 }\nhttp = { allow = ['127.0.0.1'] }"
        if app == "computes":
            more = f"config = {{ config = '{CONFIG}' }}\n{pool}"
            folder.app("survey", SURVEY.read_text() + "// api.on_", more)
        else:
            folder.app("survey", WAITS % back_end, pool)
        with serve(folder.config) as server:
            yield server


def _drive(server: Server, rate: float, seconds: float) -> int:
    """Send at a rate over several connections; return how many messages were handled."""
    module = [sys.executable, "-m", "benchmarks.speed.drive"]
    each = [str(seconds), str(rate / CONNECTIONS)]
    argv = [*module, server.gateway, "survey", "40", *each]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(CONNECTIONS)]
    found = [json.loads(one.communicate()[0]) for one in running]
    assert all(set(one["outcomes"]) == {"ok"} for one in found), found
    return sum(one["messages"] for one in found)


def _cpu(root: int) -> dict[str, float]:
    """CPU seconds of a server and all below it, by kind; of what has ended, too."""
    fields, lines = dict[int, list[str]](), dict[int, str]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields[int(entry.name)] = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                lines[int(entry.name)] = (entry / "cmdline").read_text("utf-8", "replace")
            except OSError:
                continue
    found, left = defaultdict[str, float](float), [root]
    while left:
        pid = left.pop()
        if pid not in lines:
            continue
        user, system, user_ended, system_ended = (int(one) / TICK for one in fields[pid][11:15])
        kind = _kind(lines[pid])
        found[kind] += user + system
        found["node" if kind == "server" else kind] += user_ended + system_ended
        left += [child for child in fields if int(fields[child][1]) == pid]
    return found


def _kind(line: str) -> str:
    if "harness" in line or "launcher" in line:
        return "node"
    if "valkey-server" in line:
        return "store"
    return "other" if "search" in line else "server"


def _one(count: int, app: str, back_end: str) -> dict[str, float]:
    """Milliseconds of CPU a message, by kind; `idle`: of one second without any."""
    with _service(count, app, back_end) as server:
        pid = server.process.pid
        _drive(server, RATE, WARM_SECONDS)
        time.sleep(SETTLE_SECONDS)
        quiet, began = _cpu(pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        before, busy = _cpu(pid), time.monotonic()
        messages = _drive(server, RATE, SECONDS)
        after, end = _cpu(pid), time.monotonic()
    idle = {kind: (before[kind] - quiet[kind]) / (busy - began) for kind in KINDS}
    found = {
        kind: 1000 * (after[kind] - before[kind] - idle[kind] * (end - busy)) / messages
        for kind in KINDS
    }
    return found | {"idle": 1000 * sum(idle.values())}


def main(rounds: int) -> None:
    """Measure and print."""
    with _back_end() as back_end:
        for app in ("computes", "waits"):
            found = {count: list[dict[str, float]]() for count in COUNTS}
            for _ in range(rounds):
                for count in COUNTS:
                    found[count].append(_one(count, app, back_end))
            _print(app, found)


def _print(app: str, found: dict[int, list[dict[str, float]]]) -> None:
    print(f"an app that {app}: ms of CPU a message")
    print(
        f"{'processes':>10} {'server':>8} {'node':>8} {'store':>8} {'all':>8} {'ratio':>8}"
        " idle, ms/s"
    )
    middle = dict[int, dict[str, float]]()
    for count, rows in found.items():
        middle[count] = {kind: statistics.median(row[kind] for row in rows) for kind in KINDS}
        ones = [sum(row[kind] for kind in KINDS) for row in found[COUNTS[0]]]
        alls = [sum(row[kind] for kind in KINDS) for row in rows]
        ratio = statistics.median(a / b for a, b in zip(alls, ones, strict=True))
        shown = [middle[count][kind] for kind in KINDS[:3]]
        values = " ".join(f"{value:8.2f}" for value in (*shown, statistics.median(alls), ratio))
        idle = statistics.median(row["idle"] for row in rows)
        print(f"{count:10} {values} {idle:10.0f}", flush=True)
    full = 1000 / middle[1]["server"]
    print(f"one process is full at {full:.0f} messages/s", end="")
    print(f", with {sum(middle[1].values()) * full / 1000:.1f} cores in all")
    for count in COUNTS[1:]:
        cores = sum(middle[count].values()) * full / 1000
        most = count * 1000 / middle[count]["server"]
        print(
            f"{count} processes carry more from {cores:.1f} cores on,"
            f" and are full at {most:.0f} messages/s with"
            f" {sum(middle[count].values()) * most / 1000:.1f} cores"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
