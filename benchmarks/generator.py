"""How much load the generator can make: `python -m benchmarks.generator [RATE ...]`.

Runs `jsbox load` at several rates of sessions, with three messages each, against a bare gateway in
its own process, which answers each message at once in one write. Prints replies per second, the
generator's share of a core, and how late it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import msgspec
import trio
from trio_websocket import ConnectionClosed, wrap_server_stream

from supervisor.client.corked import Corked
from tests.programs import jsbox

SECONDS = 6
RATES = (100, 200, 300, 400, 500, 600)
CAMPAIGN = """
[run]
channel = "phone"
stages = [ { rate = "%d/s", for = "1s", warmup = true }, { rate = "%d/s", for = "%ds" } ]
think = { lognormal = "300ms" }
users = { pool = 9000 }
connections = 2
[[dialogue]]
name = "three"
steps = [
  { dial = "*1#", expect = "fine" },
  { send = "1", expect = "fine" },
  { send = "2", expect = "fine" },
]
[thresholds]
"generator.late.p99" = "< 20ms"
"""


async def answer(plain: trio.SocketStream) -> None:
    """Serve one client of the bare gateway."""
    stream, numbers = Corked(plain), count(1)
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream, 64, receive_buffer_size=64 << 10)
        socket = await request.accept(subprotocol="jsbox.v1")
        await socket.get_message()
        await socket.send_message(
            '{"type":"welcome","connection":"c","credit":1000000,"max_frame":65536}'
        )
        try:
            while True:
                frame = msgspec.json.decode(await socket.get_message())
                if frame["type"] != "inbound":
                    continue
                number, name = next(numbers), frame["id"]
                stream.cork()
                await socket.send_message(
                    f'{{"type":"accepted","id":"{name}","message_id":"{name}","duplicate":false}}'
                )
                text = (
                    f'{{"message_id":"o{number}","in_reply_to":"{name}",'
                    '"content":"fine","session_event":null}'
                )
                await socket.send_message(
                    f'{{"type":"outbound","delivery":{number},"attempt":1,"msg":{text}}}'
                )
                await socket.send_message(
                    f'{{"type":"outcome","message_id":"{name}","outcome":"ok","ms":1,"commands":1}}'
                )
                stream.uncork()
                await stream.send_all(b"")
        except ConnectionClosed:
            nursery.cancel_scope.cancel()


async def gateway() -> None:
    """Serve on a free port, and print it."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(answer, listeners)


def main(rates: tuple[int, ...]) -> None:
    """Print the table."""
    print(
        f"{'sessions/s':>10} {'replies/s':>10} {'generator':>10} {'late p50':>10}"
        f" {'late p99':>10} {'reply p99':>10}"
    )
    argv = [sys.executable, "-m", "benchmarks.generator", "gateway"]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tempfile.TemporaryDirectory() as name,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for rate in rates:
            (Path(name) / "campaign.toml").write_text(CAMPAIGN % (rate, rate, SECONDS))
            done = jsbox(
                "load",
                f"{name}/campaign.toml",
                "--target",
                f"ws://127.0.0.1:{port}/v1",
                "--out",
                f"{name}/out",
                "--no-tui",
            )
            assert done.returncode in (0, 1), done.stderr
            found = json.loads((Path(name) / "out" / "summary.json").read_text())
            late = found["generator"]["late"]
            print(
                f"{rate:>10} {found['replies']['rate']:>10.0f}"
                f" {found['generator']['cpu']:>9.0%} {late['p50'] * 1000:>7.1f} ms"
                f" {late['p99'] * 1000:>7.1f} ms {found['replies']['p99'] * 1000:>7.1f} ms "
                f" {found['verdict']}",
                flush=True,
            )
        process.kill()


if __name__ == "__main__":
    if sys.argv[1:] == ["gateway"]:
        trio.run(gateway)
    else:
        main(tuple(map(int, sys.argv[1:])) or RATES)
