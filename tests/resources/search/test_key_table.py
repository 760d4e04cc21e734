"""The table of keys: what comes out is what went in, whatever the keys look like."""

from __future__ import annotations

import json
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from resources.stores.search.key_table import GAP_MAX, KeyTable, NoKey

PLAIN = st.text("0123456789abcdef", min_size=32, max_size=32)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


FAR = st.sampled_from([200_000, 10**6, 2**53 - 1])  # made by another program


@given(keys=st.dictionaries(st.integers(1, 60) | FAR, PLAIN | ANY), size=st.integers(1, 7))
def test_every_key_comes_back(keys: dict[int, str], size: int) -> None:
    """In arrays of the size that was asked for, in the order of the numbers."""
    table = KeyTable()
    for number, key in keys.items():
        assert number not in table
        table.put(number, key)
        assert number in table
    numbers = sorted(keys)
    arrays = [json.loads(array) for array in table.arrays(numbers, size)]
    assert [key for array in arrays for key in array] == [keys[number] for number in numbers]
    assert all(len(array) == size for array in arrays[:-1])
    assert dict(table.items()) == keys
    assert all(table.key(number) == key for number, key in keys.items())


def test_a_number_without_a_key_is_noticed() -> None:
    """Between others, behind them, and in a table that is empty."""
    table = KeyTable()
    with pytest.raises(NoKey):
        table.key(1)
    table.put(1, "a" * 32)
    table.put(3, "b" * 32)
    for numbers in ([1, 2, 3], [2], [3, 4], [1, 9]):
        with pytest.raises(NoKey):
            list(table.arrays(numbers, 100))
    assert list(table.arrays([], 100)) == [b"[]"]


def test_numbers_far_apart_take_little_room_in_all() -> None:
    """Each as far from the one before as may be: another program has made them."""
    table = KeyTable()
    numbers = [(n + 1) * (GAP_MAX - 1) for n in range(200)]
    for number in numbers:
        table.put(number, f"{number:032x}")
    size = len(table._slots)
    assert size < 40 << 20
    (array,) = table.arrays(numbers, len(numbers))
    assert json.loads(array) == [f"{number:032x}" for number in numbers]


def test_numbers_that_follow_one_another_have_room_however_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In any order, if there are not very many more to come."""
    monkeypatch.setattr("resources.stores.search.key_table.GAPS_MAX", 1000)
    ascending, mixed = KeyTable(), KeyTable()
    numbers = list(range(1, 5001))
    for number in numbers:
        ascending.put(number, f"{number:032x}")
    random.Random(3).shuffle(numbers)
    for number in numbers[:1000]:
        mixed.put(number % 1000, f"{number:032x}")
    assert not ascending._others
    assert not mixed._others
