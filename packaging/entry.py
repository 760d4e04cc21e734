"""The entry point of the one-file jsbox, which runs its own modules by `jsbox -m MODULE ...`."""

import runpy
import sys

OTEL = "supervisor.otel.process"
PROCESSES = (
    "resources.stores.search.process",
    "resources.stores.search.walls",
    "supervisor.load.server",
    "supervisor.host.with_parent",
    OTEL,
)


if __name__ == "__main__":
    if OTEL not in sys.argv[1:3]:
        # as in supervisor/__main__.py: redis-py would load it, in the search process too
        sys.modules["opentelemetry"] = None  # type: ignore[assignment]
    if sys.argv[1:2] == ["-m"] and sys.argv[2:3] and sys.argv[2] in PROCESSES:
        module = sys.argv[2]
        del sys.argv[1:3]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        from supervisor.__main__ import main

        main()
