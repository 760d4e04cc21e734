"""The harness and the config agree on what apps may require."""

import re
from pathlib import Path

from supervisor.config.node import BUILTINS, TOOLKITS

HARNESS = Path(__file__).parents[3] / "sandbox_js"


def listed(file: str, name: str) -> tuple[str, ...]:
    """The strings of a JavaScript array literal."""
    found = re.search(rf"const {name} = [^\[\n]*\[([^\]]*)\]", (HARNESS / file).read_text())
    assert found is not None
    return tuple(re.findall(r"'([^']+)'", found[1]))


def test_the_harness_has_the_same_lists() -> None:
    assert listed("lib/library.js", "BUILTINS") == BUILTINS
    assert listed("codecache.js", "MODULES") == TOOLKITS
