"""The operating system's limits around a sandbox: argv, environment and rlimits, made from an app's
limits and what the host has. No I/O, except `unheld`, which looks at a process from outside.

The levels: `standard` is our launcher (see launcher.c); `strict` is bubblewrap around the launcher,
with namespaces, and only the few files that a sandbox needs; `none` is the launcher with nothing
but resource limits. Node.js has its own limits at each level; they give better errors, but do not
hold code that took over the process.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, frozen

from ..config.model import App, Level
from ..config.node import THREAD_STACK

MIB = 1 << 20
OUTSIDE_DATA = 32 * MIB  # of memory that RLIMIT_DATA does not count: program text, mapped files
ROOM_TO_GROW = 128 * MIB  # of memory that the heap may not fill before it is collected in full
# of addresses that a process without a compiler maps beyond its memory, and never touches: V8 and
# malloc reserve them. 556 MiB were measured at boot, and 779 at the limit of memory.
MAPPED = 896 * MIB
CODE_RANGE = 512 * MIB  # that V8 reserves if its compiler is on; RLIMIT_DATA counts it
CPU_GRACE = 2  # seconds of CPU between the signal that can be caught and the one that cannot
TASKS = 16  # threads of a sandbox, which needs 5; counted for each user, or user namespace
MORE_PROCESSES = 4  # of an app's user, beyond its pool: some are ending while others start
NOBODY = 65534  # the user inside a namespace

NODE_FLAGS = (
    "--max-semi-space-size=2",
    "--v8-pool-size=1",
    "--no-addons",
    "--zero-fill-buffers",  # else allocUnsafe() may give one run what another has freed
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
        nice: How far below us the kernel's scheduler should put it, 0 to 19.
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
    nice: int = 0


@frozen
class Jail:
    """How to start one sandbox.

    Attributes:
        user: The user and group to start the program as; None: ours, or the launcher changes it.
        modules_dir: Where the app's own node_modules are, as the sandbox sees it; empty if it has
            none.
        is_wrapped: Whether the program is a wrapper, with node in a process below it.
        must_hold: Whether to end a process that the jail is not seen to hold.
        nice: That of the process's session, where the kernel schedules by sessions.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: int | None = None
    modules_dir: str = ""
    is_wrapped: bool = False
    must_hold: bool = False
    nice: int = 0


def compiled_name(app: App) -> str:
    """The file name of what is compiled with an app's flags: V8 does not accept what was compiled
    with others.
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
    if app.inspect and place.level == "none":  # an inspector takes over whatever it is attached to
        flags = (*flags, f"--inspect={app.inspect}")
    node = ("node", *flags, str(inside[0] / place.harness))
    if compiled is not None and place.compiled is not None:
        node = (*node, str(shown_as[place.compiled] / compiled))
    limits = rlimits_of(app)
    code = ("-w",) if app.limits.jit else ()
    if place.nice:
        code = (*code, "-N", str(place.nice))
    match place.level:
        case "none" | "standard":
            how = code if user is None else (*code, "-u", str(user))
            if user is not None and place.level == "standard":
                tasks = TASKS * (app.pool.max_processes + MORE_PROCESSES)
                limits[resource.RLIMIT_NPROC] = (tasks, tasks)
            how = (*how, "-p", str(parent), *_held(place.node, outside, place.libraries, limits))
            if place.level == "none":
                argv: tuple[str, ...] = (str(place.launcher), "-n", *how, "--", *node)
                return Jail(argv, env, modules_dir=shown, nice=place.nice)
            argv = (str(place.launcher), *how, "--", *node)
            return Jail(argv, env, modules_dir=shown, must_hold=True, nice=place.nice)
        case "strict":
            limits[resource.RLIMIT_NPROC] = (TASKS, TASKS)
            held = _held(Path("/sb/node"), inside, place.libraries, limits)
            argv = (*_namespaces(place, outside, inside), "--", "/sb/jail", *code, *held)
            argv = (*argv, "--", *node)
            return Jail(
                argv,
                env,
                user=user,
                modules_dir=shown,
                is_wrapped=True,
                must_hold=True,
                nice=place.nice,
            )


def with_flag(jail: Jail, flag: str) -> Jail:
    """The same jail, with one more flag for Node."""
    after = len(jail.argv) - jail.argv[::-1].index("node")
    return evolve(jail, argv=(*jail.argv[:after], flag, *jail.argv[after:]))


def rlimits_of(app: App) -> dict[int, tuple[int, int]]:
    """The resource limits of one process."""
    limits = app.limits
    data = limits.memory - OUTSIDE_DATA + (CODE_RANGE if limits.jit else 0)
    files = limits.open_files
    # A compiler reserves too much: WebAssembly alone 10 GiB for each memory.
    mapped = limits.memory + MAPPED
    addresses = {} if limits.jit else {resource.RLIMIT_AS: (mapped, mapped)}
    return addresses | {
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
    # V8 does no full collection until its heap is this large. With its own guess, a few MiB, it
    # does one after every 20 messages: a fifth of all the CPU time. Only if the process may have
    # enough memory for this.
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
    """The launcher's arguments: limits, what may be read, and what may be run."""
    argv: list[str] = []
    for kind, (soft, hard) in limits.items():
        argv += ("-r", f"{kind}:{soft}:{hard}")
    for folder in readable:
        argv += ("-R", str(folder))
    for file in (*libraries, node):
        argv += ("-X", str(file))
    return (*argv, "-e", str(node))


def _namespaces(place: Place, outside: list[Path], inside: list[Path]) -> tuple[str, ...]:
    """Bubblewrap's arguments: a namespace of each kind, and read-only views of what is needed; no
    /proc, /dev or /etc.
    """
    bound = [(place.node, "/sb/node"), (place.launcher, "/sb/jail")]
    bound += [(library.resolve(), str(library)) for library in place.libraries]
    bound += [(there, str(here)) for there, here in zip(outside, inside, strict=True)]
    return (
        str(place.bubblewrap), "--unshare-user", "--unshare-ipc", "--unshare-pid",
        "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent",
        "--uid", str(NOBODY), "--gid", str(NOBODY),
        "--cap-drop", "ALL", "--chdir", "/",
        *(word for there, here in bound for word in ("--ro-bind", str(there), here)),
        "--remount-ro", "/",
    )  # fmt: skip


def unheld(pid: int) -> str:
    """What a process lacks of the jail, as seen from outside; empty if nothing.

    Raises:
        OSError: It has ended, or cannot be looked at.
    """
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    status = {name: value.split() for name, _, value in lines}
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
    """RLIMIT_CPU for a run: a backstop, whole seconds above what the supervisor enforces, in case
    the supervisor is gone.
    """
    soft = int(used + budget * 2) + CPU_GRACE
    return soft, resource.RLIM_INFINITY
