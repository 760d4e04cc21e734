"""What a reload does before anything is changed: reading the config, and getting ready what its apps need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resources.fence import cause_of
from resources.text import clean

from .config import Config, InvalidConfig
from .dispatcher import Program
from .errors import CannotStart
from .isolation import Walls
from .programs import program_of


def prepare(read_config: Callable[[], Config], walls: Walls) -> tuple[Config, dict[str, Program]]:
    """Read the config; return it and its apps, ready to be run. Takes a while: for a worker thread.

    Raises:
        InvalidConfig: With everything that is wrong with it.
        CannotStart: This host cannot do what it asks for; the text says what.
    """
    config = read_config()
    programs = {name: program_of(config, app) for name, app in config.apps.items()}
    walls.prepare(tuple(config.apps.values()))
    return config, programs


def refusal(error: Exception) -> dict[str, Any]:
    """The answer to a reload that was refused, or that failed in a way that nobody expected."""
    if isinstance(error, InvalidConfig):
        problems = [f"{error.file}:{problem.line}: {problem.text}" for problem in error.problems]
    elif isinstance(error, CannotStart):
        problems = [str(error)]
    else:
        problems = [f"internal error: {cause_of(error)}; the old config stays"]
    return {"ok": False, "errors": [clean(problem) for problem in problems]}
