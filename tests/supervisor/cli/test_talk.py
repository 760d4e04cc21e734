"""What is typed at the phone of `jsbox dev`."""

from __future__ import annotations

from typing import Any, cast

import pytest

from resources.stores.redis import StoreError
from supervisor.cli.screen import Screen
from supervisor.cli.talk import Talk


class Away:
    """A store that is away."""

    async def state(self, number: str) -> str:
        raise StoreError(f"nothing of {number}: the store is away", sent=False)

    async def kv(self, key: str) -> str:
        raise StoreError(f"nothing of {key}: the store is away", sent=False)


@pytest.mark.parametrize(
    ("line", "shown"),
    [("/kv a", "/kv: nothing of a"), ("/state", "/state: nothing of +27")],
)
async def test_a_store_that_is_away_does_not_end_the_conversation(
    line: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Phone:
        number = "+27"

    await Talk(cast("Any", Phone()), Screen(), sms=False, inside=Away()).act(line)
    assert f"{shown}: the store is away" in capsys.readouterr().out
