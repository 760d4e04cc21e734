"""[accounts.NAME]: the keys of an account, with what it may have at most."""

from __future__ import annotations

from attrs import frozen

from .units import Count, CountryCode, Natural, Size

BYTES_PER_KEY = 8 << 10


@frozen
class KvQuota:
    """accounts.NAME.kv: the quota of an account's key-value store."""

    keys_hard: Count = Count(10000)  # more are refused
    keys_soft: Natural | None = None  # a warning in the app's log; default 80% of keys_hard
    value_max: Size = Size(64 << 10)  # one value, as JSON text
    bytes_max: Size | None = None  # of names and values together; default 8 KiB times keys_hard

    @property
    def soft(self) -> int:
        """The number of keys above which a warning is logged."""
        return int(self.keys_hard * 0.8) if self.keys_soft is None else self.keys_soft

    @property
    def most_bytes(self) -> int:
        """The bytes that all names and values together may take."""
        return self.keys_hard * BYTES_PER_KEY if self.bytes_max is None else self.bytes_max


@frozen
class Account:
    """[accounts.NAME]: a tenant."""

    can_manage_optouts: bool = False  # whether its apps may use the optout commands
    contacts_max: Count = Count(10_000_000)  # more are refused
    groups_max: Count = Count(10_000)  # likewise
    optouts_max: Count = Count(10_000_000)  # likewise
    # for numbers such as 0821234567: "27" makes it +27821234567; empty: it stays as it is
    country_code: CountryCode = CountryCode("")
    kv: KvQuota = KvQuota()
