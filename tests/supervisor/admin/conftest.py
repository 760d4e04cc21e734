"""The service that tests of the admin port talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.service import Service

from ...service import ECHO, Folder, running


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    async with running(folder) as service:
        yield service
