"""Every attack of the corpus against the real supervisor: at each level, with what the harness
leaves to the app, and with the harness's own realm in its hands. Each attack's header says what
must become of it; `BREACH` in a reply or in a log would be one that got through. Against level
`none` the same attacks must get through: so it is known that they would be seen.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from supervisor import service as service_module
from supervisor.config.model import Level
from supervisor.service import Service

from ..gateway_client import connect
from ..programs import bubblewrap
from ..service import ECHO, Folder, running
from .granted import granted_harness

HERE = Path(__file__).parent
PRELUDE = (HERE / "prelude.js").read_text("utf-8")
FILES = sorted((HERE / "attacks").glob("*.js"))
CONTAINED = {"ok", "app_error", "crashed", "protocol"}
EXPECTED = {
    "contained-error": CONTAINED,
    "refused": {"ok", "protocol"},
    "harmless": {"ok", "protocol"},
    "killed:timeout": {"wall", "cpu"},
    "killed:memory": {"heap", "memory"},
    "killed:output": {"output", "protocol"},  # a line that is too long is no command
    "killed:protocol": {"protocol"},
}
ALSO_RIGHT = {
    "52-never-reads-stdin": {"output"},
    "41-mem-offheap-buffers": {"ok"},
    "45-giant-line": {"heap", "ok"},
    "51-command-quota": {"ok", "commands"},
    "49-duplicate-and-forged-ids": {"protocol"},
    "21-v8-raise-heap-limit": {"ok"},
    "06-inherited-fds": {"crashed"},
}
"""What the notes in the headers call equally right."""
ONLY_THE_HARNESS = "29-escape-constructor-and-callbacks"  # asks for no more than what is granted
NEEDS_HOST = re.compile(r"X\.attack\(true")
AT_A_TIME = 3  # attackers: most of them wait for what ends them
LEAKS = ("BREACH", "root:x:0:0", "uid=")


@frozen
class Attack:
    """One file."""

    name: str
    text: str

    @property
    def expect(self) -> str:
        found = re.search(r"^// expect: (\S+)", self.text, re.MULTILINE)
        assert found is not None
        return found[1]

    def allowed(self, *, granted: bool) -> set[str]:
        """The outcomes that are right."""
        allowed = EXPECTED[self.expect] | ALSO_RIGHT.get(self.name, set())
        # Without the harness's realm an attack that needs it says so, in a reply.
        return allowed if granted or not NEEDS_HOST.search(self.text) else allowed | {"ok"}


ATTACKS = [Attack(file.stem, file.read_text("utf-8")) for file in FILES]


@asynccontextmanager
async def targets() -> AsyncIterator[dict[str, Any]]:
    """What attacks try to reach, and all of it is there: a TCP port, a UDP port, an abstract and a
    path socket.
    """
    with (
        tempfile.TemporaryDirectory(prefix="jsbox-targets-") as name,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # for whoever gets so far
        udp.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as path:
            abstract.bind(f"\0jsbox-test-{folder.name}")
            path.bind(str(folder / "s"))
            (folder / "s").chmod(0o777)
            for listener in (abstract, path):
                listener.listen(8)
            meta = {
                "tcp_port": tcp.getsockname()[1],
                "udp_port": udp.getsockname()[1],
                "abstract": f"jsbox-test-{folder.name}",
                "unix_path": str(folder / "s"),
                "victim": "victim",
                "foreign_message_id": "f" * 32,
            }
            yield meta


@asynccontextmanager
async def attacked(
    tmp_path: Path, level: Level, *, granted: bool
) -> AsyncIterator[tuple[Service, dict[str, Any]]]:
    """A service that runs every attack as an app of one account, and an app of another one."""
    folder = Folder(tmp_path)
    folder.text += (
        f'[isolation]\nlevel = "{level}"\n[defaults.pool]\nidle_stop = "1s"\nmax_processes = 1\n'
    )
    for attack in ATTACKS:
        limits = (
            'wall = "1s", cpu = "400ms"'
            if attack.expect == "killed:timeout"
            else 'wall = "10s", cpu = "6s"'
        )
        folder.app(
            attack.name, PRELUDE + attack.text, f"limits = {{ {limits} }}", account="attacker"
        )
    folder.app("bystander", ECHO, account="victim")
    async with AsyncExitStack() as stack:
        if granted:
            harness = stack.enter_context(granted_harness())
            monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
            monkeypatch.setattr(service_module, "HARNESS", harness)
        service = await stack.enter_async_context(running(folder))
        meta = await stack.enter_async_context(targets())
        await service.stores.redis.execute("SET", "jsbox:{victim}:kv:secret", '"victim-secret"')
        yield service, meta


async def launch(service: Service, attack: Attack, meta: dict[str, Any]) -> tuple[str, str]:
    """The outcome of the attack, and everything that it said: replies and log."""
    async with connect(service.gateway_url, attack.name) as client:
        outcome, replies = await client.say("go", helper_metadata={"attack": meta})
    entries = await service.stores.logbook.newest("attacker", attack.name, 50)
    said = [message["content"] or "" for message in replies] + [entry.message for entry in entries]
    return outcome["outcome"], "\n".join(said)


async def _answers(service: Service) -> None:
    async with connect(service.gateway_url, "bystander") as client:
        outcome, replies = await client.say("hello")
    assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hello")


# Whoever has the harness's realm can do all that an app as it comes can do, and more.
@pytest.mark.parametrize(
    "granted",
    [
        pytest.param(False, marks=pytest.mark.slow, id="as it comes"),
        pytest.param(True, id="with the harness's realm"),
    ],
)
@pytest.mark.parametrize("level", ["standard", "strict"])
async def test_no_attack_gets_through(level: Level, granted: bool, tmp_path: Path) -> None:
    """Each ends as its header says, twice; whoever else has a message is answered; the supervisor
    stands.
    """
    if level == "strict":
        bubblewrap()
    wrong = []
    waiting = iter(ATTACKS)

    async def attack_on(service: Service, meta: dict[str, Any]) -> None:
        for attack in waiting:
            if granted and attack.name == ONLY_THE_HARNESS:
                continue
            # the second message finds the app as able to answer, or to attack, as the first
            for _ in range(2):
                outcome, said = await launch(service, attack, meta)
                leaked = [marker for marker in LEAKS if marker in said]
                if leaked or outcome not in attack.allowed(granted=granted):
                    wrong.append(
                        f"{attack.name}: {outcome}, expected {attack.expect}: {said[:300]}"
                    )
            await _answers(service)

    async with (
        attacked(tmp_path, level, granted=granted) as (service, meta),
        trio.open_nursery() as nursery,
    ):
        for _ in range(AT_A_TIME):
            nursery.start_soon(attack_on, service, meta)
    assert not wrong, "\n".join(wrong)


SEEN_AT_NONE = {
    "01-fs-read-passwd",
    "05-list-other-tenants",
    "07-fs-write-anywhere",
    "09-spawn-shell",
    "11-fork-bomb",
    "23-net-connect-loopback",
    "24-net-route-udp",
    "26-net-unix-path",
}
"""What must get through where nothing but resource limits holds."""


async def test_the_attacks_would_be_seen(tmp_path: Path) -> None:
    """At level none, without Node's own permissions, the same attacks do get through."""
    seen = set()
    async with attacked(tmp_path, "none", granted=True) as (service, meta):
        for attack in ATTACKS:
            if attack.name in SEEN_AT_NONE:
                _, said = await launch(service, attack, meta)
                seen |= {attack.name} if any(marker in said for marker in LEAKS) else set()
    assert seen == SEEN_AT_NONE
