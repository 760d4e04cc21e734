"""Opt-outs in a real store."""

from __future__ import annotations

import pytest

from resources.stores.keys import account_key
from resources.stores.optouts import OptOut, OptOuts, Row
from resources.stores.redis import Redis


@pytest.mark.parametrize(("name", "text"), [(b"\xff", b"{}"), (b'["msisdn","+271"]', b"\xff")])
async def test_one_that_cannot_be_read_is_left_out_of_a_list(
    name: bytes, text: bytes, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program wrote it; the log says so, without the person's number."""
    optouts = OptOuts(redis)
    await optouts.set("acct", "msisdn", "+272", OptOut("m", "2014"), 10)
    await redis.execute("HSET", account_key("acct", "optouts"), name, text)
    assert await optouts.page("acct", 0, 10) == ([Row("msisdn", "+272", "m", "2014")], None)
    assert "one of account acct is left out of a list" in caplog.text
    assert "+271" not in caplog.text
