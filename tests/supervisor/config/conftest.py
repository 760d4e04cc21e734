from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "survey.js").write_text("api.on_inbound_message = function () {};")
    return tmp_path
