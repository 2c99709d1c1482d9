"""Texts to chunks in training, by the very code that cuts a document to be attached.

Chunks that are cut otherwise (all of full length, or in the middle of a sentence) look unlike those of a real document,
and what a hypernetwork learns to do with the one kind it does not do with the other (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from localhyper.chunking import Chunk, split_document
from localhyper.evaluate.columns import make_document
from localhyper.export.texts import Pair

END_MARKER = "<|endoftext|>"  # some copies of data sets left it on their answers


def cut_text(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[Chunk]:
    """Chunks of a text as attaching makes them."""

    def tokenize(part: str) -> NDArray[np.int32]:
        return np.array(tokenizer.encode(part, add_special_tokens=False).ids, np.int32)

    def detokenize(ids: Sequence[int] | NDArray[np.int32]) -> str:
        part: str = tokenizer.decode([int(i) for i in ids])
        return part

    return split_document(make_document("training", text), tokenize, detokenize, max_tokens)


def spelled_in(text: str, answer: str) -> str | None:
    """The answer as it stands in a text, without end marker or a final period that the text lacks; None = nowhere."""
    answer = answer.strip().removesuffix(END_MARKER).strip()
    for form in (answer, answer.rstrip(".")):
        if form and form in text:
            return form
    return None


def place_pairs(texts: Sequence[str], pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The questions of each chunk of a context: those whose answer it alone spells.

    An answer that stands in more than one of them says nothing about which is meant.
    """
    placed: list[list[Pair]] = [[] for _ in texts]
    for pair in pairs:
        found = [(number, spelled_in(text, pair.answer)) for number, text in enumerate(texts)]
        spelled = [(number, answer) for number, answer in found if answer]
        for number, answer in spelled if len(spelled) == 1 else []:
            placed[number].append(Pair(pair.question, answer))
    return placed
