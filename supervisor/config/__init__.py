"""The config file: `load` reads it into a `Config`."""

from .document import InvalidConfig, Problem
from .load import load
from .model import Account, App, Channel, Config, Http, KvQuota, Limits, Pool
from .units import Address

__all__ = [
    "Account",
    "Address",
    "App",
    "Channel",
    "Config",
    "Http",
    "InvalidConfig",
    "KvQuota",
    "Limits",
    "Pool",
    "Problem",
    "load",
]
