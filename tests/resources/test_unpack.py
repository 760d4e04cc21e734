"""Encodings of bodies undone: members, layers, cuts and bombs."""

from __future__ import annotations

import gzip
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.egress.errors import EgressError
from resources.stores.egress.head import Head
from resources.stores.egress.unpack import ENCODINGS_MAX, MEMBERS_MAX, PIECE, layers_of, unpacked

from ..lag import step_bound
from .raw_server import spread

MOST = 131072
TEXT = b"It was the best of times, it was the worst of times. " * 200


def deflated(data: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


def undo(encoding: str, body: bytes, cuts: list[int] | None = None, most: int = MOST) -> bytes:
    """The body, as it comes out when it comes in these pieces."""
    layers = layers_of(Head(b"1.1", 200, [(b"content-encoding", encoding.encode())]), most)
    out = b"".join(piece for data in spread(body, cuts or []) for piece in unpacked(layers, data))
    for layer in layers:
        layer.finish()
    return out


PACKED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:5000]) + gzip.compress(TEXT[5000:]),
    "deflate": deflated(TEXT, 15),
    " DEFLATE ": deflated(TEXT, -15),
    "gzip, gzip": gzip.compress(gzip.compress(TEXT)),
    "deflate,gzip": gzip.compress(deflated(TEXT, 15)),
    "gzip, identity": gzip.compress(TEXT),
    "identity": TEXT,
    "": TEXT,
    "utf-8": TEXT,
    "binary": TEXT,
}


@pytest.mark.parametrize("encoding", PACKED)
@given(cuts=st.lists(st.integers(0, 300), max_size=6))
def test_bodies_come_out_whole_however_they_come_in(encoding: str, cuts: list[int]) -> None:
    """Gzip with several members, deflate with and without zlib's frame, one encoding in the other;
    names of charsets are none.
    """
    assert undo(encoding, PACKED[encoding], cuts) == TEXT


@pytest.mark.parametrize(
    "encoding", ["gzip", "x-gzip", "deflate", " DEFLATE ", "gzip, gzip", "deflate,gzip"]
)
def test_a_cut_off_body_is_a_failure(encoding: str) -> None:
    """Wherever it is cut, but where a member is complete and no other has begun."""
    body = PACKED[encoding]
    complete = {0, len(gzip.compress(TEXT[:5000]))} if encoding == "x-gzip" else {0}
    for length in sorted({*range(40), *range(0, len(body), 7), len(body) - 1, *complete}):
        if length in complete:
            undo(encoding, body[:length])
        else:
            with pytest.raises(EgressError, match="was cut off"):
                undo(encoding, body[:length])


def test_damage_is_a_failure() -> None:
    """Also in the check sum, and in a member after the first."""
    body = bytearray(PACKED["gzip"])
    for at in (1, 2, 3, 20, len(body) - 6, len(body) - 2):
        damaged = bytearray(body)
        damaged[at] ^= 0xFF
        with pytest.raises(EgressError, match=r"the body is not gzip, as declared|was cut off"):
            undo("gzip", bytes(damaged))
        with pytest.raises(EgressError):
            undo("gzip", bytes(body) + b"\x1f\x8b" + bytes(damaged[2:] if at > 1 else b"\xff" * 20))
    with pytest.raises(EgressError, match="not deflate"):
        undo("deflate", b"no deflate at all")
    with pytest.raises(EgressError, match="not gzip"):
        undo("gzip", b"plain text")


@pytest.mark.parametrize("padding", [b"\0" * 512, b"\n", b"<!-- served in 3 ms -->", b"\x1fx"])
def test_padding_after_a_body_is_no_part_of_it(padding: bytes) -> None:
    """As gzip itself and other clients take it."""
    assert undo("gzip", PACKED["gzip"] + padding) == TEXT
    assert undo("gzip", PACKED["gzip"] + padding, [len(PACKED["gzip"]) + 1]) == TEXT
    assert undo("deflate", PACKED["deflate"] + padding) == TEXT


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, br", "x-made-up", "é", "gzip" * 5000, "\x00"]
)
def test_unknown_encodings_are_refused(encoding: str) -> None:
    """With their name, of a sensible length."""
    with pytest.raises(EgressError, match="gzip and deflate can be read") as raised:
        undo(encoding, b"")
    assert len(str(raised.value)) < 400


def test_encodings_have_a_bound() -> None:
    """`ENCODINGS_MAX` of them inside one another, and no more."""
    body = TEXT
    for _ in range(ENCODINGS_MAX):
        body = gzip.compress(body)
    assert undo(", ".join(["gzip"] * ENCODINGS_MAX), body) == TEXT
    with pytest.raises(EgressError, match="encoded 6 times over"):
        undo(", ".join(["gzip"] * (ENCODINGS_MAX + 1)), gzip.compress(body))


def test_what_unpacks_to_nothing_has_a_bound() -> None:
    """Empty members, empty blocks, and members made by unpacking."""
    empty = gzip.compress(b"")
    assert undo("gzip", empty * 5000) == b""
    with pytest.raises(EgressError, match=f"more than {MEMBERS_MAX} members"):
        undo("gzip", empty * 15_000)
    with pytest.raises(EgressError, match="and little in them"):
        undo("gzip", empty[:10] + bytes.fromhex("000000ffff") * 100_000)
    with pytest.raises(EgressError, match=r"and little in them|members"):
        undo("gzip, gzip", gzip.compress(empty * 100_000))


def test_a_bomb_is_unpacked_in_pieces_while_somebody_takes_them() -> None:
    """Never more than one piece beyond what was taken, through two layers also."""
    for encoding, body in (
        ("gzip", gzip.compress(b"\0" * 50_000_000)),
        ("gzip, gzip", gzip.compress(gzip.compress(b"\0" * 50_000_000))),
    ):
        layers = layers_of(Head(b"1.1", 200, [(b"content-encoding", encoding.encode())]), MOST)
        pieces = unpacked(layers, body)
        began = time.thread_time()
        taken = sum(len(next(pieces)) for _ in range(4))
        assert 0 < taken <= 4 * PIECE
        assert time.thread_time() - began < step_bound()
