"""Made-up contacts, and a query of each class: in Lucene syntax, and as parts for other engines."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from attrs import frozen

GIVEN = [
    a + b
    for a in ("thandi", "sipho", "lera", "jack", "zane", "mari", "nom", "pet", "andi", "bon")
    for b in ("", "wa", "to", "le", "na", "sa", "mi", "ri", "ka", "be", "lo", "du", "fa")
]
FAMILY = [
    a + b
    for a in ("ndlo", "dla", "john", "smi", "nko", "khu", "mok", "bot", "van", "pil")
    for b in (
        "vu",
        "mini",
        "son",
        "th",
        "si",
        "malo",
        "oena",
        "ha",
        "wyk",
        "lay",
        "jackson",
        "erson",
        "ana",
    )
]
CLINICS = 50
WEIGHTS = [1 + 100 // n for n in range(1, len(GIVEN) + 1)]  # some names are common


def people(count: int) -> Iterator[dict[str, Any]]:
    """Generate contacts as JSON objects, the same ones every time."""
    source = random.Random(20261125)
    for n in range(count):
        name = " ".join(source.choices(GIVEN, weights=WEIGHTS, k=source.choice((1, 1, 2))))
        yield {
            "key": UUID(int=source.getrandbits(128)).hex,
            "name": name,
            "surname": source.choice(FAMILY),
            "msisdn": f"+2782{n * 37 % 10_000_000:07d}",
            "email_address": f"{name.replace(' ', '.')}{n}@mail{n % 7}.example.org",
            "created_at": (
                f"2014-{source.randrange(1, 13):02d}-{source.randrange(1, 29):02d}"
                f" 10:20:30.{n % 1_000_000:06d}"
            ),
            "groups": [f"g{n % 20}"],
            "extras-clinic": f"clinic{source.randrange(CLINICS)}",
            "extras-language": source.choice(("en", "zu", "xh", "af")),
        }


@frozen
class Asked:
    """A query of one class; `kind` and `values` are for engines without Lucene syntax."""

    label: str
    lucene: str
    kind: str
    values: tuple[str, ...] = ()


QUERIES = (
    Asked("point", r"msisdn:\+27820000037", "point", ("+27820000037",)),
    Asked("term", "name:siphowa", "term", ("siphowa",)),
    Asked("phrase", 'name:"thandi thandiwa"', "phrase", ("thandi", "thandiwa")),
    Asked("prefix", "surname:ndlo*", "prefix", ("ndlo",)),
    Asked("leading wildcard", "surname:*son", "suffix", ("son",)),
    Asked("wildcard, e-mail", "email_address:*thandi1234*", "inside", ("thandi1234",)),
    Asked(
        "boolean", "+name:thandito +surname:dla* -groups:g3", "boolean", ("thandito", "dla", "g3")
    ),
    Asked(
        "range, dates",
        "created_at:[2014-03-01 TO 2014-03-07]",
        "dates",
        ("2014-03-01", "2014-03-08"),
    ),
    Asked(
        "range, text",
        r"msisdn:[\+27821000000 TO \+27821200000]",
        "texts",
        ("+27821000000", "+27821200000"),
    ),
    Asked("fuzzy", "name:thandilee~1", "fuzzy", ("thandilee",)),
    Asked("extras", "extras-clinic:clinic7", "extra", ("clinic7",)),
    Asked("*:*", "*:*", "all"),
)
