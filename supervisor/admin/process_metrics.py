"""GET /metrics of a server of several processes: what each of them counts, told apart by the label
`process`, and which of them serve.

All of it comes from one place: if each scrape were answered by another process, each counter would
jump to and fro, and every step back would count as a restart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import trio
from attrs import frozen

from resources.stores.redis import StoreError

from ..cluster.asking import NoAnswer, Question
from .bodies import off_loop
from .elsewhere import Others

SECONDS = 3.0  # that another process has to answer: Prometheus waits for 10
_SAMPLE = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)(\{?)", re.MULTILINE)
UP = ("jsbox_process_up", "gauge", "1 if a process of this server serves")
RESTARTS = ("jsbox_process_restarts_total", "counter", "Times that it was started again")


@frozen
class ProcessMetrics:
    """Puts them together, in the first process.

    Attributes:
        hosts: The processes' ids among the servers that share the store, by their place.
        table: The processes, as the parent says.
    """

    others: Others
    hosts: Callable[[], Mapping[int, str]]
    table: Callable[[], Sequence[Mapping[str, Any]]]

    async def merged(self, own: bytes) -> bytes:
        """What all processes say; one that does not answer is left out."""
        found = {"1": own}

        async def ask(place: int, host: str) -> None:
            record = self.others.alive.get(host)
            if record is None or host == self.others.record.id:
                return
            question = Question("GET", "/metrics", "", "", self.others.record.name)
            try:
                reply = await self.others.asking.ask(record, question, SECONDS)
            except (NoAnswer, StoreError):
                return
            if reply.status == HTTPStatus.OK:
                found[str(place)] = reply.body

        async with trio.open_nursery() as nursery:
            for place, host in self.hosts().items():
                nursery.start_soon(ask, place, host)
        return await off_loop(_whole, dict(sorted(found.items())), list(self.table()))


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Expositions of several processes as one, each family once; their samples get the label
    `process`, which is the key.
    """
    heads = dict[bytes, bytes]()
    samples = dict[bytes, list[bytes]]()
    for process, text in texts.items():
        label = f'process="{process}"'.encode()
        for block in re.split(rb"(?m)^(?=# HELP )", text):
            about, _, rest = block.partition(b"\n")
            kind, _, lines = rest.partition(b"\n")
            if about:
                name = about.split(b" ")[2]
                heads.setdefault(name, about + b"\n" + kind + b"\n")
                samples.setdefault(name, []).append(_SAMPLE.sub(_labelled(label), lines))
    return b"".join(heads[name] + b"".join(parts) for name, parts in samples.items())


def _labelled(label: bytes) -> Callable[[re.Match[bytes]], bytes]:
    def change(found: re.Match[bytes]) -> bytes:
        return found[1] + b"{" + label + (b"," if found[2] else b"}")

    return change


def _whole(texts: Mapping[str, bytes], table: Iterable[Mapping[str, Any]]) -> bytes:
    rows = [(row["name"].rsplit(" ", 1)[1], row) for row in table]
    up = [(name, float(row["state"] == "ready")) for name, row in rows]
    restarts = [(name, float(row["restarts"])) for name, row in rows]
    return merged(texts) + _family(*UP, up) + _family(*RESTARTS, restarts)


def _family(name: str, kind: str, about: str, values: Iterable[tuple[str, float]]) -> bytes:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    lines += [f'{name}{{process="{process}"}} {value}' for process, value in values]
    return "\n".join(lines).encode() + b"\n"
