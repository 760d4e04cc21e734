"""Times that commands take."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from ..admin.logs import moment
from .common import fail


def moment_or_exit(since: str | None) -> str:
    """What `--since` says, as entries of logs have it; "" if it was not given."""
    if not since:
        return ""
    try:
        return moment(since)
    except HTTPException as error:
        fail(f"--{error.detail}", 2)
