"""Of long documents, the one chunk that a question is about answers, with the adapter it has of its own.

A chunk is found by the passage that shares most words with the question (BM25, as quotes are found), words weighed down
where they are common; one chunk answers, because two at once answered worse (docs/decisions/0018). Where no chunk
shares a word with the question, whole documents answer. Knows the library, no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from localhyper.chunk_choice import Choice, ChosenChunk
from localhyper.engine import AdapterUse
from localhyper.library import AdapterInfo, Library

# A follow-up like "And when?" has only common words of its own; a new question's rare words outweigh the old one's.
EARLIER_WEIGHT = 0.3
logger = logging.getLogger(__name__)


class ChunkChooser:
    """The `Choose` of a library."""

    def __init__(self, library: Callable[[], Library]) -> None:
        """`library` is asked for when first needed."""
        self._library = library

    def __call__(self, questions: Sequence[str], uses: Sequence[AdapterUse]) -> Choice:
        """Replace the long documents among the adapters by the chunk of one of them that the question is about."""
        long = self._long_documents(uses) if questions and uses else {}
        best = self._best(questions, list(long.values()))
        if best is None:
            return Choice(tuple(uses))
        info, chunk = best
        file = info.chunk_path(chunk)
        if not file.is_file():
            logger.warning("the adapter of chunk %d of `%s` is missing: %s", chunk + 1, info.name, file)
            return Choice(tuple(uses))
        kept = [AdapterUse(file, use.scale) if use in long else use for use in uses if long.get(use, info) == info]
        return Choice(tuple(kept), ChosenChunk(info.name, chunk, info.chunk_files))

    def _long_documents(self, uses: Sequence[AdapterUse]) -> dict[AdapterUse, AdapterInfo]:
        """Those of the adapters in force whose chunks have adapters of their own."""
        known = {info.path: info for info in self._library().list() if info.chunk_files}
        return {use: known[use.path] for use in uses if use.path in known and use.scale != 0}

    def _best(self, questions: Sequence[str], long: Sequence[AdapterInfo]) -> tuple[AdapterInfo, int] | None:
        """The document and its chunk that have most to do with the question; None where none has."""
        if not long:
            return None
        library, by_id = self._library(), {info.id: info for info in long}
        scores = library.score_chunks(questions[-1], list(by_id))
        for place, score in library.score_chunks(questions[-2], list(by_id)).items() if len(questions) > 1 else ():
            scores[place] = scores.get(place, 0.0) + EARLIER_WEIGHT * score
        if not scores:
            return None
        # Of equals, the first chunk of the document that was named first.
        number, chunk = max(scores, key=lambda place: (scores[place], -list(by_id).index(place[0]), -place[1]))
        return by_id[number], chunk
