"""The operating-system limits round a sandbox: from an app's limits and what the host has to argv,
environment and rlimits. No I/O, but for `unheld`, which looks at a process from outside.

The levels: `standard` is our launcher (launcher.c says what it does), `strict` is bubblewrap round
the launcher, with namespaces and no file system but the few files that a sandbox needs, `none` is
the launcher with resource limits alone. Node.js has its own limits at each of them; they give
better errors and hold nobody who has the process in hand.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from ..config.model import App, Level
from ..config.node import THREAD_STACK

MIB = 1 << 20
# of a process's memory that RLIMIT_DATA does not see: program text, mapped files
OUTSIDE_DATA = 32 * MIB
# of a process's memory, that its heap is not let grow into without being looked at
ROOM_TO_GROW = 128 * MIB
CODE_RANGE = 512 * MIB  # that V8 reserves, and RLIMIT_DATA counts, where its compiler is on
CPU_GRACE = 2  # seconds of CPU between the signal that can be caught and the one that cannot
NAMESPACE_TASKS = 16  # threads of one sandbox, counted by itself only where it has a user namespace
NOBODY = 65534  # the user inside of a namespace

NODE_FLAGS = (
    "--max-semi-space-size=2",
    "--v8-pool-size=1",
    "--no-addons",
    "--disable-proto=delete",
    "--disallow-code-generation-from-strings",  # of the harness's realm only; apps keep _.template
    "--disable-sigusr1",
    "--no-experimental-sqlite",
    "--no-experimental-require-module",  # packages that have both kinds give their CommonJS files
    "--no-warnings",
    "--no-deprecation",
)


@frozen
class Place:
    """What a sandbox is made of, where its own user can reach it.

    Attributes:
        code: The folder with the harness and the toolkits.
        compiled: The folder with what V8 made of the toolkits, a file for each kind of flags.
        libraries: What the dynamic loader maps for node, and the loader itself.
        bubblewrap: Needed at level strict only.
    """

    level: Level
    node: Path
    code: Path
    harness: str
    libraries: tuple[Path, ...] = ()
    launcher: Path | None = None
    bubblewrap: Path | None = None
    compiled: Path | None = None


@frozen
class Jail:
    """How to start one sandbox.

    Attributes:
        user: The user and group that the program is started as; None: ours, or the launcher sees to
            it.
        modules_dir: Where the app's own node_modules are, as the sandbox sees it; empty where it
            has none.
        is_wrapped: Whether the program started is a wrapper, and node a process below it.
        must_hold: Whether a process that is not seen to be held is ended.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: int | None = None
    modules_dir: str = ""
    is_wrapped: bool = False
    must_hold: bool = False


def compiled_name(app: App) -> str:
    """The name of what is compiled with an app's flags: V8 takes nothing that was compiled with
    others.
    """
    return hashlib.sha256("\0".join(_flags(app)).encode()).hexdigest()[:16] + ".bin"


def jail(
    app: App,
    place: Place,
    modules_dir: Path | None,
    user: int | None,
    parent: int,
    compiled: str | None = None,
) -> Jail:
    """The jail for a process of `app`.

    Args:
        app: The app.
        place: What the sandbox is made of.
        modules_dir: The app's own node_modules, where its user can reach them.
        user: The user to become; None: ours.
        parent: Our process id.
        compiled: A file in `place.compiled`.
    """
    env = {"UV_THREADPOOL_SIZE": "1", "OPENSSL_CONF": "/nonexistent", "TZ": app.timezone}
    folders = {
        Path("/sb/code"): place.code,
        Path("/sb/modules"): modules_dir,
        Path("/sb/compiled"): place.compiled,
    }
    shown_as = {
        there: here if place.level == "strict" else there
        for here, there in folders.items()
        if there is not None
    }
    outside, inside = list(shown_as), list(shown_as.values())
    shown = str(shown_as[modules_dir]) if modules_dir is not None else ""
    permissions = ("--permission", *(f"--allow-fs-read={folder}/*" for folder in inside))
    flags = _flags(app) + (() if place.level == "none" else permissions)
    node = ("node", *flags, str(inside[0] / place.harness))
    if compiled is not None and place.compiled is not None:
        node = (*node, str(shown_as[place.compiled] / compiled))
    limits = rlimits_of(app)
    match place.level:
        case "none" | "standard":
            how = () if user is None else ("-u", str(user))
            how = (*how, "-p", str(parent), *_held(place.node, outside, place.libraries, limits))
            if place.level == "none":
                return Jail((str(place.launcher), "-n", *how, "--", *node), env, modules_dir=shown)
            return Jail(
                (str(place.launcher), *how, "--", *node), env, modules_dir=shown, must_hold=True
            )
        case "strict":
            limits[resource.RLIMIT_NPROC] = (NAMESPACE_TASKS, NAMESPACE_TASKS)
            held = _held(Path("/sb/node"), inside, place.libraries, limits)
            argv = (*_namespaces(place, outside, inside), "--", "/sb/jail", *held, "--", *node)
            return Jail(argv, env, user=user, modules_dir=shown, is_wrapped=True, must_hold=True)


