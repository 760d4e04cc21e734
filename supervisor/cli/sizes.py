"""How much room a text takes on a phone: in the GSM 7-bit alphabet, or else in UCS-2."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
TWICE = frozenset("\f^{}\\[~]|€")  # of the extension table: each takes two places


@frozen
class Size:
    """The alphabet that a text needs, and how many places it takes in it."""

    alphabet: str
    places: int


@frozen
class Preset:
    """A screen: how many places it has in each alphabet."""

    gsm: int
    ucs2: int

    def most(self, size: Size) -> int:
        """How many places there are for a text."""
        return self.gsm if size.alphabet == "GSM-7" else self.ucs2


SCREENS: Mapping[str, Preset] = {"160": Preset(160, 70), "182": Preset(182, 80)}
"""182 places are what USSD has room for, in 160 bytes; many networks show 160, in 140 bytes."""
SMS, PART = Preset(160, 70), Preset(153, 67)
"""A message of one part, and each part of a longer one."""


def measure(text: str) -> Size:
    """Measure a text."""
    if all(char in GSM or char in TWICE for char in text):
        return Size("GSM-7", len(text) + sum(char in TWICE for char in text))
    return Size("UCS-2", len(text.encode("utf-16-le", "surrogatepass")) // 2)


def parts(size: Size) -> int:
    """How many parts a text message has."""
    if size.places <= SMS.most(size):
        return 1
    return -(-size.places // PART.most(size))
