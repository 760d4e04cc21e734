"""Decoding bodies as browsers do: by the charsets of the Encoding Standard, in linear time.

Python's own look-up of names is not used: it knows codecs that take quadratic time (punycode), that
produce halves of surrogate pairs (utf-7, unicode_escape) or that are not charsets, and it caches
each unknown name for ever.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from functools import cache

from ...text import clean

LABEL_MAX = 40  # characters of a charset's name
TYPE_MAX = 1024  # characters of a Content-Type that are looked at
PIECE = 8 * 1024  # bytes that are decoded at a time

_SPACE = " \t\r\n\f"
_TEXTUAL = re.compile(
    r"text/|[^;]*[/+](json|xml|javascript|ecmascript|x-www-form-urlencoded)\s*(;|$)", re.IGNORECASE
)

# Labels of the Encoding Standard, by Python's name of the encoding.
_BY_PYTHON = {
    "utf_8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "utf_16_be": "unicodefffe utf-16be",
    "utf_16_le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
    "gb18030": "gb18030 chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58"
    " x-gbk",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022_jp_ext": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989"
    " ksc5601 ksc_5601 windows-949",
}
_SINGLE_BYTE = {
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859_2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987"
    " l2 latin2",
    "iso8859_3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988"
    " l3 latin3",
    "iso8859_4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988"
    " l4 latin4",
    "iso8859_5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5"
    " iso_8859-5:1988",
    "iso8859_6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6"
    " iso-8859-6-e iso-8859-6-i"
    " iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859_7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7"
    " iso88597 iso_8859-7"
    " iso_8859-7:1987 sun_eu_greek",
    "iso8859_8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138"
    " iso8859-8 iso88598 iso_8859-8"
    " iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859_10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859_13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859_14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859_15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859_16": "iso-8859-16",
    "koi8_r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8_u": "koi8-ru koi8-u",
    "mac_roman": "csmacintosh mac macintosh x-mac-roman",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100"
    " iso8859-1 iso88591 iso_8859-1"
    " iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9"
    " iso_8859-9:1989 l5 latin5"
    " windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
}
_DIFFERENT = {"koi8_u": {0xAE: "ў", 0xBE: "Ў"}, "cp1255": {0xCA: "\u05ba"}}  # from Python's tables
_LABELS = {
    label: python
    for table in (_BY_PYTHON, _SINGLE_BYTE)
    for python, labels in table.items()
    for label in labels.split()
}
_MARKS = ((b"\xef\xbb\xbf", "utf_8"), (b"\xfe\xff", "utf_16_be"), (b"\xff\xfe", "utf_16_le"))


def charset_of(label: str) -> str | None:
    """Return our name of the charset that a label of the Encoding Standard stands for, or None."""
    if len(label) > LABEL_MAX:
        return None
    return _LABELS.get(label.strip(_SPACE).lower())


def decoded(body: bytes | bytearray, content_type: str) -> Iterator[str]:
    """Decode a body, piece by piece, to valid Unicode, with U+FFFD for what does not fit.

    A byte order mark says more than the declared charset, and is not part of the text. Without
    either it is UTF-8. The marks of UTF-16 hold only where the type is one of text: a picture may
    begin so too.
    """
    content_type = content_type[:TYPE_MAX]
    declared = _declared(content_type)
    charset, mark = declared or "utf_8", b""
    for sign, marked in _MARKS:
        if body.startswith(sign) and (
            marked == "utf_8" or declared or _TEXTUAL.match(content_type)
        ):
            charset, mark = marked, sign
            break
    decode = _decoder(charset)
    for at in range(len(mark), len(body), PIECE):
        yield clean(decode(bytes(body[at : at + PIECE]), at + PIECE >= len(body)))


def _declared(content_type: str) -> str | None:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip(_SPACE).lower() == "charset":
            return charset_of(value.strip(_SPACE).strip("\"'"))
    return None


def _decoder(charset: str) -> Callable[[bytes, bool], str]:
    """A function from the next bytes, and whether they are the last, to text."""
    if charset in _SINGLE_BYTE:
        table = _table(charset)
        return lambda data, _: codecs.charmap_decode(data, "strict", table)[0]
    decoder = codecs.getincrementaldecoder(charset)("replace")
    return decoder.decode


@cache
def _table(charset: str) -> str:
    """The characters of the 256 bytes, U+FFFD if undefined: errors would take long."""
    characters = [bytes([byte]).decode(charset, "replace") for byte in range(256)]
    for byte in range(0x80, 0xA0):
        if characters[byte] == "\ufffd":
            characters[byte] = chr(byte)
    for byte, character in _DIFFERENT.get(charset, {}).items():
        characters[byte] = character
    return "".join(characters)
