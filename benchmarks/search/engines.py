"""The other engines, each queried in the way that suits it best, with prepared queries."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tantivy

from resources.stores.search.budget import Budget
from resources.stores.search.dictionary import Dictionary
from resources.stores.search.fields import Document
from resources.stores.search.lucene import parse
from resources.stores.search.schema import SCHEMA, SEQ, document_of
from resources.stores.search.translate import Translation

from .people import Asked

People = Iterable[dict[str, Any]]
Ask = Callable[[int | None], list[str]]
"""Finds the keys that match a query, at most as many as the argument."""


class RawTantivy:
    """Our engine without our code: in this process, same schema, no parser, pipe or changes."""

    label = "tantivy"

    def __init__(self, folder: Path) -> None:
        self.index = tantivy.Index(SCHEMA, path=str(folder))
        self.index.config_reader("manual")
        self.keys = [""]

    def fill(self, people: People) -> None:
        writer = self.index.writer(64 << 20, 1)
        for seq, person in enumerate(people, 1):
            writer.add_document(document_of(seq, Document(person)))
            self.keys.append(person["key"])
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def ready(self, asked: Asked) -> Ask:
        query = Translation(
            self.index, self.searcher, lambda _: (), Budget(), Dictionary(self.searcher)
        ).query(parse(asked.lucene))

        def ask(limit: int | None) -> list[str]:
            most = limit or self.searcher.num_docs
            hits = self.searcher.search(
                query, limit=most, count=False, order_by_field=SEQ, order=tantivy.Order.Asc
            ).hits
            return [self.keys[seq] for seq, _ in hits]

        return ask


class Fts5:
    """SQLite: FTS5 for words, b-trees for the rest."""

    label = "FTS5"

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "people.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")

    def fill(self, people: People) -> None:
        self.db.execute(
            "CREATE TABLE c (seq INTEGER PRIMARY KEY, key, msisdn, surname, email, created, grp)"
        )
        self.db.execute(
            "CREATE VIRTUAL TABLE f USING fts5(name, surname, clinic, language, content='')"
        )
        self.db.execute("CREATE VIRTUAL TABLE v USING fts5vocab(f, 'col')")
        self.db.execute("BEGIN")
        for seq, p in enumerate(people, 1):
            row = (
                seq,
                p["key"],
                p["msisdn"],
                p["surname"],
                p["email_address"],
                p["created_at"],
                p["groups"][0],
            )
            self.db.execute("INSERT INTO c VALUES (?,?,?,?,?,?,?)", row)
            words = (seq, p["name"], p["surname"], p["extras-clinic"], p["extras-language"])
            self.db.execute(
                "INSERT INTO f(rowid, name, surname, clinic, language) VALUES (?,?,?,?,?)", words
            )
        for column in ("msisdn", "surname", "email", "created"):
            self.db.execute(f"CREATE INDEX i_{column} ON c ({column})")
        self.db.execute("COMMIT")

    def ready(self, asked: Asked) -> Ask | None:
        join = "SELECT key FROM f JOIN c ON c.seq = f.rowid WHERE f MATCH ?"
        one, *more = (*asked.values, "")
        match asked.kind:
            case "point":
                sql, parameters = "SELECT key FROM c WHERE msisdn = ?", (one,)
            case "term":
                sql, parameters = join, (f"name:{one}",)
            case "phrase":
                sql, parameters = join, (f'name:"{one} {more[0]}"',)
            case "prefix":
                sql, parameters = join, (f"surname:{one}*",)
            case "suffix":
                sql, parameters = "SELECT key FROM c WHERE surname LIKE ?", (f"%{one}",)
            case "inside":
                sql, parameters = "SELECT key FROM c WHERE email LIKE ?", (f"%{one}%",)
            case "boolean":
                sql, parameters = (
                    f"{join} AND grp != ?",
                    (f"name:{one} AND surname:{more[0]}*", more[1]),
                )
            case "dates":
                sql, parameters = (
                    "SELECT key FROM c WHERE created >= ? AND created < ?",
                    (one, more[0]),
                )
            case "texts":
                sql, parameters = "SELECT key FROM c WHERE msisdn BETWEEN ? AND ?", (one, more[0])
            case "extra":
                sql, parameters = join, (f"clinic:{one}",)
            case "all":
                sql, parameters = "SELECT key FROM c", ()
            case _:
                return None  # it has no fuzzy search
        return lambda limit: [
            key
            for (key,) in self.db.execute(
                sql if limit is None else f"{sql} LIMIT {limit}", parameters
            )
        ]

    def change(self, key: str, name: str) -> None:
        """Change a contact's name; it is on disk when this returns."""
        (seq, surname) = self.db.execute(
            "SELECT seq, surname FROM c WHERE key = ?", (key,)
        ).fetchone()
        self.db.execute("BEGIN")
        # A table without content takes a deletion only with the old words; that costs the same with
        # any.
        self.db.execute(
            (
                "INSERT INTO f(f, rowid, name, surname, clinic, language) VALUES"
                " ('delete',?,?,?,'','')"
            ),
            (seq, name, surname),
        )
        self.db.execute(
            "INSERT INTO f(rowid, name, surname, clinic, language) VALUES (?,?,?,'','')",
            (seq, name, surname),
        )
        self.db.execute("COMMIT")


