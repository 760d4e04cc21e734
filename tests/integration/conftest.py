"""A folder for a config and its apps, and a store of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ..service import Folder
from ..valkey_server import valkey_server
from .hosts import hosts, shared

__all__ = ["hosts", "shared"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def store(folder: Folder) -> Iterator[redis.Redis]:
    """A store of the test's own, in which it can write what no server would."""
    with valkey_server(folder.path) as server:
        folder.text += f'[redis]\nurl = "{server.url}"\n'
        with redis.Redis.from_url(server.url) as client:
            yield client
