"""Words of a document where no space precedes them.

A document's adapter says tokens as they are in the text, and there a word mostly follows a space. At the start of a
reply and after a quotation mark the same word is spelt with other tokens: " walnut" is one, "walnut" is "wal" and
"nut", and how to go on after "wal" no association tells. So, where a word begins without a space, the model is asked
which word it would say after one.

Knows pieces of text and rows of logits, no model.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from localhyper.engine import FloatArray

OPENERS = frozenset('"([{<>*_`=“«\n')  # what a word without a space follows, besides nothing at all
MARGIN = 3.0  # nats that the likeliest word with this beginning may be behind the likeliest of all
_HIGHEST = chr(0x10FFFF)
_OPENING = re.compile(r"(?:[(\[{<“«]|<\w+>)$")


class Respeller:
    """The words of one vocabulary that are a single token after a space."""

    def __init__(self, pieces: Iterable[bytes], tokenize: Callable[[str], Sequence[int]]) -> None:
        """`pieces` are the tokens' bytes in the order of their ids; `tokenize` gives the ids of a text."""
        words = [(piece[1:], token) for token, piece in enumerate(pieces) if piece[:1] == b" "]
        known = sorted((text, token) for text, token in ((_word(raw), token) for raw, token in words) if text)
        self._texts = [text for text, _ in known]
        self.ids = np.array([token for _, token in known], np.int64)
        self._tokenize = tokenize

    @staticmethod
    def may_begin(said: str) -> bool:
        """Whether a word without a space may begin after what a reply has said so far."""
        return not said or said[-1] in OPENERS

    def without_space(self, said: str, text: str) -> list[int]:
        """The tokens of a word in place of one with a space before it, where something has just been opened; else none.

        Args:
            said: The reply so far.
            text: Of the token that would be said.
        """
        word = text[1:]
        return list(self._tokenize(word)) if text[:1] == " " and word.isalpha() and _opened(said) else []

    def likeliest(self, row: FloatArray, begun: str) -> int | None:
        """The token, with its space, of the likeliest word that begins as a chosen one does; None where none is likely.

        Args:
            row: Logits, float32 [vocab].
            begun: The text of the token that would be said without a space.
        """
        place = self._place(row, begun)
        return None if place is None else int(self.ids[place])

    def respelt(self, row: FloatArray, begun: str) -> list[int]:
        """The same word's tokens without a space; none where what begins it is the word, or no word is likely."""
        place = self._place(row, begun)
        if place is None or self._texts[place] == begun:
            return []
        return list(self._tokenize(self._texts[place]))

    def _place(self, row: FloatArray, begun: str) -> int | None:
        if not begun.isalpha():
            return None
        first, last = bisect_left(self._texts, begun), bisect_left(self._texts, begun + _HIGHEST)
        if first == last:
            return None
        logits = row[self.ids]
        best = first + int(np.argmax(logits[first:last]))
        return best if logits[best] >= logits.max() - MARGIN else None


def _opened(said: str) -> bool:
    """Whether a text ends with a bracket, a tag, or the first of two quotation marks or double asterisks."""
    odd = any(said.endswith(mark) and said.count(mark) % 2 for mark in ('"', "**"))
    return bool(odd or _OPENING.search(said))


def _word(raw: bytes) -> str:
    """Its letters; nothing if it is not of letters alone."""
    text = raw.decode("utf-8", "ignore")
    return text if text.isalpha() and text.encode() == raw else ""
