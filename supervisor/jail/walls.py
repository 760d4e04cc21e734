"""What this host has for a jail of the configured level, or why it cannot have one; and a user for
each app.

We never fall back to a lower level. If we run as root, no sandbox does: each app gets its own user,
and what such a user cannot reach (an install below /root, for example) is copied to where it can,
for as long as we run.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import platform
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, evolve, field, frozen

from ..config.model import App, Isolation, Level
from ..errors import CannotStart
from ..host.scratch import Scratch, open_scratch
from .argv import Jail, Place, compiled_name, jail

LAUNCHER = Path(__file__).with_name("launcher")
COMMAND_SECONDS = 10.0
STAGE_BYTES = 1 << 30  # that may be copied

log = logging.getLogger(__name__)


@frozen
class Host:
    """What this host has to make a jail.

    Attributes:
        landlock: The kernel's version of Landlock; 0: not needed.
    """

    libraries: tuple[Path, ...]
    launcher: Path
    landlock: int
    bubblewrap: Path | None


def inspect_host(level: Level, node: Path) -> Host:
    """Find what the host has for a level.

    Raises:
        CannotStart: Something is missing; the text says what, and how to get it.
    """
    if not os.access(LAUNCHER, os.X_OK):
        raise CannotStart(
            f"isolation.level = {level!r} needs the launcher {LAUNCHER}, which is built when jsbox"
            f" is installed (x86-64 and aarch64; this is {platform.machine()}): install it again"
        )
    if level == "none":
        return Host((), LAUNCHER, 0, None)
    landlock = int(_output([str(LAUNCHER), "--abi"]))
    if landlock <= 0:
        raise CannotStart(
            f"isolation.level = {level!r} needs Landlock, which {_lacks(-landlock)} (or, for your"
            " own code only, level 'none')"
        )
    bubblewrap = shutil.which("bwrap")
    if level == "strict" and bubblewrap is None:
        raise CannotStart("isolation.level = 'strict' needs bubblewrap: apt-get install bubblewrap")
    return Host(
        _libraries(node), LAUNCHER, landlock, None if bubblewrap is None else Path(bubblewrap)
    )


def _lacks(number: int) -> str:
    """Why Landlock cannot be had, by the error's number, and what helps."""
    kernel = f"this kernel ({platform.release()})"
    if number == errno.EOPNOTSUPP:
        return f"{kernel} has not enabled: add 'landlock' to its lsm= list"
    if number == errno.ENOSYS:
        return (
            f"{kernel} does not have: Linux 5.13 or newer is needed; if it is that, the container's"
            " seccomp profile hides the landlock_* system calls"
        )
    return (
        f"is forbidden here ({os.strerror(number)}): the seccomp profile of the container, or of"
        " the service, has to allow the landlock_* system calls, as those of Docker and containerd"
        " do since 2022"
    )


def _libraries(node: Path) -> tuple[Path, ...]:
    """What the dynamic loader would map for node, as it lists it."""
    listing = _output([str(node)], {"LD_TRACE_LOADED_OBJECTS": "1"})
    return tuple(
        Path(path)
        for path in sorted(set(re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listing, re.MULTILINE)))
    )


