"""The container image, built by buildah and run by runc as Kubernetes runs a restricted pod."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from attrs import frozen

from ..gateway_client import connect
from ..programs import STOP_SECONDS, container_tools, wait_ready
from ..service import app_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's container"),
]

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
USER = 10001
BUILD_SECONDS = 1800
# All that a bare root has: what the one file and Node.js are linked with.
LIBRARIES = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    "libresolv.so.2", "libstdc++.so.6", "libgcc_s.so.1",
)  # fmt: skip
CONFIG = """
version = 1
data_dir = "/var/lib/jsbox"
[listen]
gateway = "127.0.0.1:0"
admin = "127.0.0.1:0"
""" + app_lines("phone")
APP = """
api.on_inbound_message = function (command) {
  api.request('outbound.reply_to', {content: 'you said ' + command.msg.content,
    in_reply_to: command.msg.message_id}, function () { api.done(); });
};
"""


def run(*argv: str | Path, **options: object) -> str:
    """A step that must succeed; return its stdout."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return str(done.stdout)


@frozen
class Bundle:
    """Where a container is made."""

    root: Path
    folder: Path

    def start(
        self, name: str, *args: str, cwd: str, env: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """Start a container: no capability, no new privileges, a read-only root, as `USER`."""
        bundle = self.folder / name
        bundle.mkdir()
        run("runc", "spec", cwd=bundle)
        file = bundle / "config.json"
        spec = json.loads(file.read_text())
        spec["root"] = {"path": str(self.root), "readonly": True}
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": USER, "gid": USER},
            "args": list(args),
            "cwd": cwd,
            "env": [f"{key}={value}" for key, value in env.items()],
            "noNewPrivileges": True,
            "capabilities": {},
            "rlimits": [],
        }
        # The host's own network, so that the test can reach the ports.
        spec["linux"]["namespaces"] = [
            one for one in spec["linux"]["namespaces"] if one["type"] not in {"network", "cgroup"}
        ]
        spec["mounts"] = [one for one in spec["mounts"] if one["type"] != "cgroup"]
        data = bundle / "data"
        data.mkdir()
        os.chown(data, USER, USER)
        config = self.folder / "config"
        options = ["nosuid", "nodev", "noexec", "mode=1777", "size=256m"]
        spec["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options},
            {"destination": "/var/lib/jsbox", "source": str(data), "options": ["rbind", "noexec"]},
            {"destination": "/etc/jsbox", "source": str(config), "options": ["rbind", "ro"]},
        ]
        file.write_text(json.dumps(spec))
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                ["runc", "--root", self.folder / "runc", "run", "-b", bundle, name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with jsbox/: that of $JSBOX_FOLDER, or one built now."""
    if given := os.environ.get("JSBOX_FOLDER"):
        return Path(given)
    folder = tmp_path_factory.mktemp("image")
    run(sys.executable, PACKAGING / "build.py", "--folder", folder / "jsbox")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tmp_path / "config"
    config.mkdir()
    (config / "jsbox.toml").write_text(CONFIG)
    (config / "phone.js").write_text(APP)
    for one in (tmp_path, *tmp_path.parents):
        if one.stat().st_uid == 0 and one.is_relative_to(tmp_path.parents[1]):
            one.chmod(0o755)
    return tmp_path


@pytest.fixture
def image(collected: Path, folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """The image's root, mounted, and its config."""
    container_tools()
    storage = ("--root", folder / "s", "--runroot", folder / "r", "--storage-driver", "vfs")
    base = folder / "base"
    run("debootstrap", "--variant=minbase", "bookworm", base)
    container = run("buildah", *storage, "from", "scratch").strip()
    mounted = run("buildah", *storage, "mount", container).strip()
    run("cp", "-a", f"{base}/.", mounted)
    shutil.rmtree(base)
    run("buildah", *storage, "umount", container)
    run("buildah", *storage, "commit", "--rm", container, "debian:bookworm-slim")
    run(
        "buildah", *storage, "build", "--isolation", "chroot", "--pull-never",
        "--network", "host", "-v", "/etc/apt:/etc/apt:ro",
        "-f", PACKAGING / "Containerfile", "-t", "jsbox", collected,
    )  # fmt: skip
    config = json.loads(run("buildah", *storage, "inspect", "--type", "image", "jsbox"))
    container = run("buildah", *storage, "from", "--pull-never", "jsbox").strip()
    root = Path(run("buildah", *storage, "mount", container).strip())
    try:
        yield root, config["OCIv1"]["config"]
    finally:
        run("buildah", *storage, "umount", container)
        run("buildah", *storage, "rmi", "--all", "--force")


async def test_the_image_runs_as_a_restricted_pod(
    image: tuple[Path, dict[str, object]], folder: Path
) -> None:
    """With the user, command and environment of the image: its doctor has no complaint, it answers
    a message, and a SIGTERM is a good end.
    """
    root, config = image
    assert config["User"] == f"{USER}:{USER}"
    entry, command, cwd = config["Entrypoint"], config["Cmd"], config["WorkingDir"]
    assert isinstance(entry, list)
    assert isinstance(command, list)
    assert isinstance(cwd, str)
    assert isinstance(config["Env"], list)
    env = dict(one.split("=", 1) for one in config["Env"])
    bundle = Bundle(root, folder)
    doctor = bundle.start("doctor", *entry, "doctor", "--json", cwd=cwd, env=env)
    assert doctor.wait(STOP_SECONDS) == 0, bundle.log("doctor").read_text()
    pod = bundle.start("pod", *entry, *command, cwd=cwd, env=env)
    server = wait_ready(pod, bundle.log("pod"))
    async with connect(server.gateway, "phone") as client:
        outcome, replies = await client.say("hello")
    assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hello")
    run("runc", "--root", folder / "runc", "kill", "pod", "TERM")
    assert pod.wait(STOP_SECONDS) == 0, bundle.log("pod").read_text()


def test_a_root_with_nothing_but_the_c_and_cpp_libraries(collected: Path, folder: Path) -> None:
    """No shell, no /etc/passwd, no time zones, no libz: the collected folder brings the rest."""
    container_tools()
    root = folder / "bare"
    known = dict(
        line.strip().split(" (", 1)[0:1] + line.strip().rsplit(" => ", 1)[1:2]
        for line in run("ldconfig", "-p").splitlines()[:0:-1]
        if " => " in line
    )
    loader = next(Path(path) for name, path in known.items() if name.startswith("ld-linux"))
    inside = root / "lib" / Path(known["libc.so.6"]).parent.name
    for folder_inside in (
        inside,
        root / "lib64",
        root / "lib",
        root / "opt",
        root / "etc" / "jsbox",
    ):
        folder_inside.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        shutil.copy(Path(known[name]).resolve(), inside / name)
    for place in (root / "lib64", root / "lib"):
        shutil.copy(loader.resolve(), place / loader.name)
    for mount in ("proc", "dev", "sys", "tmp", "var/lib/jsbox"):
        (root / mount).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)  # which the mount keeps
    shutil.copytree(collected / "jsbox", root / "opt" / "jsbox", symlinks=True)
    bundle = Bundle(root, folder)
    demo = bundle.start(
        "demo", "/opt/jsbox/jsbox", "demo", "--once", cwd="/", env={"HOME": "/var/lib/jsbox"}
    )
    assert demo.wait(STOP_SECONDS) == 0, bundle.log("demo").read_text()
    assert "the conversation went as it should" in bundle.log("demo").read_text()
