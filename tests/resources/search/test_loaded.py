"""The search process has no event loop, and loads nothing that only the supervisor needs."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import os, runpy, sys

def end(code):
    found = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
    assert {"redis", "tantivy"} <= found
    print(sorted(found & {"trio", "opentelemetry", "httpx2", "cattrs"}), end="", flush=True)
    leave(code)

leave, os._exit = os._exit, end
runpy.run_module("resources.stores.search.process", run_name="__main__")
"""


def test_the_search_process_loads_neither_trio_nor_opentelemetry() -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOOK], input="", capture_output=True, text=True, timeout=120
    )
    assert found.stdout == "[]"
