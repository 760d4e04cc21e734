"""How evenly the kernel spreads a few connections over processes that listen at one port with
SO_REUSEPORT: `python -m benchmarks.reuseport`. The parent of several processes hands them over
instead (supervisor/processes/handover.py), which is exact.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

TRIES = 300
CASES = ((2, 2), (2, 4), (3, 3), (3, 6), (4, 4), (4, 8))  # processes, connections


def spread(processes: int, connections: int) -> list[int]:
    """Connect so many clients; return how many each listener got."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(processes)]
        port = 0
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            port = listener.getsockname()[1]
        for listener in listeners:
            listener.listen(connections)
            listener.settimeout(0)
        for _ in range(connections):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        return [_accepted(listener) for listener in listeners]


def _accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def main() -> None:
    """Print a row for each case."""
    print(f"{'processes':>10} {'connections':>12} {'even':>6} {'one has none':>13}")
    for processes, connections in CASES:
        found = [spread(processes, connections) for _ in range(TRIES)]
        even = sum(max(one) - min(one) <= 1 for one in found) / TRIES
        none = sum(min(one) == 0 for one in found) / TRIES
        print(f"{processes:10} {connections:12} {even:6.0%} {none:13.0%}")


if __name__ == "__main__":
    main()
