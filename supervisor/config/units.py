"""Values of the config file that carry a unit or a shape: durations, sizes, addresses.

Each parser takes any TOML value, and raises a `ValueError` that says what was expected and what was
given.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NewType

from attrs import frozen

from .urls import host_problem

Duration = NewType("Duration", float)
"""Seconds, more than zero."""
Size = NewType("Size", int)
"""Bytes, more than zero."""
Count = NewType("Count", int)
"""An integer, 1 or more."""
Natural = NewType("Natural", int)
"""An integer, 0 or more."""
Percent = NewType("Percent", int)
"""An integer from 0 to 100."""
Nice = NewType("Nice", int)
"""An integer from 0 to 19: what is added to the niceness of a process."""
CountryCode = NewType("CountryCode", str)
"""What national numbers begin with in other countries, without plus; or empty."""
Urls = NewType("Urls", tuple[str, ...])
"""One URL or more."""

DAYS_MAX = 1_000_000  # fits counters of milliseconds and sums with a clock
SIZE_MAX = 1 << 50  # bytes
COUNT_MAX = 10**12
PERCENT_MAX = 100
NICE_MAX = 19
SHOWN_MAX = 200  # characters of a value in a message

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COUNTRY_CODE = re.compile(r"(?:[1-9][0-9]{0,2})?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


def show(value: Any) -> str:
    """Show a value as a TOML file has it, or the beginning of a long one."""
    if isinstance(value, str):
        return '"' + shorten(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return shorten(repr(value))
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} with more digits than can be shown"


def shorten(text: str) -> str:
    """A text, cut off after SHOWN_MAX characters."""
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def _quantity(
    value: Any, units: dict[str, float] | dict[str, int], what: str, most: float, most_shown: str
) -> float:
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        raise ValueError(f"expected {what}, got {show(value)}")
    amount = float(found[1]) * units[found[2]]
    if amount <= 0:
        raise ValueError(f"expected more than zero, got {show(value)}")
    if amount > most:
        raise ValueError(f"expected at most {most_shown}, got {show(value)}")
    return amount


def parse_duration(value: Any) -> Duration:
    """Parse `"10s"` into seconds."""
    what = 'a duration with its unit, such as "250ms", "10s", "10m", "1h" or "7d"'
    return Duration(_quantity(value, _SECONDS, what, DAYS_MAX * 86_400.0, f"{DAYS_MAX}d"))


def parse_size(value: Any) -> Size:
    """Parse `"256MiB"` into bytes."""
    what = 'a size with its unit, such as "512B", "64KiB", "256MiB" or "1GiB"'
    return Size(_whole(_quantity(value, _BYTES, what, SIZE_MAX, f"{SIZE_MAX >> 30}GiB"), value))


def _whole(amount: float, value: Any) -> int:
    if amount < 1:
        raise ValueError(f"expected at least 1B, got {show(value)}")
    return int(amount)


def show_duration(seconds: float) -> str:
    """Show seconds as a person writes them: `4.1ms`, `2.5s`, `10m`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms"
    unit = next(
        unit
        for unit in ("d", "h", "m", "s")
        if seconds >= _SECONDS[unit] and (unit == "s" or seconds % _SECONDS[unit] == 0)
    )
    return f"{seconds / _SECONDS[unit]:.3g}{unit}"


def show_size(size: float) -> str:
    """Show bytes as a person writes them: `864KiB`, `1.5MiB`."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size >= _BYTES[unit] or unit == "B")
    amount = size / _BYTES[unit]
    # digits
    return f"{amount:.3g}{unit}" if amount < 1000 else f"{amount:.0f}{unit}"  # noqa: PLR2004


def parse_count(value: Any) -> Count:
    """Check an integer of 1 or more."""
    if type(value) is not int or value < 1:
        raise ValueError(f"expected an integer of 1 or more, got {show(value)}")
    return Count(_bounded(value))


def parse_natural(value: Any) -> Natural:
    """Check an integer of 0 or more."""
    if type(value) is not int or value < 0:
        raise ValueError(f"expected an integer of 0 or more, got {show(value)}")
    return Natural(_bounded(value))


def parse_percent(value: Any) -> Percent:
    """Check an integer from 0 to 100."""
    if type(value) is not int or not 0 <= value <= PERCENT_MAX:
        raise ValueError(f"expected an integer from 0 to 100 (percent), got {show(value)}")
    return Percent(value)


def parse_nice(value: Any) -> Nice:
    """Check an integer from 0 to 19."""
    if type(value) is not int or not 0 <= value <= NICE_MAX:
        raise ValueError(f"expected an integer from 0 to {NICE_MAX}, got {show(value)}")
    return Nice(value)


def _bounded(value: int) -> int:
    if value > COUNT_MAX:
        raise ValueError(f"expected at most {COUNT_MAX}, got {show(value)}")
    return value


def parse_country_code(value: Any) -> CountryCode:
    """Check a country code: `"27"`, or `""` for none."""
    if not isinstance(value, str) or not _COUNTRY_CODE.fullmatch(value):
        raise ValueError(f'expected 1 to 3 digits, such as "27", or "", got {show(value)}')
    return CountryCode(value)


def parse_urls(value: Any) -> Urls:
    """Check a URL, or a list of them."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise ValueError(f"expected a URL or a list of URLs, got {show(value)}")
    return Urls(tuple(found))


# The addresses that mean every address of this host, each with one to connect to.
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here


@frozen
class Address:
    """A host and port to listen on or connect to; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def reachable(self) -> Address:
        """The address at which this host itself reaches what listens at this one."""
        return Address(WILDCARDS.get(self.host, self.host), self.port)


_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})")
_PORTS = 65535


def parse_address(value: Any) -> Address:
    """Parse `"127.0.0.1:8430"` or `"[::1]:8430"`."""
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[3]) > _PORTS or host_problem(found[1] or found[2]):
        raise ValueError(
            f'expected "host:port", such as "127.0.0.1:8430" or "[::1]:8430", got {show(value)}'
        )
    return Address(found[1] or found[2], int(found[3]))
