"""The Redis client against a store that fails in every way: who asked learns of it, nobody else
does, and it comes back.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trio
import trustme
from attrs import define, field

from resources import fence
from resources.stores import reconnecting
from resources.stores import redis as module
from resources.stores.condition import STANDS_SECONDS, Condition
from resources.stores.direct import Command
from resources.stores.keyspace import script_keys
from resources.stores.link import NodeLink
from resources.stores.reconnecting import Reconnecting
from resources.stores.redis import (
    NotEncodable,
    Redis,
    StoreError,
    StoreRefused,
    Unavailable,
    open_redis,
)
from resources.stores.scripts import all_scripts, script

from ..service import eventually
from ..store_proxy import (
    REFUSALS,
    Act,
    StoreProxy,
    answer,
    cut,
    drip,
    garbage,
    half,
    late,
    refuse,
    store_proxy,
)

EXTRA = answer(b"+OK\r\n+another\r\n")


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=["plain", "tls"])
def proxy(request: pytest.FixtureRequest, valkey: str) -> Iterator[StoreProxy]:
    """Both ways of the client: over the plain socket, and in a thread."""
    with store_proxy(valkey, _tls() if request.param == "tls" else None) as made:
        if request.param == "tls":
            made.url += "?ssl_cert_reqs=none"
        with made._direct() as client:
            client.flushall()
        yield made


@pytest.fixture
def plain(valkey: str) -> Iterator[StoreProxy]:
    with store_proxy(valkey) as made:
        with made._direct() as client:
            client.flushall()
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server counts as gone after 0.3 s; the client checks every 0.05 s."""
    monkeypatch.setattr(module, "link_to", lambda url: NodeLink(url, 0.3))
    monkeypatch.setattr(module, "TICK", 0.05)
    monkeypatch.setattr(reconnecting, "AGAIN", (0.05, 0.2))


async def _outcome(client: Redis, *command: object) -> object:
    try:
        return await client.execute(*command)
    except StoreError as error:
        return error


async def _beside(client: Redis, *command: object) -> list[object]:
    """The outcome of a command, and of one before it and one after it in the same pipeline."""
    found: dict[int, object] = {}

    async def caller(n: int, *asked: object) -> None:
        found[n] = await _outcome(client, *asked)

    async with trio.open_nursery() as nursery:
        for n, asked in enumerate((("INCR", "before"), command, ("INCR", "after"))):
            nursery.start_soon(caller, n, *asked)
    return [found[n] for n in range(3)]


@pytest.mark.parametrize(
    "bad",
    [
        ("SET", "k", "\ud83d"), ("SET", "\udcff", "v"), ("SET", "k", None), ("SET", "k", True),
        ("SET", "k", object()),
        ("SET", "k", ["v"]), ("SET", "k", {}), ("SET", "k", 10**5000), (None,), (), ("\ud800",),
        ("SET", "k", 1j),
    ],
)  # fmt: skip
async def test_what_cannot_be_encoded_is_an_error_of_its_caller(redis: Redis, bad: Command) -> None:
    """It raises at once, nothing is sent, and nobody else in the pipeline notices; also what is
    posted, and a list.
    """
    before = redis.statistics().commands
    found = await _beside(redis, *bad)
    assert found[::2] == [1, 1]
    assert isinstance(found[1], NotEncodable)
    assert not found[1].sent
    assert redis.statistics().commands == before + 2
    with pytest.raises(NotEncodable):
        redis.post([("PING",), bad], lambda _: pytest.fail("it was sent"))
    with pytest.raises(NotEncodable):
        await redis.attempt([("SET", "neither", 1), bad])
    with pytest.raises(NotEncodable):
        await redis.execute_many([list(bad)])  # type: ignore[list-item]
    assert await redis.execute("EXISTS", "neither", "k") == 0


async def test_nothing_asked_is_nothing_answered(redis: Redis) -> None:
    """No command at all is no error."""
    assert await redis.attempt([]) == []
    assert redis.post([], lambda _: None)
    assert await redis.execute("PING") == b"PONG"


