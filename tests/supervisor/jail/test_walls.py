"""What the host must have for a jail, and what the jail is made of."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from attrs import evolve

from supervisor.config.model import Config, Isolation
from supervisor.errors import BootFailed, CannotStart
from supervisor.host.scratch import Scratch
from supervisor.jail import walls as isolation
from supervisor.jail.argv import Place, jail, unheld
from supervisor.jail.walls import Stage, Walls, inspect_host, open_isolation
from supervisor.sandboxes.lifecycle import hold_sandbox
from supervisor.service import HARNESS
from supervisor.tools import doctor

from ...apps import NODE, make_app, walls
from ...programs import jsbox

PLACE = Place(
    "standard",
    Path("/opt/node"),
    Path("/opt/js"),
    "harness.js",
    (Path("/lib/libc.so.6"),),
    Path("/opt/jail"),
    Path("/usr/bin/bwrap"),
)


def test_strict_without_bubblewrap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; never a lower level instead."""
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    with pytest.raises(CannotStart, match="needs bubblewrap: apt-get install bubblewrap"):
        inspect_host("strict", NODE)
    assert inspect_host("standard", NODE).bubblewrap is None


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSYS, r"this kernel .* does not have: Linux 5\.13 or newer"),
        (errno.EOPNOTSUPP, r"this kernel .* has not enabled: add 'landlock' to its lsm= list"),
        (errno.EPERM, r"is forbidden here \(Operation not permitted\): the seccomp profile"),
    ],
)
def test_without_landlock_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    """At both levels that need it, with what helps."""
    monkeypatch.setattr(isolation, "_output", lambda argv, env=None: f"-{number}\n")
    for level in ("standard", "strict"):
        with pytest.raises(CannotStart, match=f"needs Landlock, which {says}"):
            inspect_host(level, NODE)


def test_a_missing_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without it says how to get it."""
    monkeypatch.setattr(isolation, "LAUNCHER", Path("/no/such/launcher"))
    with pytest.raises(
        CannotStart,
        match="needs the launcher /no/such/launcher, which is built when jsbox is installed",
    ):
        inspect_host("standard", NODE)


def test_limits_of_the_config_reach_the_launcher() -> None:
    """As numbers of resource limits; files and users as they were given."""
    app = make_app("", limits={"memory": 200 << 20, "heap": 32 << 20, "open_files": 40})
    made = jail(app, PLACE, Path("/srv/modules"), 300_007, 4711)
    argv = " ".join(made.argv)
    assert argv.startswith("/opt/jail -u 300007 -p 4711 -r ")
    assert f"-r {resource.RLIMIT_DATA}:{168 << 20}:{168 << 20} " in argv
    assert f"-r {resource.RLIMIT_NOFILE}:40:40 " in argv
    assert f"-r {resource.RLIMIT_CORE}:0:0 " in argv
    assert (
        "-R /opt/js -R /srv/modules -X /lib/libc.so.6 -X /opt/node -e /opt/node -- node "
        "--max-old-space-size=32 " in argv
    )
    assert "-N" not in argv
    assert jail(app, evolve(PLACE, nice=7), None, None, 4711).argv[1:3] == ("-N", "7")
    assert argv.endswith(
        "--permission --allow-fs-read=/opt/js/* --allow-fs-read=/srv/modules/* /opt/js/harness.js"
    )
    assert (made.modules_dir, made.must_hold) == ("/srv/modules", True)


def test_strict_has_no_file_system_but_what_is_bound() -> None:
    """bubblewrap is given the program, its libraries, the harness and the app's modules, all
    read-only; the launcher is inside.
    """
    made = jail(make_app(""), evolve(PLACE, level="strict"), Path("/srv/modules"), 300_007, 4711)
    argv = " ".join(made.argv)
    outside, _, inside = argv.partition(" -- ")
    assert outside.startswith(
        "/usr/bin/bwrap --unshare-user --unshare-ipc --unshare-pid --unshare-net "
    )
    assert outside.count("--ro-bind") == 5
    assert "--bind" not in outside.replace("--ro-bind", "")
    assert inside.startswith("/sb/jail -r ")
    assert "-R /sb/code -R /sb/modules -X /lib/libc.so.6 -X /sb/node -e /sb/node -- node " in inside
    assert (made.user, made.modules_dir, made.is_wrapped, made.must_hold) == (
        300_007,
        "/sb/modules",
        True,
        True,
    )


def test_none_is_resource_limits_only() -> None:
    """The launcher sets them; nothing else stands in the way."""
    made = jail(make_app(""), evolve(PLACE, level="none"), None, None, 4711)
    assert made.argv[:4] == ("/opt/jail", "-n", "-p", "4711")
    assert f"{int(resource.RLIMIT_CORE)}:0:0" in made.argv
    assert "--permission" not in made.argv
    assert not made.must_hold


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each app a user of its own")
def test_each_app_has_a_user_of_its_own() -> None:
    """Counted from first_user, never root, and never another app's again."""
    with open_isolation(Isolation("standard", first_user=400_000), NODE, HARNESS) as some:
        users = [some.user(name) for name in ("a", "b", "a", "c")]
    assert users == [400_000, 400_001, 400_000, 400_002]