class Xapian:
    """Xapian, from Debian's python3-xapian; its keys in a value slot."""

    label = "Xapian"

    def __init__(self, folder: Path) -> None:
        sys.path.append("/usr/lib/python3/dist-packages")
        import xapian

        self.x = xapian
        self.db = xapian.WritableDatabase(str(folder), xapian.DB_CREATE_OR_OPEN)

    def fill(self, people: People) -> None:
        for p in people:
            document = self.x.Document()
            for place, word in enumerate(p["name"].split(), 1):
                document.add_posting(f"N{word}", place)
            for term in (
                f"S{p['surname']}",
                f"M{p['msisdn']}",
                f"E{p['email_address']}",
                f"G{p['groups'][0]}",
                f"C{p['extras-clinic']}",
            ):
                document.add_boolean_term(term)
            document.add_value(0, p["key"])
            document.add_value(1, p["created_at"])
            document.add_value(2, p["msisdn"])
            self.db.add_document(document)
        self.db.commit()

    def ready(self, asked: Asked) -> Ask | None:
        query_of, one, *more = self.x.Query, *asked.values, ""
        match asked.kind:
            case "point":
                query = query_of(f"M{one}")
            case "term":
                query = query_of(f"N{one}")
            case "phrase":
                query = query_of(query_of.OP_PHRASE, [f"N{one}", f"N{more[0]}"])
            case "prefix":
                query = self._starting(f"S{one}")
            case "suffix":
                query = self._any("S", lambda term: term.endswith(one))
            case "inside":
                query = self._any("E", lambda term: one in term)
            case "boolean":
                both = query_of(query_of.OP_AND, query_of(f"N{one}"), self._starting(f"S{more[0]}"))
                query = query_of(query_of.OP_AND_NOT, both, query_of(f"G{more[1]}"))
            case "dates" | "texts":
                query = query_of(
                    query_of.OP_VALUE_RANGE, 1 if asked.kind == "dates" else 2, one, more[0]
                )
            case "extra":
                query = query_of(f"C{one}")
            case "all":
                query = query_of.MatchAll
            case _:
                return None  # it has no fuzzy search

        def ask(limit: int | None) -> list[str]:
            search = self.x.Enquire(self.db)
            search.set_query(query() if callable(query) else query)
            search.set_weighting_scheme(self.x.BoolWeight())
            return [
                hit.document.get_value(0).decode()
                for hit in search.get_mset(0, limit or self.db.get_doccount())
            ]

        return ask

    def _starting(self, prefix: str) -> Any:
        kind = self.x.Query
        return kind(kind.OP_WILDCARD, prefix, 0, kind.WILDCARD_LIMIT_ERROR, kind.OP_OR)

    def _any(self, prefix: str, wanted: Callable[[str], bool]) -> Callable[[], Any]:
        """It has wildcards at the end only: others are a walk over its terms, which is part of the
        query.
        """
        return lambda: self.x.Query(
            self.x.Query.OP_OR,
            [
                item.term.decode()
                for item in self.db.allterms(prefix)
                if wanted(item.term.decode()[1:])
            ],
        )


class Whoosh:
    """Whoosh-reloaded."""

    label = "Whoosh"

    def __init__(self, folder: Path) -> None:
        from whoosh import fields, index

        keyword, words = fields.ID, fields.TEXT(analyzer=None)
        from whoosh.analysis import SpaceSeparatedTokenizer

        words = fields.TEXT(analyzer=SpaceSeparatedTokenizer())
        self.schema = fields.Schema(
            key=fields.STORED,
            name=words,
            surname=keyword,
            msisdn=keyword,
            email=keyword,
            created=fields.DATETIME(sortable=True),
            grp=keyword,
            clinic=keyword,
        )
        self.index = index.create_in(str(folder), self.schema)

    def fill(self, people: People) -> None:
        writer = self.index.writer(limitmb=256)
        for p in people:
            created = datetime.fromisoformat(p["created_at"])
            writer.add_document(
                key=p["key"],
                name=p["name"],
                surname=p["surname"],
                msisdn=p["msisdn"],
                email=p["email_address"],
                created=created,
                grp=p["groups"][0],
                clinic=p["extras-clinic"],
            )
        writer.commit()
        self.searcher = self.index.searcher()

    def ready(self, asked: Asked) -> Ask:
        from whoosh import query as q

        one, *more = (*asked.values, "")
        made = {
            "point": lambda: q.Term("msisdn", one),
            "term": lambda: q.Term("name", one),
            "phrase": lambda: q.Phrase("name", list(asked.values)),
            "prefix": lambda: q.Prefix("surname", one),
            "suffix": lambda: q.Wildcard("surname", f"*{one}"),
            "inside": lambda: q.Wildcard("email", f"*{one}*"),
            "boolean": lambda: q.And(
                [q.Term("name", one), q.Prefix("surname", more[0]), q.Not(q.Term("grp", more[1]))]
            ),
            "dates": lambda: q.DateRange("created", _day(one), _day(more[0]), endexcl=True),
            "texts": lambda: q.TermRange("msisdn", one, more[0]),
            "fuzzy": lambda: q.FuzzyTerm("name", one, maxdist=1),
            "extra": lambda: q.Term("clinic", one),
            "all": q.Every,
        }[asked.kind]()

        def ask(limit: int | None) -> list[str]:
            numbers = self.searcher.docs_for_query(made)
            stored = self.searcher.stored_fields
            return [
                stored(number)["key"]
                for number, _ in zip(numbers, range(limit or sys.maxsize), strict=False)
            ]

        return ask


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).replace(tzinfo=None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of Whoosh's regular expressions and dates."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