@pytest.mark.parametrize("code", [*REFUSALS, "NEWCODE", "ERR something nobody knows", ""])
async def test_every_refusal_is_typed_with_its_words(
    proxy: StoreProxy, code: str, quick: None
) -> None:
    """The one whose command it was learns the code and the server's own words; those beside it do
    not, and it can be asked again.
    """
    async with open_redis(proxy.url) as client:
        await client.execute("SET", "victim", 1)
        with proxy.fault(refuse(code), "GETDEL", times=1):
            before, error, after = await _beside(client, "GETDEL", "victim")
        assert (before, after) == (1, 1)
        assert isinstance(error, StoreRefused)
        assert error.code == (code.split(maxsplit=1)[0] if code else "ERR")
        assert REFUSALS.get(code, code) in str(error)
        assert error.retry_after > 0
        assert not error.sent
        assert await client.execute("GETDEL", "victim") == b"1"
        assert client.statistics().refused == {error.code: 1}
        assert client.statistics().problem == ""


@pytest.mark.parametrize(
    ("act", "carried_out"),
    [
        (cut(), False), (cut(after=True), True), (garbage(), False), (half(), True),
        (half(then_cut=False), True),
        (late(float("inf")), None), (drip(0.5), True), (EXTRA, False), (answer(b""), False),
        (answer(b"\r\n"), False),
        (answer(b"*1\r\n%1\r\n*0\r\n+x\r\n"), False), (answer(b":99999999999999999999\r\n"), False),
        (answer(b"$100000000\r\nnot so many"), False), (answer(b"*-7\r\n"), False),
        (answer(b"\xff\xfe\x00"), False),
    ],
)  # fmt: skip
async def test_a_broken_exchange_is_reported_and_overcome(
    proxy: StoreProxy, act: Act, carried_out: bool | None, quick: None
) -> None:
    """Whatever comes instead of an answer: whoever waits learns that nothing is known, and the next
    gets his own answer.
    """
    async with open_redis(proxy.url) as client:
        await client.execute("SET", "x", "value")
        with proxy.fault(act, "SETNX", times=1), trio.fail_after(20):
            error = await _outcome(client, "SETNX", "y", "1")
        assert isinstance(error, Unavailable), error
        assert error.sent
        with trio.fail_after(20):
            assert [await client.execute("GET", "x") for _ in range(5)] == [b"value"] * 5
            if carried_out is not None:
                assert await client.execute("EXISTS", "y") == carried_out
        assert client.statistics().up
        assert client.statistics().problem == ""


async def test_answers_never_go_to_another_caller(plain: StoreProxy, quick: None) -> None:
    """A server that says more than it was asked, after its answer and on its own: the connection is
    given up.
    """
    async with open_redis(plain.url) as client:
        for n in range(20):
            with plain.fault(EXTRA, "ECHO", times=1):
                await _outcome(client, "ECHO", "x")
            assert await client.execute("INCR", "n") == n + 1
        session = next(iter(plain._sessions))
        session.send(b"+unasked\r\n")
        await eventually(lambda: next(iter(plain._sessions), session) is not session)
        assert await client.execute("INCR", "n") == 21


async def test_a_connection_that_was_closed_meanwhile_is_nobodys_error(plain: StoreProxy) -> None:
    """Nothing was sent on it: the commands go out on the next one, once."""
    async with open_redis(plain.url) as client:
        await client.execute("INCR", "n")
        plain.cut()
        for _ in range(10):  # the end of the connection is here when it is here
            assert not isinstance(await _outcome(client, "PING"), StoreRefused)
        await client.execute("SET", "n", 0)
        await eventually(lambda: client.statistics().up)
        plain.cut()
        await eventually(lambda: client._connection._direct is None or client._connection.is_stale)
        assert await client.execute("INCR", "n") == 1


async def test_a_store_that_goes_while_nobody_asks_is_noticed(
    plain: StoreProxy, quick: None
) -> None:
    """It is reported as a problem, and its return is noticed, too, without a command."""
    reported: list[bool] = []

    def bad() -> None:
        reported.append(False)
        raise RuntimeError("a listener that fails")

    async with open_redis(plain.url) as client:
        client.on_reconnect += [bad, lambda: reported.append(True)]
        await client.execute("PING")
        plain.stop()
        await eventually(lambda: not client.statistics().up)
        await eventually(lambda: "Redis cannot be reached" in client.statistics().problem)
        assert client.statistics().concerns_all
        assert reported == []
        plain.start()
        await eventually(lambda: client.statistics().up)
        assert reported == [False, True]
        assert client.statistics().problem == ""


