"""From nodes to queries of a tantivy index. The table is `Translation.query`; `schema` says which
field has what.

What tantivy cannot do, or does wrong, is done here: a sloppy phrase of three words or more (its
slop is wrong for those) is checked contact by contact; a pattern that needs too large an automaton,
and a range whose bounds its syntax cannot carry, walk the dictionary of terms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import tantivy
from attrs import define
from tantivy import Query

from .budget import Budget
from .dictionary import Dictionary
from .evaluate import range_matches, regex_matches, sloppy, wildcard_matches
from .fields import WHOLE_MAX, Document
from .grams import LENGTH_MAX, code_of, mark_of_long, phrase_of
from .nodes import (
    NOTHING,
    Any,
    Boolean,
    Everything,
    Exists,
    Fuzzy,
    Node,
    Occur,
    Period,
    Phrase,
    Prefix,
    QueryError,
    Range,
    Regex,
    Term,
    Wildcard,
)  # fmt: skip
from .patterns import ANY, least_length, literal
from .schema import GRAMS, HAS, SCHEMA, SEQ, Column, column_of, has_of

PATTERNS_MAX = 64  # wildcards and regular expressions in one query: each builds an automaton
CANDIDATES_MAX = 20_000  # contacts that have all words of a sloppy phrase
WALK_MAX = 1_000_000  # terms of the dictionary that one query may walk
# Terms times contacts that the engine may look at for one query, about, and how many looks at a
# field's terms are free, whatever the number of contacts: the engine cannot be interrupted, and a
# look at a million terms takes from 50 ms (a range of dates) to 2 s (`*x*`).
LOOKS_MAX, LOOKS_FREE = 8_000_000, 8
LOOK_FROM = (1.0, 0.5, 0.2, 0.05)  # of a pattern that begins with so many characters
LOOK_FOR_FUZZY = (0.0, 0.05, 0.3)  # with so many edits
LOOK_AT_DATES = 0.5
# Words of a query that are free; what the engine may compute for the others, about, and for one of
# them in one contact, by itself and in a phrase. All in nanoseconds, as measured.
WORDS_FREE, WORK_MAX, READ, READ_IN_PHRASE = 64, 2_000_000_000, 1, 30
CHECK_EVERY = 1000  # terms of the dictionary between two looks at the budget
TEXT_MIN = 3  # plain characters of a wildcard for which terms are looked for by them
SLOP_MAX = 1_000_000

_OCCUR = {
    Occur.MUST: tantivy.Occur.Must,
    Occur.MUST_NOT: tantivy.Occur.MustNot,
    Occur.SHOULD: tantivy.Occur.Should,
}
# A bound that tantivy's own syntax takes as it is; it has no way to quote one.
_PLAIN = re.compile(
    r"""[^\s"'()\[\]{}`\\*?:<>/^~!\-][^\s"'()\[\]{}`\\*?:<>/^~!]*"""
    r"""(?::[^\s"'()\[\]{}`\\*?:<>/^~!]*)?"""
)


