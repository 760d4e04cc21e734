"""What Node.js needs to start, and what it gives apps.

The harness has the same two lists (sandbox_js/codecache.js, sandbox_js/lib/library.js);
tests/supervisor/config/test_node.py compares them.
"""

from __future__ import annotations

TOOLKITS = ("vumigo_v02", "lodash", "moment", "q", "jed")
"""The bundled packages that apps may require by default; spare processes have them loaded."""
BUILTINS = (
    "assert", "buffer", "crypto", "events", "path",
    "querystring", "string_decoder", "timers", "url", "util",
)  # fmt: skip
"""Node's own modules that apps may require."""
NODES_OWN = frozenset(BUILTINS) | {
    "async_hooks", "child_process", "cluster", "console", "constants", "dgram",
    "diagnostics_channel", "dns", "domain", "fs", "http", "http2", "https", "inspector", "module",
    "net", "os", "perf_hooks", "process", "punycode", "readline", "repl", "stream", "sys", "tls",
    "trace_events", "tty", "v8", "vm", "wasi", "worker_threads", "zlib",
}  # fmt: skip
"""All of Node's own modules."""

LEAST_HEAP = 8 << 20  # bytes; with less Node does not start
BESIDE_HEAP = 96 << 20  # bytes that Node needs in addition to its heap
THREAD_STACK = 2 << 20  # bytes
LEAST_STACK = 64 << 10  # bytes of V8's share; with less Node does not start
MOST_STACK = THREAD_STACK - (128 << 10)  # likewise; the rest is for Node's own frames
LEAST_FILES = 22  # descriptors; with fewer Node does not start
