"""The names of keys in Redis. Every key of an account carries the hash tag `{account}`, and every
key of a channel its own, so that the keys of a Lua script are on one node of a cluster. Names of
accounts, apps and channels contain no brace or colon (the config checks that), and a part that an
app chooses comes last, so no key can be mistaken for another.
"""

from __future__ import annotations


def account_key(account: str, *parts: str) -> str:
    """A key of an account."""
    return ":".join((f"jsbox:{{{account}}}", *parts))


def prefix_of(account: str) -> str:
    """What every key of an account begins with, for the scripts that touch several."""
    return account_key(account, "")


def channel_key(channel: str, *parts: str) -> str:
    """A key of a channel. The colon keeps its tag apart from every account's."""
    return ":".join((f"jsbox:{{channel:{channel}}}", *parts))
