"""The service that tests of the gateway talk to."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.service import Service

from ..service import ECHO, Folder, running

TOKEN = "tok-1"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
async def service(folder: Folder) -> AsyncIterator[Service]:
    """An echo app on channel phone; other channels for other cases."""
    folder.text += '[gateway]\ncredit = 4\nack_timeout = "300ms"\nmax_frame = "8KiB"\n'
    folder.app("phone", ECHO)
    folder.app(
        "slow",
        "setTimeout = require('timers').setTimeout; setTimeout(function () { api.done(); }, 300);",
        'modules = ["timers"]',
    )
    folder.text += (
        f'[channels.secret]\napp = "phone"\ntokens ='
        f' ["{hashlib.sha256(TOKEN.encode()).hexdigest()}"]\n'
    )
    folder.text += "[channels.nobody]\n"
    async with running(folder) as service:
        yield service
