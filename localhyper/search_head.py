"""Which chunk a question is about, by what the base model itself makes of both: late interaction of activations.

A hypernetwork reads the base model's activations on every token of a chunk. A linear map, learnt from pairs of
questions and paragraphs, makes a short key of each; the tokens of a question become keys by a map of their own, each
with a weight. A chunk scores the sum, over the question's tokens, of the cosine to the most similar token of the
chunk: ColBERT's MaxSim (Khattab and Zaharia 2020, arXiv 2004.12832). So a question finds its chunk in other words than
the text has. Knows no engine and no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localhyper.errors import HypernetworkError
from localhyper.lora import FloatArray

NORM_EPSILON = 1e-5
LOOKBACK = 0.15  # cosine that a token of the chunk before counts for less; docs/decisions/0029 has what chose it
MAX_WIDTH = 1 << 10  # of a key
# docs/decisions/0021 has what these come from.
LEAST_SAID = 38.0  # of less, as in "Who keeps it?", nobody could tell what it is about
UNRELATED = 0.37  # a mean cosine below this is chance
UNRELATED_PER_DOUBLING = 0.02


@dataclass(frozen=True)
class QuestionMap:
    """From activations on a question to its keys.

    Attributes:
        mean: float32 [width], taken from the features first; width = taps x hidden.
        keys: float32 [width, d].
        weight: float32 [width]: softplus(weight · (features - mean) + `offset`) is the weight of a token.
        offset: See there.
        scale: What a cosine counts for.
        words: What BM25 counts for beside it.
    """

    mean: FloatArray
    keys: FloatArray
    weight: FloatArray
    offset: float
    scale: float
    words: float

    def read(self, hidden: FloatArray) -> FloatArray:
        """Activations float32 [taps, tokens, hidden] to weighed keys, float32 [tokens, d]."""
        centred = features(hidden) - self.mean
        weights = np.logaddexp(0.0, centred @ self.weight + self.offset) * self.scale
        read: FloatArray = _unit(centred @ self.keys) * weights[:, None].astype(np.float32)
        return read


def is_related(best: float, most: float, tokens: int) -> bool:
    """Whether a question is about a document of so many tokens.

    The mean cosine of the question's tokens to the closest chunk's decides. The more tokens a document has, the closer
    one of them comes by chance. A question with hardly a word of its own counts as related: it speaks of what is there.

    Args:
        best: Score of the closest chunk.
        most: What a chunk would score that has every token of the question.
        tokens: Of all the document's chunks.
    """
    least = UNRELATED + UNRELATED_PER_DOUBLING * math.log2(max(1.0, tokens / 256))
    return not says_enough(most) or best >= least * most


def says_enough(most: float) -> bool:
    """Whether a question has words enough to tell what it is about."""
    return most >= LEAST_SAID


@dataclass(frozen=True)
class SearchHead:
    """Maps of questions and of chunks.

    Attributes:
        document: float32 [width, d].
        question: Of questions.
        parts: What tells the chunks of one document apart; None = the same that tells whether a question is about the
            document, and about all of it. What its sentences have in common is not what parts them
            (docs/decisions/0027).
    """

    document: FloatArray
    question: QuestionMap
    parts: SearchHead | None = None

    @property
    def maps(self) -> tuple[QuestionMap, ...]:
        """Of questions, in the order of the keys."""
        return (self.question,) if self.parts is None else (self.question, *self.parts.maps)

    def keys(self, hidden: FloatArray) -> FloatArray:
        """Activations on a chunk, float32 [taps, tokens, hidden], to its keys.

        Returns:
            float32 [tokens, d] of length 1; those for `parts` beside them.
        """
        own = _unit((features(hidden) - self.question.mean) @ self.document)
        return own if self.parts is None else np.concatenate((own, self.parts.keys(hidden)), 1)


@dataclass(frozen=True)
class Match:
    """What chunks have to do with a question.

    Attributes:
        scores: Of each, float32 [chunks]: a softmax is how likely it is the one.
        most: What a chunk would score that has every token of the question.
    """

    scores: FloatArray
    most: float


def match(
    question: QuestionMap, hidden: FloatArray, keys: FloatArray, starts: NDArray[np.intp], following: int = 0
) -> Match:
    """What chunks have to do with a question, read as activations float32 [taps, tokens, hidden]; see `max_sim`."""
    if not hidden.shape[1]:
        return Match(np.zeros(len(starts), np.float32), 0.0)
    read = question.read(hidden)
    return Match(max_sim(read, keys, starts, following), float(np.linalg.norm(read, axis=1).sum()))


def make_head(mean: FloatArray, document: FloatArray, question: FloatArray, scalars: FloatArray) -> SearchHead:
    """A head of the arrays that a bundle holds.

    Args:
        mean: [width].
        document: [width, d].
        question: [width, d + 1], the weight last.
        scalars: [3]: offset, scale, words.

    Raises:
        HypernetworkError: Shapes that don't go together, values that are not finite, or a scale below 0.
    """
    width, size = document.shape if document.ndim == 2 else (0, 0)
    fits = mean.shape == (width,) and question.shape == (width, size + 1) and scalars.shape == (3,)
    if not fits or not 0 < size <= MAX_WIDTH:
        shapes = [list(array.shape) for array in (mean, document, question, scalars)]
        raise HypernetworkError(f"a search head must be [w], [w, d], [w, d + 1] and [3], got {shapes}")
    if not all(np.isfinite(array).all() for array in (mean, document, question, scalars)) or scalars[1:].min() < 0:
        raise HypernetworkError("a search head must have finite values and scales of at least 0")
    offset, scale, words = (float(value) for value in scalars)
    keys, weight = np.ascontiguousarray(question[:, :-1]), np.ascontiguousarray(question[:, -1])
    return SearchHead(document, QuestionMap(mean, keys, weight, offset, scale, words))


def features(hidden: FloatArray) -> FloatArray:
    """Each tap normalized over its width, side by side: [taps, tokens, hidden] to [tokens, taps x hidden]."""
    centred = hidden - hidden.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON)
    return np.ascontiguousarray(normed.transpose(1, 0, 2).reshape(hidden.shape[1], -1), dtype=np.float32)


def max_sim(question: FloatArray, keys: FloatArray, starts: NDArray[np.intp], following: int = 0) -> FloatArray:
    """Scores of chunks, float32 [chunks].

    Of a text, what a sentence is about often stands in the one before ("The commission focused on …"). So what is not
    found in a chunk may be found before it, for less: `LOOKBACK` of a cosine with each chunk further back.

    Args:
        question: Weighed keys of a question, float32 [m, d].
        keys: Keys of all chunks, one after the other, float32 [n, d].
        starts: Row that each chunk begins with, ascending from 0, each below n.
        following: How many of the first chunks follow each other in one text.
    """
    closest = np.maximum.reduceat(keys @ question.T, starts, axis=0)
    less = np.float32(LOOKBACK) * np.linalg.norm(question, axis=1)
    for chunk in range(1, following):
        np.maximum(closest[chunk], closest[chunk - 1] - less, out=closest[chunk])
    total: FloatArray = closest.sum(1)
    return total


def _unit(rows: NDArray[np.floating]) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit
