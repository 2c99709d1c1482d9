"""Text to chunks of tokens, cut at paragraph and sentence borders where one is near.

Knows no model: tokenizer functions come from outside. The chunks' texts follow each other without gap or overlap, and
each one, tokenized alone, has at most `max_tokens` tokens. No long string is ever tokenized, so time grows with length
only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from localhyper.errors import ContextError
from localhyper.progress import CancelToken
from localhyper.sources.document import Document

Tokenize = Callable[[str], NDArray[np.int32]]
Detokenize = Callable[[Sequence[int] | NDArray[np.int32]], str]

MOST_CHUNKS = 512  # that answer, where they may be longer instead
# What a border is worth, in parts of a chunk left empty to reach it. A line end alone may be inside a sentence.
_PARAGRAPH, _SENTENCE, _LINE, _INSIDE = 0.3, 0.0, -0.15, -0.5
_LONGEST_STRING = 8  # characters per allowed token that are tokenized in one go
_LONGEST_TOKEN = 32  # characters per token that the beginning of a text is looked for in
# Stops count at the start of their run only, which keeps a megabyte of dots linear.
_BORDER = re.compile(
    r"(?P<full>[。！？｡؟۔।॥]++[」』”’）)\]\"]*+\s*+)|(?P<stop>(?<![.!?…])[.!?…]++[\"'”’»)\]]*+\s++)|(?P<line>\n\s*+)"  # noqa: RUF001
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘„«]*$")  # noqa: RUF001
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st mt vs etc e.g i.e cf ca approx dept est inc ltd corp gen col lt sgt capt rev hon gov "
    "sen u.s u.k a.m p.m jan feb aug sept oct nov dec z.b d.h u.a bzw ggf usw abb vgl evtl sog tel mio mrd mme".split()
)
# These end sentences as words of their own, unless a number follows.
_BEFORE_NUMBERS = frozenset("no nos nr fig figs eq eqs vol vols p pp ch sec art bd mar apr jun jul sep".split())


@dataclass(frozen=True)
class Chunk:
    """A run of a document's tokens.

    Attributes:
        index: 0-based position in the document.
        token_ids: int32 [tokens].
        text: The text they stand for.
        start: Character offset in the document's text.
        end: Character offset after the last character.
    """

    index: int
    token_ids: NDArray[np.int32]
    text: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Cut:
    """A document in chunks.

    Attributes:
        summed: Those whose sum is its own adapter.
        answering: Of each of them, those that answer, numbered through: parts of it, or itself alone.
        size: Most tokens of one that answers.
    """

    summed: tuple[Chunk, ...]
    answering: tuple[tuple[Chunk, ...], ...]
    size: int

    @property
    def chunks(self) -> list[Chunk]:
        """All that answer."""
        return [chunk for parts in self.answering for chunk in parts]

    @property
    def has_parts(self) -> bool:
        """Whether other chunks answer than those of the sum."""
        return any(len(parts) > 1 for parts in self.answering)


@dataclass(frozen=True)
class _Span:
    """A part of the text that is not cut: its offsets, tokens when alone, and what the border after it is worth."""

    start: int
    end: int
    tokens: int
    worth: float


def split_document(
    document: Document,
    tokenize: Tokenize,
    detokenize: Detokenize,
    max_tokens: int = 256,
    *,
    cancel: CancelToken | None = None,
) -> list[Chunk]:
    """Cut a document into chunks of at most `max_tokens` tokens.

    Args:
        document: Source; an empty text gives no chunk.
        tokenize: Text to int32 [tokens], without BOS; the same text always gives the same tokens.
        detokenize: Token ids to text; where a run has no border, it says how many characters half its tokens are.
        max_tokens: Most tokens in a chunk.
        cancel: Read between sentences.

    Returns:
        Chunks in order whose texts joined are `document.text`.

    Raises:
        ContextError: A single character takes more than `max_tokens` tokens.
        Cancelled: `cancel` was set.
    """
    if max_tokens < 1:
        raise ContextError(f"a chunk must have at least one token, got {max_tokens}")
    if cancel is not None:
        cancel.check()
    cutter = _Cutter(document.text, tokenize, detokenize, max_tokens)
    if cutter.is_one_chunk():
        return cutter.chunks([_Span(0, len(document.text), 0, _PARAGRAPH)])
    spans: list[_Span] = []
    for start, end, worth in borders(document.text):
        if cancel is not None:
            cancel.check()
        spans.extend(cutter.spans(start, end, worth))
    return cutter.chunks(spans)


def cut_document(
    document: Document,
    tokenize: Tokenize,
    detokenize: Detokenize,
    sizes: Sequence[int],
    *,
    cancel: CancelToken | None = None,
) -> Cut:
    """Cut a document for a hypernetwork: into chunks as long as they may be, and those into smaller ones that answer.

    Small chunks answer more to the point, and of long ones fewer write into the sum (docs/decisions/0025).

    Args:
        document: As `split_document`.
        tokenize: Likewise.
        detokenize: Likewise.
        sizes: Most tokens of a chunk, ascending; at least one. Those that answer have the first that makes at most
            `MOST_CHUNKS` of them, or the last, which those of the sum have.
        cancel: Read between sentences.

    Raises:
        As `split_document`.
    """
    chunks = with_tokens(split_document(document, tokenize, detokenize, sizes[-1], cancel=cancel))
    for size in sizes[:-1]:
        parts = _smaller(chunks, document, tokenize, detokenize, size, cancel)
        if sum(map(len, parts)) <= MOST_CHUNKS:
            return Cut(tuple(chunks), parts, size)
    return Cut(tuple(chunks), tuple((chunk,) for chunk in chunks), sizes[-1])


def with_tokens(chunks: Sequence[Chunk], first: int = 0) -> list[Chunk]:
    """Those that have tokens, numbered from `first` on: some tokenizers make none of white space."""
    told = [chunk for chunk in chunks if len(chunk.token_ids)]
    return [replace(chunk, index=first + place) for place, chunk in enumerate(told)]


def _smaller(
    chunks: Sequence[Chunk],
    document: Document,
    tokenize: Tokenize,
    detokenize: Detokenize,
    most: int,
    cancel: CancelToken | None,
) -> tuple[tuple[Chunk, ...], ...]:
    """Each of a document's chunks in smaller ones, numbered through; their texts joined are the chunk's text."""
    parts: list[tuple[Chunk, ...]] = []
    for chunk in chunks:
        found = split_document(replace(document, text=chunk.text), tokenize, detokenize, most, cancel=cancel)
        placed = [replace(one, start=chunk.start + one.start, end=chunk.start + one.end) for one in found]
        parts.append(tuple(with_tokens(placed, sum(map(len, parts))) or [replace(chunk, index=sum(map(len, parts)))]))
    return tuple(parts)


def first_tokens(text: str, tokenize: Tokenize, max_tokens: int) -> tuple[NDArray[np.int32], bool]:
    """The first `max_tokens` tokens of a text, int32 [tokens], and whether that is less than all of it."""
    looked = text[: max_tokens * _LONGEST_TOKEN]
    ids = np.asarray(tokenize(looked), dtype=np.int32)
    return ids[:max_tokens], len(ids) > max_tokens or len(looked) < len(text)


def borders(text: str) -> Iterator[tuple[int, int, float]]:
    """Sentences and lines as (start, end, worth of the border at the end); white space stays with what it follows."""
    start = 0
    for match in _BORDER.finditer(text):
        if match["stop"] is not None and not _ends_sentence(text, match, start):
            if "\n" not in match["stop"]:
                continue
            worth = _LINE
        else:
            worth = _LINE if match["line"] is not None else _SENTENCE
        if match.group().count("\n") > 1:
            worth = _PARAGRAPH
        yield start, match.end(), worth
        start = match.end()
    if start < len(text):
        yield start, len(text), _PARAGRAPH


def _ends_sentence(text: str, match: re.Match[str], start: int) -> bool:
    """Whether a stop ends a sentence: not after an abbreviation or initial, not before a small letter."""
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    if text[match.start()] != "." or match.group().startswith(".."):
        return True
    found = _LAST_WORD.search(text, max(start, match.start() - 24), match.start())
    word = found.group() if found else ""
    if word.isdigit() and len(word) <= 2:  # an ordinal or a list's number more often than the end of a sentence
        return False
    if len(word) == 1 and word.isupper() and unicodedata.name(word, "").startswith(("LATIN", "CYRILLIC")):
        return False
    return word.lower() not in (_ABBREVIATIONS | _BEFORE_NUMBERS if following.isdigit() else _ABBREVIATIONS)


@dataclass(frozen=True)
class _Cutter:
    """One document's text with its tokenizer and bound."""

    text: str
    tokenize: Tokenize
    detokenize: Detokenize
    max_tokens: int
    checked: dict[tuple[int, int], NDArray[np.int32]] = field(default_factory=dict)

    def is_one_chunk(self) -> bool:
        """Whether the whole text is within the bound; a long text is known not to be without tokenizing it."""
        size = len(self.text)
        return 0 < size <= self.max_tokens * _LONGEST_STRING and len(self._tokens(0, size)) <= self.max_tokens

    def spans(self, start: int, end: int, worth: float) -> Iterator[_Span]:
        """One span for a sentence that fits, else pieces of it small enough to be packed well."""
        if end - start <= self.max_tokens * _LONGEST_STRING:
            tokens = len(self.tokenize(self.text[start:end]))
            if tokens <= self.max_tokens:
                # A space at the end is a token only where nothing follows: inside a chunk it belongs to the next word.
                # Only an estimate, for packing: `_fits` has the last word.
                tokens -= int(tokens > 1 and self.text[end - 1] == " ")
                yield _Span(start, end, tokens, worth)
                return
        piece = max(self.max_tokens // 8, 1)
        while end - start > piece * _LONGEST_STRING:
            cut = self._soft_cut(start, start + piece * _LONGEST_STRING // 2, start + piece * _LONGEST_STRING)
            yield from self._halves(start, cut, piece, _INSIDE)
            start = cut
        yield from self._halves(start, end, piece, worth)

    def _halves(self, start: int, end: int, most: int, worth: float) -> Iterator[_Span]:
        """A piece, halved until it has at most `most` tokens (or is one character of at most `max_tokens`)."""
        ids = self.tokenize(self.text[start:end])
        if len(ids) <= most or (end - start == 1 and len(ids) <= self.max_tokens):
            yield _Span(start, end, len(ids), worth)
            return
        if end - start == 1:
            raise ContextError(
                f"character {self.text[start]!r} takes {len(ids)} tokens, a chunk has at most {self.max_tokens}"
            )
        # Half of the tokens, in characters; only a guess, for a tokenizer need not give back what it got.
        middle = start + len(self.detokenize(ids[: len(ids) // 2]))
        middle = min(max(middle, start + 1, start + (end - start) // 4), end - 1, end - (end - start) // 4)
        cut = self._soft_cut(start, start + max((middle - start) // 2, 1), middle)
        yield from self._halves(start, cut, most, _INSIDE)
        yield from self._halves(cut, end, most, worth)

    def _soft_cut(self, start: int, low: int, high: int) -> int:
        """The last place in `low`..`high` after white space, else `high`, moved off a combining mark if it can be."""
        for cut in range(high, low, -1):
            if self.text[cut - 1].isspace():
                return cut
        cut = high
        while cut > max(low, start + 1) and _belongs_to_previous(self.text[cut]):
            cut -= 1
        return cut if cut > max(low, start + 1) or not _belongs_to_previous(self.text[high]) else high

    def chunks(self, spans: Sequence[_Span]) -> list[Chunk]:
        """Pack spans into chunks: full, but ended at a good border; the last two share their text evenly."""
        cuts = [0]
        while cuts[-1] < len(spans):
            cuts.append(self._next_cut(spans, cuts[-1]))
        if len(cuts) > 2:
            cuts[-2] = self._even_cut(spans, cuts[-3], cuts[-2])
        chunks: list[Chunk] = []
        for first, after in pairwise(cuts):
            start, end = spans[first].start, spans[after - 1].end
            chunks.append(Chunk(len(chunks), self._tokens(start, end), self.text[start:end], start, end))
        return chunks

    def _next_cut(self, spans: Sequence[_Span], first: int) -> int:
        """Index of the span that begins the next chunk."""
        best, best_score, tokens, index = first + 1, -1e9, 0, first
        while index < len(spans):
            tokens += spans[index].tokens
            if tokens > self.max_tokens and index > first:
                break
            index += 1
            score = 1e9 if index == len(spans) else tokens / self.max_tokens + spans[index - 1].worth
            if score >= best_score:
                best, best_score = index, score
        while best > first + 1 and not self._fits(spans, first, best):
            best -= 1
        return best

    def _even_cut(self, spans: Sequence[_Span], first: int, cut: int) -> int:
        """The border between the last two chunks, moved back when the last one is less than half full."""
        last = sum(span.tokens for span in spans[cut:])
        total = last + sum(span.tokens for span in spans[first:cut])
        if last * 2 >= self.max_tokens:
            return cut
        options = []
        tokens = 0
        for index in range(first + 1, cut + 1):
            tokens += spans[index - 1].tokens
            options.append((abs(2 * tokens - total) / self.max_tokens - spans[index - 1].worth, -index))
        for _, index in sorted(options):
            if self._fits(spans, first, -index) and self._fits(spans, -index, len(spans)):
                return -index
        return cut

    def _fits(self, spans: Sequence[_Span], first: int, after: int) -> bool:
        """Whether spans together are within the bound; tokens at their seams may differ from those of each alone."""
        return len(self._tokens(spans[first].start, spans[after - 1].end)) <= self.max_tokens

    def _tokens(self, start: int, end: int) -> NDArray[np.int32]:
        """Tokens of a part of the text, int32 [tokens]; kept, since what was checked is often what is taken."""
        if (start, end) not in self.checked:
            self.checked[start, end] = np.asarray(self.tokenize(self.text[start:end]), dtype=np.int32)
        return self.checked[start, end]


def _belongs_to_previous(character: str) -> bool:
    """Whether a character only changes the one before it: accents, joiners, variation selectors, skin tones."""
    return (
        unicodedata.category(character) in ("Mn", "Me", "Mc")
        or character in "\u200d\ufe0f"
        or ("\U0001f3fb" <= character <= "\U0001f3ff")
    )
