"""Every command's help ends with an example that the command would take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from supervisor.cli import COMMANDS, jsbox
from supervisor.cli.examples import EXAMPLES

CONTEXT = click.Context(jsbox)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command, with those below it."""

    def below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        if isinstance(command, click.Group):
            for name, other in command.commands.items():
                yield from below(f"{path} {name}", other)

    for name in COMMANDS:
        command = jsbox.get_command(CONTEXT, name)
        assert command is not None
        yield from below(name, command)


ALL = dict(commands())


@pytest.mark.parametrize("path", list(ALL))
def test_the_help_ends_with_an_example(path: str) -> None:
    """Each line as it was written; no marker of click's is left."""
    shown = CliRunner().invoke(jsbox, [*path.split(), "--help"]).output
    assert "\b" not in shown
    assert r"\b" not in shown
    _, heading, examples = shown.rpartition("Example")
    assert heading, f"add one for {path!r} to supervisor/cli/examples.py"
    assert [line.strip() for line in examples.splitlines()[1:]] == list(EXAMPLES[path])


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_has_the_options_of_its_command(line: str) -> None:
    found = re.search(r"\bjsbox (.*?)( [|>&<].*)?$", line)
    assert found is not None
    words = shlex.split(found[1])
    command, path = ALL[words.pop(0)], "jsbox"
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        path, command = f"{path} {words[0]}", command.commands[words.pop(0)]
    parser = command.make_parser(click.Context(command, info_name=path))
    parser.parse_args(words)


def test_every_example_is_of_a_command() -> None:
    assert EXAMPLES.keys() == ALL.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_as_the_readme_says(shell: str) -> None:
    """The shell's script, and what it then asks for."""
    ask = {"COMP_WORDS": "jsbox con", "COMP_CWORD": "con" if shell == "fish" else "1"}
    script = CliRunner().invoke(
        jsbox, prog_name="jsbox", env={"_JSBOX_COMPLETE": f"{shell}_source"}
    )
    assert "_JSBOX_COMPLETE" in script.output
    assert "jsbox" in script.output
    env = ask | {"_JSBOX_COMPLETE": f"{shell}_complete"}
    assert "contacts" in CliRunner().invoke(jsbox, prog_name="jsbox", env=env).output
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    assert f"{shell}_source" in readme