def scratch_at(path: Path) -> Scratch:
    path.mkdir(mode=0o700)
    return Scratch(path, 0o755, ExitStack())


def test_copies_that_were_taken_away_are_made_again(tmp_path: Path) -> None:
    """By a cleaner of /tmp: the folder of all, one copy, and, where it is looked for, a file of
    one. Nothing is done where all is there.
    """
    closed, stage_folder = tmp_path / "closed", tmp_path / "stage"
    (closed / "modules" / "m").mkdir(parents=True)
    for name in ("a.js", "b.js"):
        (closed / "modules" / "m" / name).write_text(name)
    closed.chmod(0o700)
    with ExitStack() as held:
        scratch = scratch_at(stage_folder)
        scratch._held = held
        stage = Stage(scratch)
        copy = stage.reachable(closed / "modules")
        for taken, thoroughly in (
            (stage_folder, False),
            (copy, False),
            (copy / "m", True),
            (copy / "m" / "a.js", True),
        ):
            shutil.rmtree(taken) if taken.is_dir() else taken.unlink()
            stage.restore(thoroughly=thoroughly)
            assert (copy / "m" / "a.js").read_text() == "a.js"
            assert (copy / "m" / "a.js").stat().st_mode & 0o004
            assert stage_folder.stat().st_mode & 0o777 == 0o755
        before = copy.stat().st_ino
        stage.restore(thoroughly=True)
        assert copy.stat().st_ino == before
        shutil.rmtree(stage_folder)
        stage_folder.write_text("somebody else's")
        with pytest.raises(CannotStart, match="was removed, and cannot be made again"):
            stage.restore()


def test_what_other_users_cannot_reach_is_copied(tmp_path: Path) -> None:
    """A folder behind a closed door; what can be reached stays where it is; a change makes a new
    copy.
    """
    closed, stage_folder = tmp_path / "closed", tmp_path / "stage"
    (closed / "modules" / "m").mkdir(parents=True)
    (closed / "modules" / "m" / "index.js").write_text("1")
    (closed / "modules" / "m" / "index.js").chmod(0o600)
    closed.chmod(0o700)
    stage = Stage(scratch_at(stage_folder))
    copy = stage.reachable(closed / "modules")
    assert copy.parent == stage_folder
    assert (copy / "m" / "index.js").read_text() == "1"
    assert (copy / "m" / "index.js").stat().st_mode & 0o004
    assert stage.reachable(closed / "modules") == copy
    (closed / "modules" / "m" / "index.js").write_text("2")
    os.utime(closed / "modules" / "m" / "index.js", (2e9, 2e9))
    assert (stage.reachable(closed / "modules") / "m" / "index.js").read_text() == "2"
    assert stage.reachable(Path("/usr/bin")) == Path("/usr/bin")
    with pytest.raises(CannotStart, match="does not exist"):
        stage.reachable(tmp_path / "nothing")


