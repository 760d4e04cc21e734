"""`python -m supervisor`, and the `jsbox` command."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports ends us at once, without a traceback; `main` catches it again.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.argv[1:2] == ["serve"]:
    from . import early

    early.watch()  # before the imports, which take a while

# redis-py loads OpenTelemetry's SDK wherever that is installed, for metrics that nobody reads here:
# 0.1 s of every start. What exports traces is a process of its own.
sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]  # "not found"

from .cli import main  # noqa: E402  # see above

if __name__ == "__main__":
    main()
