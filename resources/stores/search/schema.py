"""How a tantivy index stores contacts: what each of its fields has, and how a contact becomes a
document.

A search returns the contact's own number (`seq`), so that is stored as a column; the text of the
fields is not stored. All extras and subscriptions share one field, in which each token carries a
hash of its field's name, so that the fields that apps invent cost nothing. `has` lists the fields
that a contact has, and `grams` its addresses once more, for `*x*`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import tantivy
from attrs import frozen

from .fields import DYNAMIC, FIELDS, Document, Kind, fold
from .grams import code_of, grams_of

VERSION = 4
"""Of the schema, of the analysis in `fields` and `words`, and of the other files beside. An index
of another version is rebuilt.
"""

SEQ, HAS, OTHERS, GRAMS = "seq", "has", "others", "grams"
# hexadecimal digits; two names of one account meet with a chance of one in 10^14 / names^2
_DIGEST = 12


@frozen
class Column:
    """Where a contact's field is: the index's field, and the prefix of each of its tokens there."""

    field: str
    prefix: str = ""


def _text_of(name: str) -> str:
    return f"{name}_text"


def _make_schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field(SEQ, stored=False, indexed=True, fast=True)
    for name, kind in FIELDS.items():
        match kind:
            case Kind.EXACT | Kind.FOLDED:
                builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
            case Kind.WORDS:
                builder.add_text_field(name, tokenizer_name="whitespace", index_option="position")
            case Kind.DATE:
                builder.add_integer_field(name, indexed=True, fast=True)
                builder.add_text_field(_text_of(name), tokenizer_name="raw", index_option="basic")
    builder.add_text_field(OTHERS, tokenizer_name="whitespace", index_option="position")
    builder.add_text_field(HAS, tokenizer_name="raw", index_option="basic")
    builder.add_text_field(GRAMS, tokenizer_name="whitespace", index_option="position")
    return builder.build()


SCHEMA = _make_schema()
"""The schema of every account's index."""


@lru_cache(4096)
def column_of(name: str) -> Column | None:
    """Where the tokens of a field are; None for a field that contacts do not have."""
    kind = FIELDS.get(name)
    if kind is not None:
        return Column(_text_of(name) if kind is Kind.DATE else name)
    return Column(OTHERS, _digest(name) + ":") if name.startswith(DYNAMIC) else None


def has_of(name: str) -> str:
    """The name of a field in `has`."""
    return name if name in FIELDS else _digest(name)


def _digest(name: str) -> str:
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:_DIGEST]


def delete(writer: tantivy.IndexWriter, key: str) -> None:
    """Remove a contact from the index. By its key: terms of number fields are accepted but delete
    nothing (tantivy 0.27).
    """
    writer.delete_documents_by_term("key", fold("key", key))


def document_of(seq: int, contact: Document) -> tantivy.Document:
    """A contact as a document of the index."""
    values: dict[str, Any] = {SEQ: seq, HAS: [has_of(name) for name in contact.tokens]}
    others, grams = [], []
    for name, tokens in contact.tokens.items():
        column = column_of(name)
        assert column is not None
        code = code_of(name)
        if code is not None:
            grams += [" ".join(grams_of(code, token)) for token in tokens]
        if column.prefix:
            others.append(" ".join([column.prefix + token for token in tokens]))
        else:
            values[column.field] = " ".join(tokens) if FIELDS[name] is Kind.WORDS else tokens
    if others:
        values[OTHERS] = others
    if grams:
        values[GRAMS] = grams
    return tantivy.Document.from_dict(values | contact.dates, SCHEMA)