async def test_a_server_that_loads_is_waited_for(plain: StoreProxy, quick: None) -> None:
    """A caller waits with patience, and then has its answer; nobody sees an error."""
    rule = plain.fault(refuse("LOADING"))
    async with open_redis(plain.url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.execute, "INCR", "n")
        await eventually(lambda: "LOADING Valkey is loading" in client.statistics().problem)
        assert rule.hits > 0
        rule.lift()
        with trio.fail_after(5):
            assert await client.execute("INCR", "n") == 2


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN", "NOAUTH"])
async def test_a_promoted_server_is_found(plain: StoreProxy, code: str, quick: None) -> None:
    """Behind the same address: what refuses as a replica does is left for a new connection, again
    and again with pauses.
    """
    async with open_redis(plain.url) as client:
        await client.execute("PING")
        rule = plain.fault(refuse(code), "SET", "INCR")
        error = await _outcome(client, "INCR", "n")
        assert isinstance(error, StoreRefused)
        await eventually(lambda: client.statistics().reconnects >= 3)
        assert client.statistics().problem == f"{code} {REFUSALS[code]}"
        rule.lift()
        with trio.fail_after(5):
            while isinstance(await _outcome(client, "INCR", "n"), StoreError):
                await trio.sleep(0.01)
        await eventually(lambda: client.statistics().problem == "")
        count = client.statistics().reconnects
        for _ in range(5):
            await client.execute("INCR", "n")
        assert client.statistics().reconnects == count


@pytest.mark.parametrize("code", ["MISCONF", "OOM", "NOREPLICAS", "BUSY", "READONLY"])
async def test_a_problem_is_over_when_the_store_is_well(
    plain: StoreProxy, code: str, quick: None
) -> None:
    """As long as it lasts it is named, also without traffic; when it is over that is noticed, also
    without traffic.
    """
    async with open_redis(plain.url) as client:
        await client.execute("PING")
        rule = plain.fault(refuse(code))
        await _outcome(client, "XADD", "s", "*", "m", 1)
        await eventually(lambda: plain.commands["SET"] >= 3)
        found = client.statistics()
        assert REFUSALS[code] in found.problem
        assert found.concerns_all
        rule.lift()
        await eventually(lambda: client.statistics().problem == "")
        assert not client.statistics().concerns_all
        assert await client.execute("EXISTS", "jsbox:probe") in (0, 1)


def test_what_concerns_one_command_passes_by_itself() -> None:
    """It is named, not as a problem of all; a success of its kind ends it, or time does. Our own
    scripts' limits are none.
    """
    condition = Condition()
    condition.refused(("XADD", "s"), StoreRefused("WRONGTYPE Operation against a key"), 100)
    assert condition.problem(100, of_all=True) == ""
    assert condition.problem(100 + STANDS_SECONDS, of_all=False).startswith("WRONGTYPE")
    condition.succeeded([("GET", "x")])
    assert condition.problem(100, of_all=False) != ""
    condition.succeeded([("XADD", "other")])
    assert condition.problem(100, of_all=False) == ""
    condition.refused(("GET", "s"), StoreRefused("ERR unknown command"), 100)
    assert condition.problem(100 + STANDS_SECONDS + 0.1, of_all=False) == ""
    condition.refused(
        script("contact_write").call(["{a}k"], 1), StoreRefused("LIMIT an account may have 5"), 100
    )
    assert condition.problem(100, of_all=False) == condition.problem(100, of_all=True) == ""
    for n in range(1000):
        condition.refused(("GET", "s"), StoreRefused(f"CODE{n} x"), 100)
    assert len(condition.counts) <= 51


