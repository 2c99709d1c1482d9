"""Long documents in training: runs of consecutive chunks of one text, some of which are asked about among the others.

An adapter of n chunks is a sum in which n - 1 chunks say nothing about the question. Trained alone, a chunk learns to
write everything; only inside such a sum does it learn what is worth writing. Chunks of a run share words and subject,
and what they write in common adds up, as in a real document.

The chunks that are asked about and those that surround them are cut and filled alike, and any of a run may be either.
Where they can be told apart (by a sentence cut at the beginning, by length, by the number of facts), the hypernetwork
learns to tell them apart, closes its gates for the one kind, and is helpless before real documents, whose chunks all
look like the other (docs/training.md has the figures of two runs that did so).

Most of the sum is settled: computed without gradient every few steps and kept. A few chunks are live, and stand for all
when gates learn. All of it is a function of seed and step alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localhyper.chunking import Chunk as Piece
from localhyper.export.batches import ChunkTokens, Collator
from localhyper.export.cutting import cut_text
from localhyper.export.data import ExampleMaker, Mixture, continuation_pairs, gap_pairs
from localhyper.export.filled_texts import FilledText, fill_text
from localhyper.export.objectives import ALONE, Surround
from localhyper.export.texts import Example, Pair, Text, long_texts
from localhyper.export.train_config import SurroundConfig

SMALLEST_SUM = 4
SETTLED = 2 / 3  # share of sums that have a settled part
MOST_SETTLED = 0.75  # share of a run that may be settled: the rest is asked about
BOOKS = 0.5  # share of runs that are taken out of plain texts
PLAIN, MOST_FACTS = 0.1, 5.0  # share of runs without planted facts; most facts a chunk in the others
TRIES = 20


@dataclass(frozen=True)
class Chunk:
    """A chunk of a run.

    Attributes:
        text: All of it.
        sentences: Of the text it was cut from, without the facts planted.
        asked: Questions about what stands in it, by kind of document.
    """

    text: str
    sentences: Sequence[str]
    asked: Mapping[str, Sequence[Pair]]


@dataclass(frozen=True)
class FilledRun:
    """Consecutive chunks of a text, and their tokens."""

    chunks: Sequence[Chunk]
    tokens: ChunkTokens


class RunMaker:
    """Cuts texts into runs."""

    def __init__(self, maker: ExampleMaker, collator: Collator) -> None:
        self._maker, self._collator = maker, collator

    def run(self, rng: random.Random, text: Text, most: int, facts: float) -> FilledRun:
        """At most `most` chunks of a text from a random place, with `facts` facts planted a chunk on average."""
        size = self._maker.max_tokens
        filled = fill_text(rng, self._maker, text, most * size, facts)
        pieces = cut_text(self._maker.tokenizer, filled.text, size)[:most]
        return FilledRun([self._chunk(filled, piece) for piece in pieces], self._collator.pad_chunks(pieces))

    def _chunk(self, filled: FilledText, piece: Piece) -> Chunk:
        place = piece.start, piece.end
        return Chunk(piece.text, filled.whole_sentences(*place), filled.asked(*place))


@dataclass(frozen=True)
class Beside:
    """Chunks of a run that a step's documents are drawn from: those that do not surround them."""

    chunks: Sequence[Chunk]

    def draw(self, rng: random.Random, mixture: Mixture) -> Example | None:
        """A chunk with questions of a random kind, of another where no chunk has any of that; None = of none at all."""
        for _ in range(TRIES):
            kind = mixture.draw(rng)
            for chunk in rng.sample(self.chunks, len(self.chunks)):
                pairs = self._pairs(rng, kind, chunk)
                if pairs:
                    return Example(kind, chunk.text, pairs)
        return None

    def _pairs(self, rng: random.Random, kind: str, chunk: Chunk) -> tuple[Pair, ...]:
        if kind == "gaps":
            return gap_pairs(rng, chunk.sentences)
        if kind == "continuation":
            return continuation_pairs(rng, chunk.sentences)
        return tuple(chunk.asked.get(kind, ()))


class FillerBank:
    """Runs, and which chunks of them surround the documents of a step, or are its documents."""

    def __init__(self, maker: ExampleMaker, collator: Collator, config: SurroundConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.runs: list[FilledRun] = []
        if not config.share:
            return
        rng, cutter = random.Random(f"{seed}/{maker.split}/filler"), RunMaker(maker, collator)
        plain, articles = long_texts(maker.corpus)
        weights = [math.sqrt(len(text.sentences)) for text in articles]
        left = config.bank
        for _ in range(config.bank):  # a text may be too short for a single chunk
            if left <= 0:
                break
            books = plain and (not articles or rng.random() < BOOKS)
            text = rng.choice(plain) if books else rng.choices(articles, weights)[0]
            facts = 0.0 if rng.random() < PLAIN else rng.uniform(0.1, MOST_FACTS)
            # A run is longer than its largest sum: some of its chunks are asked about.
            run = cutter.run(rng, text, min(left, round((config.most + config.live) / MOST_SETTLED)), facts)
            if len(run.chunks) > 2 * config.live:
                self.runs.append(run)
                left -= len(run.chunks)

    def _settled_part(self, step: int) -> tuple[FilledRun, range]:
        """The run of a step's surround, and which of its chunks are settled."""
        rng = random.Random(f"{self.seed}/settle/{step // self.config.settle_every}")
        run = rng.choices(self.runs, [len(run.chunks) for run in self.runs])[0]
        most = max(1, min(self.config.most, int(len(run.chunks) * MOST_SETTLED) - self.config.live))
        size = round(math.exp(rng.uniform(math.log(min(SMALLEST_SUM, most)), math.log(most))))
        first = rng.randrange(len(run.chunks) - size + 1)
        return run, range(first, first + size)

    def to_settle(self, step: int) -> ChunkTokens | None:
        """Chunks whose sum is to be settled before this step; None = keep what is settled."""
        if not self.runs or step % self.config.settle_every:
            return None
        run, settled = self._settled_part(step)
        return run.tokens.chosen(settled)

    def total(self, settled: int) -> int:
        """Chunks of the documents that a settled sum will be part of: it, the live ones and the document's own."""
        return settled + self.config.live + 2

    def _plan(self, step: int) -> tuple[FilledRun, list[int], list[int], bool] | None:
        """Run, live chunks, chunks to ask about, and whether the settled sum joins; None = nothing surrounds."""
        rng = random.Random(f"{self.seed}/surround/{step}")
        kind = rng.random() / self.config.share if self.config.share else 1.0
        if not self.runs or kind >= 1:
            return None
        run, settled = self._settled_part(step)
        free = [number for number in range(len(run.chunks)) if number not in settled]
        mixed = rng.sample(free, len(free))
        return run, mixed[: self.config.live], mixed[self.config.live :], kind < SETTLED

    def surround(self, step: int) -> Surround:
        """What joins the adapters of a step: chunks of one text, those that learn not among those that are settled."""
        plan = self._plan(step)
        return Surround(plan[0].tokens.chosen(plan[1]), settled=plan[3]) if plan else ALONE

    def beside(self, step: int) -> Beside | None:
        """What the documents of a step are drawn from; None where nothing surrounds them."""
        plan = self._plan(step)
        return Beside([plan[0].chunks[number] for number in plan[2]]) if plan else None