def rlimits_of(app: App) -> dict[int, tuple[int, int]]:
    """The resource limits of one process."""
    limits = app.limits
    data = limits.memory - OUTSIDE_DATA + (CODE_RANGE if limits.jit else 0)
    files = limits.open_files
    return {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_STACK: (THREAD_STACK, THREAD_STACK),
        resource.RLIMIT_DATA: (data, data),
        resource.RLIMIT_NOFILE: (files, files),
    }


def _flags(app: App) -> tuple[str, ...]:
    limits = app.limits
    # Until its heap is this large V8 does not look at all of it. From its own guess, a few MiB, it
    # looks after every 20 messages: a fifth of all the CPU time. Only where the process may have so
    # much memory that this cannot end it.
    young = min(limits.heap * 3 // 4, limits.memory - ROOM_TO_GROW) // MIB
    return (
        f"--max-old-space-size={max(limits.heap // MIB, 1)}",
        *((f"--initial-old-space-size={young}",) if young > 0 else ()),
        f"--stack-size={limits.stack >> 10}",
        *(() if limits.jit else ("--jitless",)),
        *NODE_FLAGS,
    )


def _held(
    node: Path,
    readable: list[Path],
    libraries: tuple[Path, ...],
    limits: Mapping[int, tuple[int, int]],
) -> tuple[str, ...]:
    """The launcher's arguments: limits, what may be read, what may be run."""
    argv: list[str] = []
    for kind, (soft, hard) in limits.items():
        argv += ("-r", f"{kind}:{soft}:{hard}")
    for folder in readable:
        argv += ("-R", str(folder))
    for file in (*libraries, node):
        argv += ("-X", str(file))
    return (*argv, "-e", str(node))


def _namespaces(place: Place, outside: list[Path], inside: list[Path]) -> tuple[str, ...]:
    """Bubblewrap's arguments: namespaces of its own for everything, and read-only views of what is
    needed; no /proc, /dev or /etc.
    """
    bound = [(place.node, "/sb/node"), (place.launcher, "/sb/jail")]
    bound += [(library.resolve(), str(library)) for library in place.libraries]
    bound += [(there, str(here)) for there, here in zip(outside, inside, strict=True)]
    return (
        str(place.bubblewrap), "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
        "--unshare-cgroup-try", "--die-with-parent", "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox",
        "--cap-drop", "ALL", "--chdir", "/",
        *(word for there, here in bound for word in ("--ro-bind", str(there), here)),
        "--remount-ro", "/",
    )  # fmt: skip


def unheld(pid: int) -> str:
    """What of the jail a process is seen from outside to lack; empty if nothing.

    Raises:
        OSError: It has ended, or cannot be looked at.
    """
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        status = {name: value.split() for name, _, value in (line.partition(":") for line in file)}
    wanted = {"NoNewPrivs": ["1"], "Seccomp": ["2"], "CapEff": ["0" * 16]}
    missing = [
        f"{name} is {status.get(name)}, not {value}"
        for name, value in wanted.items()
        if status.get(name) != value
    ]
    if "0" in status.get("Uid", ["0"]):
        missing.append("it runs as root")
    return "; ".join(missing)


def cpu_rlimit(used: float, budget: float) -> tuple[int, int]:
    """RLIMIT_CPU for a run: a backstop, whole seconds above what the supervisor enforces, should it
    not be there to do so.
    """
    soft = int(used + budget * 2) + CPU_GRACE
    return soft, resource.RLIM_INFINITY
