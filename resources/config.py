"""config: what the operator configured for the app."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from .contract import Caller, Resource, command
from .parameters import parameter


@frozen
class ConfigSettings:
    """Config key to its text. JSON values are texts too: apps parse them."""

    values: Mapping[str, str]


@frozen
class Get:
    """config.get."""

    key: str = parameter(missing="'key' must be given, as a string", wrong="'key' must be a string")


@frozen
class Value:
    """The text, or null if the key does not exist."""

    value: str | None


@frozen
class ConfigResource(Resource):
    """The config command."""

    @command("config.get")
    def get(self, caller: Caller, request: Get) -> Value:
        """Retrieve a value of the app's config; null if the key does not exist."""
        return Value(caller.setting(ConfigSettings).values.get(request.key))
