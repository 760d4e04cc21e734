"""OpenTelemetry's SDK is loaded by the process that exports, and not by the server: not even by
redis-py, which would do so wherever it is installed.
"""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
import supervisor.__main__
import supervisor.cli.serve, supervisor.service, supervisor.otel.exporter
found = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
assert "redis" in found
print(sorted(found & {"opentelemetry", "requests", "google", "urllib3", "certifi"}), end="")
"""


def test_the_server_loads_nothing_of_it() -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout == "[]"


FIRST = """
import sys
from supervisor.otel import process

def stop():
    raise SystemExit(sorted({name.partition(".")[0] for name in sys.modules} & SLOW) != [])

SLOW = {"opentelemetry", "requests", "google", "urllib3", "msgspec"}
process.protect = stop
process.main()
raise SystemExit("not protected")
"""


def test_the_exporting_process_is_protected_before_anything_slow_is_loaded() -> None:
    """Until then its environment, with the collector's token, can be read by others."""
    found = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, timeout=120)
    assert found.returncode == 0, found.stderr
