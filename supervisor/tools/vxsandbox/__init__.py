"""Converting the YAML of a vxsandbox worker to a jsbox.toml: every key is converted, dropped with a
reason, or refused.
"""

from .decisions import CannotMigrate
from .files import Places
from .reading import read_env
from .transports import valid_name
from .worker import Migrated, Options, migrate

__all__ = [
    "CannotMigrate", "Migrated", "Options", "Places", "migrate", "read_env", "valid_name",
]  # fmt: skip
