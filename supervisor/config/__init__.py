"""The config file: `load` reads it into a `Config`."""

from .accounts import Account, KvQuota
from .document import InvalidConfig, Problem
from .load import load
from .model import App, Channel, Config, Http, Limits, Pool
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
