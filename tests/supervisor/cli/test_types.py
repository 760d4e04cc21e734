"""`jsbox types` has every command with the fields that it takes; tests/integration/test_new.py has
tsc check an app against it.
"""

from __future__ import annotations

import re

from resources.contract import Resource
from supervisor.cli.types import RESOURCES, declarations
from supervisor.runs import programs


def test_every_resource_is_there() -> None:
    """Whatever the service is built of."""
    known = [one for one in vars(programs).values() if isinstance(one, type)]
    assert set(RESOURCES) == {one for one in known if issubclass(one, Resource)} - {Resource}


def test_every_command_is_there_and_no_other() -> None:
    found = re.findall(r"^  '([\w.]+)': \{ request", declarations(), re.MULTILINE)
    assert found == sorted(set(found), key=found.index)
    assert set(found) == {name for resource in RESOURCES for name in resource.COMMANDS}


def test_fields_and_replies_are_those_of_the_tables() -> None:
    text = declarations()
    for row in (
        "'kv.set': { request: { key: string; value?: any; seconds?: number | null }; reply: {} };",
        "'kv.delete': { request: { key: string }; reply: { existed: boolean } };",
        "'config.get': { request: { key: string }; reply: { value: string | null } };",
        "'groups.list': { request: {}; reply: { groups: Array<{ [key: string]: any }> } };",
        "'log.info': { request: { msg: any; level?: number | null }; reply: {} };",
        "'optout.cancel_optout': { request: { address_type: any; address_value: any };",
    ):
        assert row in text, row
