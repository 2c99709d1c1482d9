"""Of documents, the one chunk that a question is about answers, with the adapter it has of its own.

A chunk is found by what the base model makes of its tokens and the question's (`search_head`), where the hypernetwork
learnt to compare them, and by the passage that shares most words with the question (BM25, as quotes are found), words
weighed down where they are common. What a document says of itself as a whole (`overview`) is one chunk more. One
answers, because two at once answered worse (docs/decisions/0018). Where there are no keys to compare and no chunk
shares a word with the question, whole documents answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from localhyper.chunk_choice import Choice, ChosenChunk
from localhyper.chunk_keys import ChunkKeys, read_keys, read_question
from localhyper.engine import AdapterUse, CaptureSpec, Engine
from localhyper.library import AdapterInfo, Library, chunk_folder
from localhyper.lora import FloatArray

Place = tuple[int, int]  # number of a document among those attached, and of a chunk in it

# A follow-up like "And when?" has only common words of its own; a new question's rare words outweigh the old one's.
EARLIER_WEIGHT = 0.3
RECENT = 16  # questions whose activations are kept
logger = logging.getLogger(__name__)


class ChunkChooser:
    """The `Choose` of a library."""

    def __init__(self, library: Callable[[], Library]) -> None:
        """`library` is asked for when first needed."""
        self._library = library
        self._recent: dict[tuple[str, CaptureSpec, str, Path], FloatArray] = {}

    def __call__(self, questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        """Replace the documents among the adapters by the chunk of one of them that the question is about.

        Other documents of one chunk stay as they are.
        """
        searched = self._searched(uses) if questions and uses else {}
        best = self._best(questions, list(searched.values()), engine)
        if best is None:
            return Choice(tuple(uses))
        info, chunk = best
        file = info.chunk_path(chunk)
        if not file.is_file():
            logger.warning("the adapter of chunk %d of `%s` is missing: %s", chunk + 1, info.name, file)
            return Choice(tuple(uses))
        kept = []
        for use in uses:
            of = searched.get(use)
            if of == info:
                kept.append(AdapterUse(file, use.scale))
            elif of is None or of.chunks == 1:
                kept.append(use)
        return Choice(tuple(kept), ChosenChunk(info.name, chunk, info.chunks) if file != info.path else None)

    def _searched(self, uses: Sequence[AdapterUse]) -> dict[AdapterUse, AdapterInfo]:
        """Those of the adapters in force whose chunks, or whose overview, have adapters of their own."""
        known = {info.path: info for info in self._library().list() if info.chunk_files}
        return {use: known[use.path] for use in uses if use.path in known and use.scale != 0}

    def _best(
        self, questions: Sequence[str], documents: Sequence[AdapterInfo], engine: Engine
    ) -> tuple[AdapterInfo, int] | None:
        """The document and its chunk that have most to do with the question; None where none has."""
        if not documents:
            return None
        keys = _keys(documents, engine)
        scores = self._scores(questions[-1], documents, keys, engine)
        if len(questions) > 1:
            for place, score in self._scores(questions[-2], documents, keys, engine).items():
                scores[place] = scores.get(place, 0.0) + EARLIER_WEIGHT * score
        if not scores:
            return None
        # Of equals, the first chunk of the document that was named first.
        number, chunk = max(scores, key=lambda place: (scores[place], -place[0], -place[1]))
        return documents[number], chunk

    def _scores(
        self, question: str, documents: Sequence[AdapterInfo], keys: Sequence[ChunkKeys], engine: Engine
    ) -> dict[Place, float]:
        """What chunks have to do with a question: (number of the document, chunk) to a score, without keys by words."""
        numbers = {info.id: number for number, info in enumerate(documents)}
        found = self._library().score_chunks(question, list(numbers))
        words = {(numbers[identity], chunk): score for (identity, chunk), score in found.items()}
        if not keys:
            return words
        scores: dict[Place, float] = {}
        for number, of_one in enumerate(keys):
            beside = np.array([words.get((number, chunk), 0.0) for chunk in range(len(of_one.starts))], np.float32)
            both = of_one.beside_words(of_one.scores_of(self._read(question, of_one, engine)), beside)
            scores |= {(number, chunk): float(score) for chunk, score in enumerate(both)}
        return scores

    def _read(self, question: str, keys: ChunkKeys, engine: Engine) -> FloatArray:
        """Activations on a question; the last ones are kept, as each is read for all documents and counts once more."""
        key = question, keys.capture, keys.prefix, engine.info.path
        if key not in self._recent:
            self._recent[key] = read_question(question, engine, keys.capture, keys.prefix)
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return self._recent[key]


def _keys(documents: Sequence[AdapterInfo], engine: Engine) -> list[ChunkKeys]:
    """Search keys of all these documents; none where one lacks them: scores must compare."""
    keys = []
    for info in documents:
        found = read_keys(chunk_folder(info.path), info.chunk_files)
        if found is None or not found.fits(engine.info):
            return []
        keys.append(found)
    return keys
