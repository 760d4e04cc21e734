"""docs/toolkit.md is true: every recipe runs, in the frame that the page shows, and its test
passes.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..programs import jsbox

TEXT = (Path(__file__).parents[2] / "docs" / "toolkit.md").read_text("utf-8")
RECIPES = re.findall(
    r"^### (.+?)\n.*?^```js\n(.*?)^```\n.*?^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
)
PLACE = "    // the recipe goes here\n"


def test_every_recipe_has_an_app_and_a_test() -> None:
    assert len(RECIPES) == TEXT.count("\n### ")
    blocks = re.findall(r"^```(\w+)$", TEXT, re.MULTILINE)
    assert (blocks.count("js"), blocks.count("toml")) == (len(RECIPES) + 1, len(RECIPES))


def test_every_recipe_passes_its_test(tmp_path: Path) -> None:
    frame = re.findall(r"<!-- frame -->\n```js\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]
    assert PLACE in frame
    config = ""
    for number, (_, recipe, test) in enumerate(RECIPES):
        name = f"recipe{number}"
        (tmp_path / f"{name}.js").write_text(frame.replace(PLACE, recipe))
        (tmp_path / f"{name}.chat.toml").write_text(f'app = "{name}"\n{test}')
        config += (
            f'[accounts.{name}]\n[apps.{name}]\naccount = "{name}"\njavascript = "{name}.js"\n'
            f"""config = {{ config = '{{"name": "{name}"}}' }}\ndelivery_class = "ussd"\n"""
            f'endpoints = {{ default = "{name}", sms = "{name}" }}\n'
            f'[channels.{name}]\napp = "{name}"\ntransport_type = "ussd"\n'
        )
    (tmp_path / "jsbox.toml").write_text(config)
    done = jsbox("test", "-c", str(tmp_path / "jsbox.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RECIPES)} passed" in done.stdout
