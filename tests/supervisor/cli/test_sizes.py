"""How much room a text takes on a phone."""

from __future__ import annotations

import pytest

from supervisor.cli.sizes import GSM, SCREENS, TWICE, Size, measure, parts


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", Size("GSM-7", 0)),
        ("Hello\r\n@£ÅåΔ", Size("GSM-7", 12)),
        ("{[~]}^|\\€\f", Size("GSM-7", 20)),
        ("ç", Size("UCS-2", 1)),  # only the capital is in the alphabet
        ("don’t", Size("UCS-2", 5)),
        ("a😀", Size("UCS-2", 3)),
        ("\ud83d", Size("UCS-2", 1)),
    ],
)
def test_the_alphabet_and_the_places(text: str, size: Size) -> None:
    assert measure(text) == size


def test_the_alphabet_has_all_its_characters() -> None:
    """128 places, one of which is the escape to the extension table."""
    assert (len(GSM), len(TWICE), GSM & TWICE) == (127, 10, frozenset())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1), ("a" * 160, 1), ("a" * 161, 2), ("a" * 306, 2), ("a" * 307, 3), ("€" * 80, 1),
        ("€" * 81, 2), ("ў" * 70, 1), ("ў" * 71, 2), ("ў" * 134, 2), ("ў" * 135, 3),
    ],
)  # fmt: skip
def test_the_parts_of_a_text_message(text: str, count: int) -> None:
    assert parts(measure(text)) == count


def test_a_screen_has_less_room_for_other_alphabets() -> None:
    assert [SCREENS["182"].most(measure(text)) for text in ("a", "ў")] == [182, 80]
    assert [SCREENS["160"].most(measure(text)) for text in ("a", "ў")] == [160, 70]
