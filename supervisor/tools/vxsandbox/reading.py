"""Reading a worker's YAML and its container's environment, in bounded time whatever they are."""

from __future__ import annotations

from typing import Any

import yaml

from resources.text import is_clean

from .decisions import CannotMigrate, one_line

YAML_MAX = 128 << 10  # characters; those of real workers have one or two thousand
NODES_MAX = 10_000  # values, counting one again wherever an alias or a merge repeats it
BITS_MAX = 256  # of a number; an id of digits may be one


def read_env(text: str) -> dict[str, str]:
    """Read `NAME=value` lines, the format of docker's --env-file."""
    found = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            found[name.removeprefix("export ").strip()] = value.strip().strip("\"'")
    return found


def read_yaml(text: str) -> dict[str, Any]:
    """The mapping that a worker's YAML is.

    Raises:
        CannotMigrate: It is anything else, or repeats itself without end.
    """
    if len(text) > YAML_MAX:
        raise CannotMigrate(
            f"expected at most {YAML_MAX} characters, the config of a worker, got {len(text)}"
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _size(node) > NODES_MAX:
            raise CannotMigrate(f"it has more than {NODES_MAX} values, aliases included")
        old = yaml.SafeLoader("").construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        raise CannotMigrate(f"it is not YAML: {one_line(str(error))}") from error
    except RecursionError:
        raise CannotMigrate("its values are nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or a number that cannot be
        raise CannotMigrate(f"it has a value that cannot be read: {one_line(str(error))}") from None
    if not isinstance(old, dict):
        raise CannotMigrate("expected a YAML mapping, the config of a worker")
    for key, value in old.items():
        _must_be_writable("a key", key)
        _must_be_writable(one_line(str(key)), value)
    return {str(key): value for key, value in old.items()}


def _size(root: yaml.Node) -> int:
    """The values below a node, each counted as often as it is repeated.

    Raises:
        CannotMigrate: A value is part of itself.
    """
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def of(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise CannotMigrate("an alias leads into itself")
        open_nodes.add(id(node))
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [one for pair in node.value for one in pair]
        sizes[id(node)] = 1 + sum(of(one) for one in below)
        return sizes[id(node)]

    return of(root)


def _must_be_writable(where: str, value: Any) -> None:
    """Refuse what no config can hold: half a surrogate pair, and numbers of thousands of digits,
    which Python does not even print.
    """
    if isinstance(value, str) and not is_clean(value):
        raise CannotMigrate(f"{where}: it has a text that is not valid Unicode")
    if isinstance(value, int) and value.bit_length() > BITS_MAX:
        raise CannotMigrate(f"{where}: it has a number of more than {BITS_MAX} bits")
    if isinstance(value, dict):
        for item in (*value, *value.values()):
            _must_be_writable(where, item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _must_be_writable(where, item)