@define
class Translation:
    """The translation of one query, for one state of an index.

    Attributes:
        documents: The contacts with those numbers, in any order, each with its number.
    """

    index: tantivy.Index
    searcher: tantivy.Searcher
    documents: Callable[[Sequence[int]], Iterable[tuple[int, Document]]]
    budget: Budget
    dictionary: Dictionary
    patterns: int = 0
    walked: int = 0
    looks: float = 0.0  # at the terms of a field, one after the other
    words: int = 0
    work: int = 0  # for the words that are not free, in nanoseconds

    def query(self, node: Node) -> Query:  # noqa: C901, PLR0911  # one row a kind of node
        """The query that finds what the node finds.

        Raises:
            QueryError: It asks too much.
        """
        match node:
            case Boolean():
                return self._boolean(node)
            case Everything():
                return Query.all_query()
            case Exists(name):
                return self._term(Column(HAS), has_of(name))
            case Period(name, first, last):
                self._look(LOOK_AT_DATES)
                return self._period(name, first, last)
        column = column_of(node.field)
        if column is None:
            return Query.empty_query()
        match node:
            case Term(_, text):
                self._count_words(column, (text,), READ)
                return self._term(column, text)
            case Phrase():
                return self._phrase(column, node)
            case Prefix(_, text):
                return self._prefix(column, text)
            case Wildcard():
                return self._wildcard(column, node)
            case Regex(_, pattern):
                self._count_pattern()
                self._look(1.0)
                return self._pattern(
                    column, pattern, lambda token: regex_matches(pattern, token), ""
                )
            case Fuzzy(_, text, edits):
                self._look(LOOK_FOR_FUZZY[edits])
                whole = column.prefix + text
                return Query.fuzzy_term_query(
                    SCHEMA, column.field, whole, edits, transposition_cost_one=True
                )
            case Range():
                return self._range(column, node)

    def _boolean(self, node: Boolean) -> Query:
        if node == NOTHING:
            return Query.empty_query()
        return Query.boolean_query(
            [(_OCCUR[occur], self.query(clause)) for occur, clause in node.clauses]
        )

    def _term(self, column: Column, text: str) -> Query:
        return Query.term_query(SCHEMA, column.field, column.prefix + text, "basic")

    def _period(self, name: str, first: int | None, last: int | None) -> Query:
        if first is not None and last is not None and first > last:
            return Query.empty_query()
        return Query.range_query(SCHEMA, name, tantivy.FieldType.Integer, first, last)

    def _phrase(self, column: Column, node: Phrase) -> Query:
        self._count_words(column, node.tokens, READ_IN_PHRASE)
        tokens: list[str | tuple[int, str]] = [column.prefix + token for token in node.tokens]
        # the engine's slop is exact for two words that differ
        if not node.slop or (len(tokens) == 2 and tokens[0] != tokens[1]):  # noqa: PLR2004
            return Query.phrase_query(SCHEMA, column.field, tokens, min(node.slop, SLOP_MAX))
        self.budget.check()
        terms = [self._term(column, token) for token in sorted(set(node.tokens))]
        every = Query.boolean_query([(tantivy.Occur.Must, term) for term in terms])
        hits = self.searcher.search(
            every, limit=CANDIDATES_MAX + 1, count=False, order_by_field=SEQ
        ).hits
        if len(hits) > CANDIDATES_MAX:
            raise QueryError(
                None, f"a sloppy phrase of words that more than {CANDIDATES_MAX} contacts have"
            )
        found = [
            seq
            for seq, document in self.documents([seq for seq, _ in hits])
            if sloppy(document.tokens.get(node.field, ()), node.tokens, node.slop, self.budget)
        ]
        return Query.term_set_query(SCHEMA, SEQ, found)

    def _wildcard(self, column: Column, node: Wildcard) -> Query:
        if least_length(node.pattern) > WHOLE_MAX:
            return Query.empty_query()
        self._count_pattern()
        fixed = [part if isinstance(part, str) else None for part in node.pattern]
        start = "".join(part for part in fixed[: fixed.index(None)] if part is not None)
        text = _longest_text(node.pattern)
        found = self._grams(node)
        if found is not None:
            self._look_from("")
            return found
        if not start and len(text) >= TEXT_MIN:
            ends = node.pattern[0] is node.pattern[-1] is Any.MANY
            terms = self.dictionary.containing(
                column.field,
                column.prefix,
                text,
                (lambda token: text in token)
                if ends and len(text) == len(node.pattern) - 2
                else (lambda token: wildcard_matches(node.pattern, token, self.budget)),
            )
            if terms is not None:
                return Query.term_set_query(SCHEMA, column.field, terms)
        self._look_from(start)
        pattern = "".join(
            f"{ANY}*" if part is Any.MANY else ANY if part is Any.ONE else literal(part)
            for part in node.pattern
        )
        return self._pattern(
            column, pattern, lambda token: wildcard_matches(node.pattern, token, self.budget), start
        )

    def _grams(self, node: Wildcard) -> Query | None:
        """Addresses that contain a text, or end with it (`*x*`, `*x`); None if it is none of those,
        too short, or some addresses are too long.
        """
        code, [first, *rest] = code_of(node.field), node.pattern
        to_end = bool(rest) and rest[-1] is not Any.MANY
        text = [part for part in (rest if to_end else rest[:-1]) if isinstance(part, str)]
        if code is None or first is not Any.MANY or len(text) < len(rest) - (not to_end):
            return None
        grams = phrase_of(code, "".join(text), to_end=to_end)
        if not grams or self.searcher.terms_with_prefix(GRAMS, mark_of_long(code)):
            return None
        if len(text) > LENGTH_MAX:
            return Query.empty_query()
        if len(grams) == 1:
            return self._term(Column(GRAMS), grams[0])
        self._count_words(Column(GRAMS), grams, READ_IN_PHRASE)
        return Query.phrase_query(SCHEMA, GRAMS, list[str | tuple[int, str]](grams))

    def _count_words(self, column: Column, tokens: Sequence[str], nanoseconds: int) -> None:
        """Count what the engine computes for words that contacts have to have together."""
        self.words += len(tokens)
        if self.words <= WORDS_FREE:
            return
        rarest = min(
            self.searcher.doc_freq(column.field, column.prefix + token) for token in set(tokens)
        )
        self.work += rarest * len(tokens) * nanoseconds
        if self.work > WORK_MAX:
            raise QueryError(
                None, "it has too many words, and too many contacts have them: fewer would do"
            )

    def _count_pattern(self) -> None:
        self.patterns += 1
        if self.patterns > PATTERNS_MAX:
            raise QueryError(None, f"more than {PATTERNS_MAX} wildcards and regular expressions")

    def _look(self, share: float) -> None:
        """Count that a share of a field's terms is looked at, as if each contact had one."""
        self.looks += share
        contacts = self.searcher.num_docs
        if self.looks > LOOKS_FREE and self.looks * contacts > LOOKS_MAX:
            raise QueryError(
                None, f"it has too many patterns, ranges and fuzzy terms for {contacts} contacts"
            )

    def _look_from(self, start: str) -> None:
        self._look(LOOK_FROM[min(len(start), len(LOOK_FROM) - 1)])

    def _prefix(self, column: Column, text: str) -> Query:
        self._look_from(text)
        last = ord(text[-1])
        if last not in (0xD7FF, 0x10FFFF):
            after = text[:-1] + chr(last + 1)  # the first text behind all that begin with this one
            found = self._between(column, text, after, with_low=True, with_high=False)
            if found is not None:
                return found
        return self._pattern(
            column, literal(text) + f"{ANY}*", lambda token: token.startswith(text), text
        )

    def _pattern(
        self, column: Column, pattern: str, matches: Callable[[str], bool], start: str
    ) -> Query:
        """Tokens that a regular expression matches; `matches` tests one token the same way, and all
        begin with `start`.
        """
        prefix = literal(column.prefix)
        self.budget.check()
        try:
            return _regex_query(column.field, f"{prefix}(?:{pattern})" if prefix else pattern)
        except ValueError:  # its automaton would have more than 1,000 states
            return self._walk(column, matches, start)

    def _range(self, column: Column, node: Range) -> Query:
        self._look(1.0)
        low, high = node.low, node.high
        if (
            low is not None
            and high is not None
            and (low > high or (low == high and not (node.with_low and node.with_high)))
        ):
            return Query.empty_query()
        found = self._between(column, low, high, with_low=node.with_low, with_high=node.with_high)
        if found is not None:
            return found
        return self._walk(
            column, lambda token: range_matches(node, token), _shared_start(low or "", high or "")
        )

    def _between(
        self, column: Column, low: str | None, high: str | None, *, with_low: bool, with_high: bool
    ) -> Query | None:
        """Tokens from one to another; None if tantivy's syntax, the only way to ranges of texts,
        cannot express the bounds.
        """
        if not all(
            _PLAIN.fullmatch(column.prefix + bound) for bound in (low, high) if bound is not None
        ):
            return None
        opening, closing = "{["[with_low or low is None], "}]"[with_high or high is None]
        first = "*" if low is None else column.prefix + low
        last = "*" if high is None else column.prefix + high
        # an open end is that of the field's tokens, not of all there are: ";" follows ":"
        if column.prefix:
            first = column.prefix if low is None else first
            last, closing = (column.prefix[:-1] + ";", "}") if high is None else (last, closing)
        return self.index.parse_query(f"{column.field}:{opening}{first} TO {last}{closing}", [])

    def _walk(self, column: Column, matches: Callable[[str], bool], start: str) -> Query:
        """Tokens that meet a condition, found in the dictionary of terms."""
        terms = self.searcher.terms_with_prefix(column.field, column.prefix + start)
        self.walked += len(terms)
        if self.walked > WALK_MAX:
            raise QueryError(
                None, f"it would have to look at more than {WALK_MAX} terms one by one"
            )
        skip = len(column.prefix)
        found = []
        for number, (term, _) in enumerate(terms):
            if not number % CHECK_EVERY:
                self.budget.check()
            if matches(term[skip:]):
                found.append(term)
        return Query.term_set_query(SCHEMA, column.field, found)


def _longest_text(pattern: Sequence[str | Any]) -> str:
    """The longest run of plain characters of a wildcard."""
    plain = "".join(part if isinstance(part, str) else "\0" for part in pattern)
    return max(plain.split("\0"), key=len)


@lru_cache(64)  # building an automaton takes longer than most searches, and one may have a megabyte
def _regex_query(name: str, pattern: str) -> Query:
    return Query.regex_query(SCHEMA, name, pattern)


def _shared_start(one: str, other: str) -> str:
    count = 0
    for x, y in zip(one, other, strict=False):
        if x != y:
            break
        count += 1
    return one[:count]
