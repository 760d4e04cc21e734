"""A store that refuses: the Redis client gives the reason to whoever asked, names what lasts as a
problem, and notices its end.
"""

from __future__ import annotations

import pytest
import trio

from resources.stores import redis as module
from resources.stores.condition import STANDS_SECONDS, Condition
from resources.stores.errors import LATER, SOON
from resources.stores.redis import StoreError, StoreRefused, Unavailable, open_redis
from resources.stores.scripts import script

from ..service import eventually
from ..store_faults import REFUSALS, refuse
from ..store_proxy import StoreProxy
from .asking import outcome, with_neighbours


@pytest.mark.parametrize("code", [*REFUSALS, "NEWCODE", "ERR something nobody knows", ""])
async def test_every_refusal_is_typed_with_its_words(
    plain_or_tls: StoreProxy, code: str, quick: None
) -> None:
    """The one whose command it was learns the code and the server's own words; those beside it do
    not, and it can be asked again.
    """
    async with open_redis(plain_or_tls.url) as client:
        await client.execute("SET", "victim", 1)
        with plain_or_tls.fault(refuse(code), "GETDEL", times=1):
            before, error, after = await with_neighbours(client, "GETDEL", "victim")
        assert (before, after) == (1, 1)
        assert isinstance(error, StoreRefused)
        assert error.code == (code.split(maxsplit=1)[0] if code else "ERR")
        assert REFUSALS.get(code, code) in str(error)
        assert error.retry_after > 0
        assert not error.sent
        assert await client.execute("GETDEL", "victim") == b"1"
        assert client.statistics().refused == {error.code: 1}
        assert client.statistics().problem == ""


async def test_a_server_that_loads_is_waited_for(proxy: StoreProxy, quick: None) -> None:
    """A caller waits with patience, and then has its answer; nobody sees an error."""
    rule = proxy.fault(refuse("LOADING"))
    async with open_redis(proxy.url) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.execute, "INCR", "n")
        await eventually(lambda: "LOADING Valkey is loading" in client.statistics().problem)
        assert rule.hits > 0
        rule.lift()
        with trio.fail_after(5):
            assert await client.execute("INCR", "n") == 2


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN", "NOAUTH"])
async def test_a_promoted_server_is_found(proxy: StoreProxy, code: str, quick: None) -> None:
    """Behind the same address: what refuses as a replica does is left for a new connection, again
    and again with pauses.
    """
    async with open_redis(proxy.url) as client:
        await client.execute("PING")
        rule = proxy.fault(refuse(code), "SET", "INCR")
        error = await outcome(client, "INCR", "n")
        assert isinstance(error, StoreRefused)
        await eventually(lambda: client.statistics().reconnects >= 3)
        # between two connections the problem is that there is none
        await eventually(lambda: client.statistics().problem == f"{code} {REFUSALS[code]}")
        rule.lift()
        with trio.fail_after(5):
            while isinstance(await outcome(client, "INCR", "n"), StoreError):
                await trio.sleep(0.01)
        await eventually(lambda: client.statistics().problem == "")
        count = client.statistics().reconnects
        for _ in range(5):
            await client.execute("INCR", "n")
        assert client.statistics().reconnects == count


@pytest.mark.parametrize("code", ["MISCONF", "OOM", "NOREPLICAS", "BUSY", "READONLY"])
async def test_a_problem_is_over_when_the_store_is_well(
    proxy: StoreProxy, code: str, quick: None
) -> None:
    """As long as it lasts it is named, also without traffic; when it is over that is noticed, also
    without traffic.
    """
    async with open_redis(proxy.url) as client:
        await client.execute("PING")
        rule = proxy.fault(refuse(code))
        await outcome(client, "XADD", "s", "*", "m", 1)
        await eventually(lambda: proxy.commands["SET"] >= 3)
        found = client.statistics()
        assert REFUSALS[code] in found.problem
        assert found.concerns_all
        rule.lift()
        await eventually(lambda: client.statistics().problem == "")
        assert not client.statistics().concerns_all
        assert await client.execute("EXISTS", "jsbox:probe") in (0, 1)


async def test_a_password_that_changed_is_reported(
    proxy: StoreProxy, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own words are the problem, and after the cure all is well."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    rule = proxy.fault(refuse("WRONGPASS"), "AUTH", "HELLO")
    async with open_redis(proxy.url.replace("redis://", "redis://:secret@")) as client:
        error = await outcome(client, "PING")
        assert isinstance(error, Unavailable)
        assert "invalid username-password" in client.statistics().problem
        assert "secret" not in str(error) + client.statistics().problem
        rule.lift()


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
        assert (wrong.sent, wrong.retry_after) == (False, LATER)
        assert wrong.plain == "WRONGTYPE Operation against a key"
        assert StoreRefused("NOPERM No permissions" + place).sent
    full = StoreRefused("OOM command not allowed" + where)
    assert (full.sent, full.retry_after, full.is_wide) == (False, LATER, True)
    assert str(full) == "OOM command not allowed"  # operators read this: no script is to blame
    replica = StoreRefused("READONLY You can't write" + where)
    assert (replica.sent, replica.retry_after) == (False, SOON)
    assert StoreRefused("lower case").code == "ERR"
    assert len(str(StoreRefused("x" * 100_000))) <= 500
