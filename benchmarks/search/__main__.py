"""`python -m benchmarks.search [CONTACTS [SECONDS]]`: every class of query over 200,000 contacts,
in every engine, in one run. Each query is sampled for 2 s in each engine, and at least 5 times.
That takes some 7 minutes on a quiet machine with 2 cores; with SECONDS = 0.5 some 4.

Ours is `contacts.search` as the supervisor runs it, from the command's fields to the bytes of its
reply: resource, pipe, parser, checking Redis for changes, tantivy, keys, pipe. The others are
called in this process, with prepared queries. All engines find the same number of keys, or the row
shows how many. Xapian is Debian's python3-xapian, Whoosh `pip install whoosh-reloaded`; what is not
installed is left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import trio

from resources.contacts import ContactsResource, Search
from resources.stores.contacts import Change, Contacts
from resources.stores.redis import Redis, open_redis
from resources.stores.search import CannotSearch
from supervisor.config.model import SearchSettings
from supervisor.config.units import Duration
from supervisor.observe import ignore
from supervisor.sandboxes.protocol import Request, encode_reply
from supervisor.search import Search as SearchOf
from supervisor.search import open_search
from supervisor.store.valkey import open_valkey

from .engines import Fts5, RawTantivy, Whoosh, Xapian, quiet
from .people import QUERIES, Asked, people

SAMPLES = (5, 300)
WRITES = 100


async def sample(
    ask: Callable[[], Awaitable[int]] | Callable[[], int], seconds: float
) -> tuple[int, list[float]]:
    """The number of keys, and the milliseconds of each run; the first one only warms up."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    count = 0
    for n in range(SAMPLES[1] + 1):
        began = time.perf_counter()
        result = ask()
        count = result if isinstance(result, int) else await result
        if n:
            times.append((time.perf_counter() - began) * 1000)
        if n > SAMPLES[0] and time.perf_counter() > until:
            break
    return count, times


def show(times: list[float]) -> str:
    return f"{median(times):.2f}/{quantiles(times, n=100)[98]:.2f}"


def change_of(person: dict[str, Any]) -> Change:
    fields = {name: value for name, value in person.items() if name not in ("key", "groups")}
    return Change(set=fields, groups=tuple(person["groups"]))


