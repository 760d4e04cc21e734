"""Words of many scripts: each row is what Lucene's StandardTokenizer 8.7 made of it."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from resources.stores.search.words import _ASCII_WORD, _LATIN, _everywhere, _segmented, words

from ...examples import examples


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("O'Brien john.doe a-b 1,000.5 x_y", ["o'brien", "john.doe", "a", "b", "1,000.5", "x_y"]),
        ("l'amour 'n ___ a__b_ _9_", ["l'amour", "n", "a__b_", "_9_"]),
        ("a:b a;b 1:2 1;2 3.a a.3", ["a:b", "a", "b", "1", "2", "1;2", "3", "a", "a", "3"]),
        ("Zoë ŁUKASZ İpek ΣΑΣ", ["zoë", "łukasz", "ipek", "σασ"]),
        ("你好 人々", ["你", "好", "人", "々"]),
        ("ひら カタカナ ｱｶﾞ 한국어", ["ひ", "ら", "カタカナ", "ｱｶﾞ", "한국어"]),
        ("ア_a アa", ["ア_a", "ア", "a"]),
        ("พิมพ์ชนก ดี๑๒", ["พิมพ์ชนก", "ดี", "๑๒"]),
        ("ສະບາຍດີ ok", ["ສະບາຍດີ", "ok"]),
        ("សុខ-dara", ["សុខ", "dara"]),
        ("အောင်မြင် ၁", ["အောင်မြင်", "၁"]),
        ("Mr.สมศักดิ์", ["mr", "สมศักดิ์"]),
        ("I \uff9e", ["i"]),
        ("² ½ ① x²", ["x"]),
        ("አበበ ፩", ["አበበ"]),
        ("\U0001f1ff\U0001f1e6\U0001f1f3\U0001f1e6\U0001f1fa", ["\U0001f1ff\U0001f1e6",
            "\U0001f1f3\U0001f1e6"]),
        ("#\ufe0f\u20e3 *\u20e3 # 1\ufe0f\u20e3", ["#\ufe0f\u20e3", "*\u20e3", "1\ufe0f\u20e3"]),
        ("\U0001f469\u200d\U0001f467!\U0001f44d\U0001f3fd\u2764\ufe0f",
            ["\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"]),
        ("a\U0001f3fd ℹx", ["a", "\U0001f3fd", "ℹx"]),
        ('צה"ל ג\' א"ב"ג', ['צה"ל', "ג'", 'א"ב', "ג"]),
        ("x" * 254 + "'yz", ["x" * 254, "yz"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
        ("\U00010400" * 130, ["\U00010428" * 127, "\U00010428" * 3]),
        ("... --- \u00a0", []),
    ],
)  # fmt: skip
def test_words_are_those_of_lucene(text: str, found: list[str]) -> None:
    """Runs of letters that no rule divides, what counts as a letter or digit, emoji, long words."""
    assert words(text) == found


TEXT = st.text(st.sampled_from("abzAZ09 .,:;'_-\"#*()\tÄéñøƒ\u00df\u0130\u212a"), max_size=60)


@given(text=TEXT)
@examples(200, 3000)
def test_the_short_ways_are_right(text: str) -> None:
    """Pieces of plain letters, and those of ASCII, are divided as by the rules for everything."""
    expected = [word.replace("\u0130", "i").lower() for word in _segmented(text, _everywhere())]
    assert words(text) == expected
    if text.isascii():
        assert _segmented(text.lower(), _ASCII_WORD) == expected


def test_every_plain_letter_is_a_letter() -> None:
    """In the range that is not looked at more closely."""
    for code in range(0x250):
        if _LATIN.fullmatch(chr(code)):
            assert _segmented("x" + chr(code) + "x", _everywhere()) == ["x" + chr(code) + "x"]


@pytest.mark.parametrize(
    "piece",
    ["_", "\u200d", "'", "#\u0301", "_\u0301", "\U0001f469\u200d", '\u05d0"', "a.", "1,",
        "#\ufe0f", "\u0e48", "\U0001f1e6", "a_", "\U0001f469\u200d\u200d", "_\u200d", "\u30a2_"],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """Time is in proportion to length, whatever is repeated: if every piece were compared with all
    that follow, this would take minutes.
    """
    before = time.thread_time()
    words(piece * (30_000 // len(piece)))
    assert time.thread_time() - before < 5.0
