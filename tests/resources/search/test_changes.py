"""How the search process reads from the store when its connections are cut."""

from __future__ import annotations

import pytest

from resources.stores.links import link_to
from resources.stores.search.changes import Changes, StoreGone

from ...store_faults import cut
from ...store_proxy import StoreProxy


def test_a_connection_that_was_closed_is_made_again(proxy: StoreProxy) -> None:
    """A question is asked once more, whether the connection was idle or in use."""
    changes = Changes(lambda: link_to(proxy.url))
    assert changes.newest(["a"]) == [0]
    proxy.cut()
    assert changes.newest(["a"]) == [0]
    proxy.fault(cut(after=True), "GET", times=1)
    assert changes.newest(["a"]) == [0]
    proxy.fault(cut(after=True), "GET")
    with pytest.raises(StoreGone, match="Redis did not answer"):
        changes.newest(["a"])
    proxy.cure()
    assert changes.newest(["a"]) == [0]
    changes._links.link.close()
