"""Of documents, the one chunk that a question is about answers, with the adapter it has of its own.

A chunk is found by what the base model makes of its tokens and the question's (`search_head`), where the hypernetwork
learnt to compare them, and by the passage that shares most words with the question (BM25, as quotes are found), words
weighed down where they are common. What a document says of itself as a whole (`overview`) is one chunk more. One
answers, because two at once answered worse (docs/decisions/0018), and none where the question is about no document
(docs/decisions/0021). What was said before is read with a question that needs it (docs/decisions/0024). Where there are
no keys to compare and no chunk shares a word with the question, whole documents answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localhyper.blas_threads import one_thread_a_product
from localhyper.chunk_choice import Choice, ChosenChunk
from localhyper.chunk_keys import ChunkKeys, decide, read_keys, read_question
from localhyper.engine import AdapterUse, CaptureSpec, Engine
from localhyper.library import AdapterInfo, Library, chunk_folder
from localhyper.lora import FloatArray
from localhyper.search_head import Match, says_enough
from localhyper.standalone import asks_of_another, stands_alone

Place = tuple[int, int]  # id of a document in the library, and number of a chunk in it

# A follow-up like "And when?" has only common words of its own; a new question's rare words outweigh the old one's.
EARLIER_WEIGHT = 0.3
RECENT = 16  # questions whose activations are kept
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rated:
    """What a document has to do with the last questions of a conversation.

    Attributes:
        info: The document.
        rank: What it has to do with them beside other documents; without keys, the score of its best chunk.
        scores: Number of a chunk to its score; without keys only of those that share a word.
        related: Whether the questions are about it; without keys nobody knows, and it counts as such.
        by_keys: Whether keys told so.
    """

    info: AdapterInfo
    rank: float
    scores: Mapping[int, float]
    related: bool = True
    by_keys: bool = False

    @property
    def best(self) -> int:
        """Number of the best chunk; of equals, the first one."""
        return max(self.scores, key=lambda chunk: (self.scores[chunk], -chunk))


class ChunkChooser:
    """The `Choose` of a library."""

    def __init__(self, library: Callable[[], Library], *, only_related: bool = True, standalone: bool = True) -> None:
        """Choose from a library.

        Args:
            library: Is asked for when first needed.
            only_related: Leave out documents that nothing is asked about.
            standalone: Read a question that stands for itself without the conversation before it.
        """
        self._library, self._only_related, self._standalone = library, only_related, standalone
        self._recent: dict[tuple[str, CaptureSpec, str, Path], FloatArray] = {}

    def __call__(self, questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        """Replace the documents among the adapters by the chunk of one of them that the question is about.

        Other documents of one chunk stay as they are, if it is about them, too.
        """
        searched = self._searched(uses) if questions and uses else {}
        earlier = self._earlier(questions)
        judged = questions[-1:] if earlier == 0 else questions  # as if nothing had been asked before
        source = questions[-1 - earlier] if earlier else ""
        with one_thread_a_product():  # the reply comes next, and a product's other threads would be in its way
            rated = self._rated(judged, source, list(searched.values()), engine) if searched else []
        asked = [one for one in rated if one.related]
        if rated and not asked:
            left_out = tuple(one.info.name for one in rated)
            return Choice(tuple(use for use in uses if use not in searched), left_out=left_out)
        found = [one for one in asked if one.scores]
        if not found:
            return Choice(tuple(uses))
        chosen = max(found, key=lambda one: one.rank)  # of equals, the document that was named first
        info, best = chosen.info, chosen.best
        file = info.chunk_path(best)
        if not file.is_file():
            logger.warning("the adapter of chunk %d of `%s` is missing: %s", best + 1, info.name, file)
            return Choice(tuple(uses))
        beside = {one.info.id for one in asked if one.info.chunks == 1} - {info.id}
        kept = []
        for use in uses:
            of = searched.get(use)
            if of is None or of.id in beside:
                kept.append(use)
            elif of.id == info.id:
                kept.append(AdapterUse(file, use.scale))
        chunk = ChosenChunk(info.name, best, info.chunks) if file != info.path else None
        return Choice(tuple(kept), chunk, earlier=earlier if chosen.by_keys and len(questions) > 1 else None)

    def _earlier(self, questions: Sequence[str]) -> int | None:
        """How many questions before the last one are read with it (docs/decisions/0024); None = all.

        Replies given before pull a small base model towards themselves. So a question is read by itself if it stands
        so, and else with those before it, back to the last one that does.
        """
        if not self._standalone:
            return None
        return next((back for back, one in enumerate(reversed(questions)) if stands_alone(one)), None)

    def _searched(self, uses: Sequence[AdapterUse]) -> dict[AdapterUse, AdapterInfo]:
        """Those of the adapters in force whose chunks, or whose overview, have adapters of their own."""
        known = {info.path: info for info in self._library().list() if info.chunk_files}
        return {use: known[use.path] for use in uses if use.path in known and use.scale != 0}

    def _rated(
        self, questions: Sequence[str], source: str, documents: Sequence[AdapterInfo], engine: Engine
    ) -> list[_Rated]:
        """All documents, by the last question, and by the one before it for less.

        Args:
            questions: Of the conversation.
            source: The one that the last goes on from, if any: it tells what a "Why?" is about.
            documents: To rate.
            engine: Reads the questions.
        """
        keys = _keys(documents, engine)
        # "And of Berlin?" is about the chunk that says so, not about the one after it.
        back = not (source and asks_of_another(questions[-1]))
        recent = list(zip(questions[:-3:-1], (1.0, EARLIER_WEIGHT), strict=False))
        words = [self._library().score_chunks(question, [info.id for info in documents]) for question, _ in recent]
        if not keys:
            return [_rated_by_words(info, _added(words, recent, info.id)) for info in documents]
        return [
            self._rated_by_keys(info, of_one, recent, source, words, engine, info.chunks if back else 0)
            for info, of_one in zip(documents, keys, strict=True)
        ]

    def _rated_by_keys(
        self,
        info: AdapterInfo,
        keys: ChunkKeys,
        recent: Sequence[tuple[str, float]],
        source: str,
        words: Sequence[Mapping[Place, float]],
        engine: Engine,
        following: int,
    ) -> _Rated:
        """One document; `following`: how many of its chunks look back to the one before them."""
        together, parts, closest = np.zeros((3, len(keys.starts)), np.float32)
        most = 0.0
        for (question, weight), of_question in zip(recent, words, strict=True):
            hidden = self._read(question, keys, engine)
            found = keys.match(hidden)
            beside = np.array([of_question.get((info.id, chunk), 0.0) for chunk in range(len(parts))], np.float32)
            together += np.float32(weight) * keys.beside_words(found, beside, info.chunks)
            closer = keys.match_parts(hidden, found, following)
            parts += np.float32(weight) * keys.parts_beside_words(closer, beside)
            closest += np.float32(weight) * found.scores
            most += weight * found.most
        if source and not says_enough(most):
            of_source = keys.match(self._read(source, keys, engine))
            closest, most = closest + of_source.scores, most + of_source.most
        related = not self._only_related or keys.is_related(Match(closest, most), info.chunks)
        ranked = enumerate(decide(together, parts, info.chunks).tolist())
        return _Rated(info, float(together.max()), dict(ranked), related, True)

    def _read(self, question: str, keys: ChunkKeys, engine: Engine) -> FloatArray:
        """Activations on a question; the last ones are kept, as each is read for all documents and counts once more."""
        key = question, keys.capture, keys.prefix, engine.info.path
        if key not in self._recent:
            self._recent[key] = read_question(question, engine, keys.capture, keys.prefix)
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return self._recent[key]


def _rated_by_words(info: AdapterInfo, scores: Mapping[int, float]) -> _Rated:
    return _Rated(info, max(scores.values(), default=0.0), scores)


def _added(
    words: Sequence[Mapping[Place, float]], recent: Sequence[tuple[str, float]], document: int
) -> dict[int, float]:
    """A document's chunks that share words with one of the questions, to their weighed scores."""
    total: dict[int, float] = {}
    for (_, weight), scores in zip(recent, words, strict=True):
        for (identity, chunk), score in scores.items():
            if identity == document:
                total[chunk] = total.get(chunk, 0.0) + weight * score
    return total


def _keys(documents: Sequence[AdapterInfo], engine: Engine) -> list[ChunkKeys]:
    """Search keys of all these documents; none where one lacks them: scores must compare."""
    keys = []
    for info in documents:
        found = read_keys(chunk_folder(info.path), info.chunk_files)
        if found is None or not found.fits(engine.info):
            return []
        keys.append(found)
    return keys