def test_a_folder_of_modules_is_looked_at_once_however_many_apps_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a node_modules of thousands of files takes 0.1 s."""
    seen: list[Path] = []
    shared = walls()

    def reachable(_: Stage, folder: Path) -> Path:
        seen.append(folder)
        return folder

    monkeypatch.setattr(Stage, "reachable", reachable)
    made = Walls(shared.place, shared.host, shared.stage, None)
    own = [make_app("", f"own{n}", modules_dir=tmp_path / f"{n % 2}") for n in range(50)]
    made.prepare([*own, make_app("")])
    assert sorted(seen) == [tmp_path / "0", tmp_path / "1"]
    for app in own:
        made.jail(app)
    assert len(seen) == 2


def test_a_copy_holds_nothing_that_a_link_leads_to(tmp_path: Path) -> None:
    """A link out of the folder stays a link, so that an app cannot have root copy what the app may
    not read; links inside still work.
    """
    closed, stage_folder, secret = tmp_path / "closed", tmp_path / "stage", tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    (closed / "modules" / "m").mkdir(parents=True)
    (closed / "modules" / "m" / "index.js").write_text("1")
    (closed / "modules" / "out").symlink_to(secret)
    (closed / "modules" / "nowhere").symlink_to("/no/such/file")
    (closed / "modules" / "alias").symlink_to("m", target_is_directory=True)
    closed.chmod(0o700)
    copy = Stage(scratch_at(stage_folder)).reachable(closed / "modules")
    assert (copy / "out").readlink() == secret
    assert (copy / "alias" / "index.js").read_text() == "1"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_process_without_a_jail_is_seen_to_be_unheld() -> None:
    """Looked at from outside."""
    lacks = unheld(os.getpid())
    assert "NoNewPrivs is ['0'], not ['1']" in lacks
    assert "Seccomp is ['0'], not ['2']" in lacks


async def test_a_sandbox_that_is_not_held_is_ended() -> None:
    """Should the launcher ever do less than it says, no app is run in what it starts."""
    app = make_app("")
    bare = evolve(walls("none").jail(app), must_hold=True)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with pytest.raises(BootFailed, match="the jail does not hold: "):
                await nursery.start(hold_sandbox, app, bare)


def test_limits_that_the_host_cannot_give_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what may be given, and where that is set."""
    monkeypatch.setattr(
        doctor.resource,
        "getrlimit",
        lambda kind: (64, 64) if kind == resource.RLIMIT_NOFILE else (-1, -1),
    )
    config = Config(
        apps={
            "small": make_app("", "small", limits={"open_files": 63}),
            "large": make_app("", "large", limits={"open_files": 64}),
        }
    )
    (check,) = doctor.check_limits(config)
    assert (check.name, check.status) == ("limits: large", "failed")
    assert check.text == "apps.large.limits.open_files needs 65, this process may set 64"
    assert "LimitNOFILE" in check.remedy


def test_doctor_examines_a_host(tmp_path: Path) -> None:
    """Everything in order is exit code 0; what is not says its remedy, and exit code 1."""
    config = tmp_path / "jsbox.toml"
    config.write_text('version = 1\n[listen]\ngateway = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n')
    done = jsbox("doctor", "-c", str(config))
    assert done.returncode == 0, done.stdout
    for text in (
        "no file of the host's can be read (EACCES)",
        "level standard, Landlock ",
        "can do at level none what the jail denies (all of it)",
        "tantivy",
    ):
        assert text in done.stdout
    config.write_text(
        'version = 1\n[listen]\nadmin = "127.0.0.1:0"\ngateway = "192.0.2.1:80"\n'
        '[redis]\nurl = "unix:///no/such.sock"\n[node]\npath = "/bin/true"\n'
    )
    done = jsbox("doctor", "-c", str(config))
    assert done.returncode == 1
    assert "192.0.2.1:80 cannot be listened on" in done.stdout
    assert "redis.url does not answer" in done.stdout
    assert "remedy: start it, or correct redis.url" in done.stdout