def test_what_a_refusal_means() -> None:
    """Whether it may have been carried out in part, whether it passes, and what its words are
    without the place in a script.
    """
    where = f" script: {'a' * 40}, on @user_script:7."
    for place in (where, " script: on @user_script:7."):  # older servers, Valkey 9.1
        wrong = StoreRefused("WRONGTYPE Operation against a key" + place)
        assert (wrong.sent, wrong.may_retry) == (False, False)
        assert wrong.plain == "WRONGTYPE Operation against a key"
        assert StoreRefused("NOPERM No permissions" + place).sent
    full = StoreRefused("OOM command not allowed" + where)
    assert (full.sent, full.may_retry, full.is_wide) == (False, False, True)
    assert StoreRefused("READONLY You can't write" + where).may_retry
    assert Unavailable("away", sent=False).may_retry
    assert not Unavailable("away", sent=True).may_retry
    assert StoreRefused("lower case").code == "ERR"
    assert len(str(StoreRefused("x" * 100_000))) <= 500


async def test_closing_lets_everybody_go(proxy: StoreProxy) -> None:
    """A server has stopped answering: whoever waits, or is queued, learns at once that the client
    was closed.
    """
    found: list[object] = []

    async def caller(client: Redis, number: int) -> None:
        with trio.CancelScope(shield=True):
            found.append(await _outcome(client, "SET", "x", number))

    proxy.fault(late(float("inf")), "SET")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with open_redis(proxy.url) as client:
            await client.execute("PING")
            nursery.start_soon(caller, client, 1)
            await eventually(lambda: proxy.commands["SET"] == 1)
            nursery.start_soon(caller, client, 2)
            await eventually(lambda: len(client._line.queue) == 1)
    assert trio.current_time() - began < 4  # FLUSH_SECONDS; the server's time is 5 s a command
    assert sorted(getattr(error, "sent", None) for error in found) == [False, True]
    assert all("closed" in str(error) for error in found), found


