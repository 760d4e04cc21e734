"""What this process may do: root in a container may lack capabilities."""

from __future__ import annotations

from pathlib import Path

CAP_CHOWN, CAP_SETUID = 0, 7


def has_capability(number: int) -> bool:
    """Whether a capability is in effect."""
    status = Path("/proc/self/status").read_text("ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> number & 1)
