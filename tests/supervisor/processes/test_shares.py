"""What each of several processes has of the config's bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from supervisor.config import Config
from supervisor.config.model import App, Cluster, Gateway, NodeSettings, Pool
from supervisor.config.units import Count, Natural
from supervisor.processes.shares import Share, too_few


def config(most: int = 4, idle: int = 0) -> Config:
    pool = Pool(max_processes=Count(most), min_idle=Natural(idle))
    app = App("phone", "acct", Path("phone.js"), pool=pool)
    return Config(
        data_dir=Path("/data"),
        apps={"phone": app},
        node=NodeSettings(max_processes=Count(200), spare=Natural(1)),
        gateway=Gateway(connections=Count(1000)),
        cluster=Cluster(processes=Count(3)),
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("most", [64, 65, 127, 200, 1000])
def test_the_whole_has_what_the_config_says(count: int, most: int) -> None:
    whole = evolve(config(most), node=NodeSettings(max_processes=Count(most)))
    shares = [Share(place + 1, count) for place in range(count)]
    pools = [share.apps(whole).apps["phone"].pool.max_processes for share in shares]
    assert sum(pools) == most
    assert max(pools) - min(pools) <= 1
    assert sum(share.config(whole).node.max_processes for share in shares) == most
    assert sum(share.config(whole).gateway.connections for share in shares) == 1000


def test_an_app_with_fewer_than_there_are_has_one_in_each_and_that_is_said() -> None:
    whole = config(2)
    pools = [Share(place, 3).apps(whole).apps["phone"].pool.max_processes for place in (1, 2, 3)]
    assert pools == [1, 1, 1]
    assert list(too_few(whole, 3)) == [
        "app phone: pool.max_processes is 2, but each of 3 processes has one at least: 3 in all"
    ]
    assert list(too_few(whole, 2)) == []


def test_reserves_are_rounded_up_but_no_more_than_the_bound() -> None:
    pools = [Share(n, 3).apps(config(4, idle=4)).apps["phone"].pool for n in (1, 2, 3)]
    assert [(one.max_processes, one.min_idle) for one in pools] == [(2, 2), (1, 1), (1, 1)]
    assert Share(3, 3).config(config()).node.spare == 1


def test_each_has_a_folder_and_users_of_its_own() -> None:
    """Two processes number their apps each for itself: the same user would be two apps'."""
    found = [Share(place, 3).config(config()) for place in (1, 2, 3)]
    assert [str(one.data_dir) for one in found] == [f"/data/process-{n}" for n in (1, 2, 3)]
    assert {one.cluster.mode for one in found} == {"shared"}
    users = [one.isolation.first_user for one in found]
    assert users == [300_000, 400_000, 500_000]


def test_what_servers_compare_is_the_same_in_all() -> None:
    from supervisor.cluster.sharing import sum_of

    assert len({sum_of(Share(place, 3).config(config())) for place in (1, 2, 3)}) == 1