async def test_closing_does_not_wait_for_a_connection(valkey: str) -> None:
    """Nor for a thread that is still connecting; should it succeed, its connection is closed all
    the same.
    """
    with store_proxy(valkey) as proxy:
        proxy.fault(late(1.5), "SCRIPT", times=1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            async with open_redis(proxy.url) as client:
                nursery.start_soon(_outcome, client, "PING")
                await eventually(lambda: proxy.commands["SCRIPT"] >= 1)
        assert trio.current_time() - began < 1.4
        await eventually(lambda: not proxy._sessions)


@define
class _Strange:
    """A link that behaves as scripted."""

    does: list[object] = field(factory=list)
    connects: threading.Event = field(factory=threading.Event)

    def connect(self) -> None:
        self.connects.wait(20)

    def exchange(self, commands: list[Command], packed: bytes) -> list[object]:
        does = self.does.pop(0) if self.does else None
        if isinstance(does, BaseException):
            raise does
        return [0] * len(commands) if does is None else does  # type: ignore[return-value]

    def direct(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        self.connects.set()


@pytest.mark.parametrize(
    "strange", [RuntimeError("never heard of"), KeyError(3), [], [1, 2], MemoryError(), 5]
)
async def test_an_error_nobody_expected_ends_one_batch(
    monkeypatch: pytest.MonkeyPatch, strange: object
) -> None:
    """Whoever waited learns of it, it is counted, and the next batch is fine."""
    link = _Strange([strange])
    link.connects.set()
    monkeypatch.setattr(module, "link_to", lambda _: link)
    before = fence.tally["store"]
    async with open_redis("any") as client:
        with trio.fail_after(5):
            assert isinstance(await _outcome(client, "GET", "x"), Unavailable)
            assert await client.execute("GET", "x") == 0
    assert fence.tally["store"] == before + 1


async def test_a_listener_that_fails_keeps_nobody_waiting(plain: StoreProxy) -> None:
    """The callback of a posted command raises: that is counted, and the rest of the batch is
    answered.
    """

    def failed(_: Exception) -> None:
        raise RuntimeError("a listener that fails")

    before = fence.tally["store"]
    async with open_redis(plain.url) as client:
        await client.execute("PING")
        plain.fault(refuse("OOM"), "RPUSH")
        assert client.post([("RPUSH", "l", 1)], failed)
        assert await client.execute("INCR", "n") == 1
    assert fence.tally["store"] == before + 1


async def test_patience_ends_while_a_connection_is_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attempt to connect that hangs (a name server that does not answer) is no reason to wait
    longer.
    """
    link = _Strange()
    monkeypatch.setattr(module, "link_to", lambda _: link)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module, "TICK", 0.05)
    async with open_redis("any") as client:
        with trio.fail_after(5):
            error = await _outcome(client, "GET", "x")
        assert isinstance(error, Unavailable)
        assert error.may_retry


async def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command may be of any size; what comes when too much waits is refused at once, also to be
    posted.
    """
    monkeypatch.setattr(module, "WAITING_BYTES", 10_000)
    client = Redis(Reconnecting(_Strange()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_outcome, client, "SET", "x", "v" * 50_000)
        await eventually(lambda: client.statistics().waiting == 1)
        assert isinstance(await _outcome(client, "SET", "x", "v"), Unavailable)
        assert not client.post([("PING",)], lambda _: None)
        nursery.cancel_scope.cancel()


async def test_large_commands_go_in_several_batches(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline is bounded in bytes, and their order is kept."""
    monkeypatch.setattr(module, "BATCH_BYTES", 100_000)
    before = redis.statistics().batches
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(redis.execute, "RPUSH", "l", f"{n:05}" + "x" * 40_000)
            await trio.lowlevel.checkpoint()
    assert [value[:5] for value in await redis.execute("LRANGE", "l", 0, -1)] == [
        b"%05d" % n for n in range(20)
    ]
    assert redis.statistics().batches - before >= 6


async def test_scripts_that_are_all_forgotten_come_again_together(proxy: StoreProxy) -> None:
    """As after a failover: two exchanges, not one for each; a script of somebody else's stays
    unknown.
    """
    async with open_redis(proxy.url) as client:
        await client.execute("SCRIPT", "FLUSH")
        kv_set = script("kv_set")
        keys = script_keys("a", "v")
        calls = [kv_set.call(keys, "v", n, "", 10, 10, 1000) for n in range(50)]
        found = await client.attempt([*calls, ("EVALSHA", "f" * 40, 0), ("GET", keys[0])])
        assert found[:50] == [[1, 0]] * 50
        assert isinstance(found[50], StoreRefused)
        assert found[50].code == "NOSCRIPT"
        assert proxy.commands["kv_set"] == 100
        assert await client.execute("GET", keys[0]) == b"49"


async def test_a_server_that_will_not_load_scripts_is_used(plain: StoreProxy) -> None:
    """A user who may not SCRIPT LOAD, and may EVAL: scripts go in full."""
    plain.fault(refuse("NOPERM"), "SCRIPT")
    with plain._direct() as direct:
        direct.script_flush()
    async with open_redis(plain.url) as client:
        one = script("kv_delete")
        assert await client.run(one, script_keys("a", "k"), "k") == 0


async def test_a_password_that_changed_is_reported(
    plain: StoreProxy, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own words are the problem, and after the cure all is well."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    rule = plain.fault(refuse("WRONGPASS"), "AUTH", "HELLO")
    async with open_redis(plain.url.replace("redis://", "redis://:secret@")) as client:
        error = await _outcome(client, "PING")
        assert isinstance(error, Unavailable)
        assert "invalid username-password" in client.statistics().problem
        assert "secret" not in str(error) + client.statistics().problem
        rule.lift()


@pytest.mark.parametrize(
    "url", ["redis://localhost:notaport", "redis://[::1", "nonsense", "redis://127.0.0.1:1", ""]
)
async def test_a_url_that_leads_nowhere_is_reported(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reason, within the client's patience."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    async with open_redis(url) as client:
        with trio.fail_after(5):
            error = await _outcome(client, "PING")
        assert isinstance(error, Unavailable)
        assert str(error).startswith("Redis cannot be reached: ")


async def test_the_loop_turns_while_the_store_hangs(proxy: StoreProxy) -> None:
    """Neither way of the client holds the thread up that everything runs in."""
    async with open_redis(proxy.url) as client:
        await client.execute("PING")
        with proxy.fault(late(0.5), "GET"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.execute, "GET", "x")
                worst, end = 0.0, time.monotonic() + 0.4
                while (now := time.monotonic()) < end:
                    await trio.sleep(0.01)
                    worst = max(worst, time.monotonic() - now)
    assert worst < 0.4


def test_every_script_has_a_name_of_its_own() -> None:
    """Its digest is known, and its text has no second one."""
    assert len({one.digest for one in all_scripts()}) == len(all_scripts())