def rss(pid: int) -> dict[str, float]:
    """Megabytes of a process: private, and proportional."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {
        "private": (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1000,
        "PSS": kilobytes["Pss"] / 1000,
    }


class Ours:
    """The command, from its fields to the bytes of its reply."""

    def __init__(self, resource: ContactsResource, account: str) -> None:
        self.resource = resource
        self.caller: Any = type("Caller", (), {"account": account})()

    async def ask(self, query: str, limit: int | None = None) -> int:
        request = Search(query) if limit is None else Search(query, limit)
        keys = (await self.resource.search(self.caller, request)).keys
        encode_reply("r1", Request("contacts.search", "1", {}), {"success": True, "keys": keys})
        return (len(bytes(keys)) - 1) // len('"00000000000000000000000000000000",')


async def fill(redis: Redis, account: str, count: int) -> None:
    contacts, batch = Contacts(redis), []
    for person in people(count):
        batch.append((person["key"], change_of(person)))
        if len(batch) == 1000:
            await contacts.create_many(account, batch, 10**7)
            batch = []
    await contacts.create_many(account, batch, 10**7)


async def until_built(search: SearchOf, account: str) -> None:
    """Wait for an index: on a busy machine longer than a search would."""
    while True:
        with suppress(CannotSearch):
            await search.count(account, "*:*")
            return


async def compare(ours: Ours, engines: list[Any], limit: int | None, seconds: float) -> None:
    names = ["ours", *(engine.label for engine in engines)]
    print(
        f"\n{'keys: all' if limit is None else f'keys: first {limit}'}; p50/p99 in ms, and the"
        " p50 as a ratio to tantivy's"
    )
    print(f"{'query':18}{'hits':>8}" + "".join(f"{name:>24}" for name in names))
    for asked in QUERIES:
        row, counts, base = [], [], 0.0
        for engine in [None, *engines]:
            ask = (
                (lambda asked=asked: ours.ask(asked.lucene, limit))
                if engine is None
                else _ready(engine, asked, limit)
            )
            if ask is None:
                row.append(None)
                continue
            count, times = await sample(ask, seconds)
            counts.append(count)
            row.append(times)
            if engine is not None and engine.label == "tantivy":
                base = median(times)
        cells = [
            "none" if times is None else f"{show(times)} x{median(times) / base:.2f}"
            for times in row
        ]
        differ = "" if len(set(counts)) == 1 else f"  hits: {counts}"
        print(
            f"{asked.label:18}{counts[0]:>8}" + "".join(f"{cell:>24}" for cell in cells) + differ,
            flush=True,
        )


def _ready(engine: Any, asked: Asked, limit: int | None) -> Callable[[], int] | None:
    ask = engine.ready(asked)
    return None if ask is None else lambda: len(ask(limit))


async def after_writes(
    contacts: Contacts, ours: Ours, fts5: Fts5, account: str, count: int
) -> None:
    keys = [person["key"] for person in people(min(count, WRITES * 50))][::50][:WRITES]
    times: dict[str, list[float]] = {"write": [], "search": [], "FTS5 write": [], "FTS5 search": []}
    for n, key in enumerate(keys):
        name = f"written{n}"
        marks = [time.perf_counter()]
        await contacts.change(account, key, Change(set={"name": name}))
        marks.append(time.perf_counter())
        assert await ours.ask(f"name:{name}") == 1
        marks.append(time.perf_counter())
        fts5.change(key, name)
        marks.append(time.perf_counter())
        assert len(fts5.ready(Asked("", "", "term", (name,)))(None)) == 1  # type: ignore[misc]
        marks.append(time.perf_counter())
        for label, start, end in zip(times, marks, marks[1:], strict=False):
            times[label].append((end - start) * 1000)
        await trio.sleep(0.01)
    print("\na write, and the search right after it; p50/p99 in ms")
    for label, found in times.items():
        print(f"  {label:12} {show(found)}")
    both = [
        median([a + b for a, b in zip(times[x], times[y], strict=True)])
        for x, y in (("write", "search"), ("FTS5 write", "FTS5 search"))
    ]
    print(f"  both together: ours {both[0]:.2f}, FTS5 {both[1]:.2f}, ratio {both[0] / both[1]:.2f}")


async def memory(redis: Redis, url: str, folder: Path) -> None:
    """Measure the search process with 0, 1 and 200 open accounts of 1,000 contacts."""
    print("\nmemory of the search process, MB")
    for n in range(200):
        batch = [(person["key"], change_of(person)) for person in people(1000)]
        await Contacts(redis).create_many(f"m{n}", batch, 10**7)
    async with open_search(SearchSettings(), url, folder, [], ignore) as search:
        for opened in (0, 1, 200):
            for n in range(opened):
                await search.count(f"m{n}", "*:*")
            await trio.sleep(1)
            assert search._running is not None
            found = rss(search._running.process.pid)
            print(
                f"  {opened:>3} open accounts: {found['private']:.0f} private,"
                f" {found['PSS']:.0f} PSS"
            )


async def main(count: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        (folder / "valkey").mkdir()
        settings = SearchSettings(timeout=Duration(60.0))
        async with (
            open_valkey(folder / "valkey", "everysec") as url,
            open_redis(url) as redis,
            open_search(settings, url, folder / "search", [], ignore) as search,
        ):
            print(f"{count} contacts, {os.cpu_count()} cores, {seconds:g} s a query")
            await fill(redis, "acct", count)
            search.writes.are_all = True
            contacts = Contacts(redis, writes=search.writes)
            ours = Ours(ContactsResource(contacts, search), "acct")
            began = time.perf_counter()
            await until_built(search, "acct")
            print(
                f"index ours: {count / (time.perf_counter() - began):.0f} contacts/s, read from"
                " Valkey"
            )
            engines: list[Any] = []
            for kind in (RawTantivy, Fts5, Xapian, Whoosh):
                (folder / kind.label).mkdir()
                try:
                    engine = kind(folder / kind.label)
                except ImportError as error:
                    print(f"{kind.label} is left out: {error}")
                    continue
                some = list(people(count))
                began = time.perf_counter()
                engine.fill(some)
                print(
                    f"index {kind.label}: {count / (time.perf_counter() - began):.0f} contacts/s",
                    flush=True,
                )
                engines.append(engine)
            for limit in (None, 100):
                await compare(ours, engines, limit, seconds)
            await after_writes(contacts, ours, engines[1], "acct", count)
            await memory(redis, url, folder / "memory")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    trio.run(main, int(given.get(1, 200_000)), float(given.get(2, 2.0)))