def _output(argv: list[str], env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            argv, env=env or {}, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotStart(f"{' '.join(argv)} does not work here: {error}") from error
    return done.stdout


@define(eq=False)
class Stage:
    """Copies of what other users cannot reach. Made by `open_stage`; it has no folder (`scratch`)
    if there are no such users.

    A cleaner of /tmp may remove copies, or parts of them: `restore` makes them again.
    """

    scratch: Scratch | None
    _copies: dict[tuple[Path, float], Path] = field(factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _restoring: threading.Lock = field(factory=threading.Lock, init=False)

    def reachable(self, path: Path) -> Path:
        """Return the file or folder itself if every user can read it, else a copy.

        Raises:
            CannotStart: It does not exist, or is too large to copy.
        """
        if self.scratch is None:
            return path
        if not path.exists():
            raise CannotStart(f"{path} does not exist")
        path = path.resolve()
        if _may_pass(path.parent) and all(_may_read(one) for one in _all_below(path)):
            return path
        self._check_folder(self.scratch)
        key = (path, max(one.lstat().st_mtime for one in _all_below(path)))
        if key not in self._copies:
            self._bytes += sum(one.lstat().st_size for one in _all_below(path))
            if self._bytes > STAGE_BYTES:
                raise CannotStart(
                    f"{path} cannot be read by the users that apps run as, and is too large to"
                    " copy: chmod -R o+rX"
                )
            copy = self.scratch.path / f"{len(self._copies)}-{path.name}"
            log.info(
                "%s cannot be read by the users that apps run as; it is copied to %s", path, copy
            )
            self._copies[key] = self._copy(path, copy)
        return self._copies[key]

    def restore(self, *, thoroughly: bool = False) -> None:
        """Make copies again that were removed; if `thoroughly`, also those that lack a file.

        Raises:
            CannotStart: That cannot be done.
        """
        if self.scratch is None or not self._copies:
            return
        self._check_folder(self.scratch)
        for (path, _), copy in list(self._copies.items()):
            if not copy.exists() or (thoroughly and _count(copy) < _count(path)):
                with self._restoring:
                    self._make_again(path, copy)

    def _make_again(self, path: Path, copy: Path) -> None:
        if path.exists() and (not copy.exists() or _count(copy) < _count(path)):
            log.warning("the copy %s of %s was removed, and is made again", copy, path)
            shutil.rmtree(copy, ignore_errors=True)
            self._copy(path, copy)

    def _check_folder(self, scratch: Scratch) -> None:
        if not scratch.is_there():
            raise CannotStart(f"the folder {scratch.path} was removed, and cannot be made again")

    def _copy(self, path: Path, copy: Path) -> Path:
        try:
            # Links stay links: if one leads out of the folder, an app must not be able to read in
            # our copy what only root may read.
            if path.is_dir():
                shutil.copytree(path, copy, symlinks=True)
            else:
                shutil.copy(path, copy)
            for one in _all_below(copy):
                if not one.is_symlink():
                    one.chmod(0o755 if one.is_dir() or one.stat().st_mode & stat.S_IXUSR else 0o644)
        except (OSError, shutil.Error) as error:
            raise CannotStart(f"{path} cannot be copied to {copy}: {error}") from error
        return copy


def _all_below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                yield Path(folder, name)


def _count(path: Path) -> int:
    return sum(1 for _ in _all_below(path))


def _may_read(path: Path) -> bool:
    # a broken link need not be readable
    mode = path.stat().st_mode if path.exists() else 0o444
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return mode & wanted == wanted


def _may_pass(folder: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))


@contextmanager
def open_stage() -> Iterator[Stage]:
    """A stage, with a folder if we are root: else apps run as our own user."""
    if os.geteuid() != 0:
        yield Stage(None)
        return
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(open_scratch("stage", 0o755))
        except OSError as error:
            raise CannotStart(f"no temporary folder can be made: {error}") from error
        yield Stage(scratch)


@define(eq=False)
class Walls:
    """Makes jails. Made by `open_isolation`."""

    place: Place
    host: Host
    stage: Stage
    users: Callable[[], int] | None
    scratch: Scratch | None = None  # of `place.compiled`
    _user_of: dict[str, int] = field(factory=dict, init=False)
    _modules: dict[Path, Path | CannotStart] = field(factory=dict, init=False)

    def prepare(self, apps: Iterable[App]) -> None:
        """Find where the apps' modules can be reached, and copy those that cannot be: at the start
        and after a reload. May take seconds.
        """
        # Many apps share a folder, and a look at one takes 0.1 s.
        folders = {app.modules_dir for app in apps if app.modules_dir is not None}
        self._modules = {folder: self._reachable(folder) for folder in folders}

    def _reachable(self, folder: Path) -> Path | CannotStart:
        try:
            return self.stage.reachable(folder)
        except CannotStart as error:
            return error

    def jail(self, app: App) -> Jail:
        """The jail for a process of an app. Raises CannotStart if its modules cannot be reached."""
        modules = (
            None
            if app.modules_dir is None
            else self._modules.get(app.modules_dir) or self._reachable(app.modules_dir)
        )
        if isinstance(modules, CannotStart):
            raise modules
        self.stage.restore()
        return jail(
            app, self._place_now(), modules, self.user(app.name), os.getpid(), self._compiled(app)
        )

    def blank(self, like: App) -> Jail:
        """The jail for a spare process: that of the app `like`, which must have no modules of its
        own, but with a new user.
        """
        user = None if self.users is None else self.users()
        self.stage.restore()
        return jail(like, self._place_now(), None, user, os.getpid(), self._compiled(like))

    def kind(self, app: App) -> object:
        """All that determines the jail of an app without its own modules, except the user."""
        made = jail(app, self.place, None, None, 0)
        return made.argv, tuple(made.env.items())

    @property
    def compiled(self) -> Path | None:
        """The folder of what is compiled ahead; None if there is none."""
        return self._place_now().compiled

    def _place_now(self) -> Place:
        """The place, without the folder of what is compiled ahead if that was removed for good:
        nothing depends on it.
        """
        is_there = self.scratch is None or self.scratch.is_there()
        return self.place if is_there else evolve(self.place, compiled=None)

    def compiled_name(self, app: App) -> str:
        """The name of the file in `compiled` for an app's flags."""
        return compiled_name(app)

    def _compiled(self, app: App) -> str | None:
        name = compiled_name(app)
        folder = self.place.compiled
        return name if folder is not None and (folder / name).exists() else None

    def user(self, app: str) -> int | None:
        """The user that an app runs as, and no other app for as long as we run; None: our own."""
        if self.users is None:
            return None
        if app not in self._user_of:
            self._user_of[app] = self.users()
        return self._user_of[app]


@contextmanager
def open_isolation(
    settings: Isolation, node: Path, harness: Path, nice: int = 0
) -> Iterator[Walls]:
    """Everything that jails of a level need. `nice`: see `Place`.

    Raises:
        CannotStart: The host cannot give the level.
    """
    with ExitStack() as stack:
        host = inspect_host(settings.level, node)
        stage = stack.enter_context(open_stage())
        is_strict = settings.level == "strict"
        compiled = _open_compiled(stack)
        place = Place(
            level=settings.level,
            node=stage.reachable(node) if is_strict else node,
            code=stage.reachable(harness.parent),
            harness=harness.name,
            libraries=host.libraries,
            launcher=stage.reachable(host.launcher) if is_strict else host.launcher,
            bubblewrap=host.bubblewrap,
            compiled=None if compiled is None else compiled.path,
            nice=nice,
        )
        users = itertools.count(settings.first_user).__next__ if os.geteuid() == 0 else None
        yield Walls(place, host, stage, users, compiled)


def _open_compiled(stack: ExitStack) -> Scratch | None:
    """Make the folder for what is compiled ahead; None if that cannot be done: nothing needs it."""
    try:
        return stack.enter_context(open_scratch("compiled", 0o755))
    except OSError as error:
        log.warning(
            "the toolkits are not compiled ahead: no temporary folder can be made: %s", error
        )
        return None
