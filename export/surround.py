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

import torch
from torch import Tensor

from localhyper.evaluate.facts import Fact, make_facts
from localhyper.export.batches import Collator
from localhyper.export.data import DIGITS, ExampleMaker, Mixture, continuation_pairs, gap_pairs
from localhyper.export.data_files import spelled_in
from localhyper.export.objectives import ALONE, Surround
from localhyper.export.relations import make_relations
from localhyper.export.texts import Example, Pair, Text, long_texts
from localhyper.export.train_config import SurroundConfig

SMALLEST_SUM = 4
SETTLED = 2 / 3  # share of sums that have a settled part
MOST_SETTLED = 0.75  # share of a run that may be settled: the rest is asked about
BOOKS = 0.5  # share of runs that are taken out of plain texts
PLAIN, MOST_FACTS = 0.1, 5.0  # share of runs without planted facts; most facts a chunk in the others
FORMED = 0.35  # share of facts of one form among planted ones
TRIES = 20


@dataclass(frozen=True)
class Chunk:
    """A chunk of a run.

    Attributes:
        ids: Prefix + tokens, as many as a chunk may have.
        text: What the tokens say.
        sentences: Of the text it was cut from, without the facts planted.
        asked: Questions about what stands in it, by kind of document.
    """

    ids: Sequence[int]
    text: str
    sentences: Sequence[str]
    asked: Mapping[str, Sequence[Pair]]


@dataclass(frozen=True)
class FilledRun:
    """Consecutive full-length chunks of a text; `ids` [n, prefix + tokens] are theirs."""

    chunks: Sequence[Chunk]
    ids: Tensor


class Planter:
    """Invented facts for one run: no two of them answer the same question."""

    def __init__(self, rng: random.Random, maker: ExampleMaker) -> None:
        self._rng, self._maker = rng, maker
        self._known: set[tuple[str, str]] = set()

    def fact(self) -> tuple[str, Fact] | None:
        """A fact and its kind; None where all that were drawn are known already."""
        for _ in range(TRIES):
            formed = self._rng.random() < FORMED
            if formed:
                (fact,) = make_facts(self._rng, self._maker.split, 1, digits=self._rng.random() < DIGITS)
            else:
                (fact,) = make_relations(self._rng, self._maker.split, 1)
            if (fact.attribute, fact.name) not in self._known:
                self._known.add((fact.attribute, fact.name))
                return ("facts" if formed else "relations"), fact
        return None


class RunMaker:
    """Cuts texts into runs."""

    def __init__(self, maker: ExampleMaker, collator: Collator) -> None:
        self._maker, self._collator = maker, collator

    def run(self, rng: random.Random, text: Text, most: int, facts: float) -> FilledRun:
        """At most `most` chunks of a text from a random place, with `facts` facts planted a chunk on average."""
        # Begin where enough is left, if there is so much at all; a sentence has some twenty tokens.
        room = max(1, len(text.sentences) - most * self._collator.max_tokens // 20)
        at, planter = rng.randrange(room), Planter(rng, self._maker)
        chunks: list[Chunk] = []
        while len(chunks) < most:
            chunk, at = self._chunk(rng, text, at, facts, planter)
            if chunk is None:
                break
            chunks.append(chunk)
        return FilledRun(chunks, torch.tensor([chunk.ids for chunk in chunks]))

    def _chunk(
        self, rng: random.Random, text: Text, at: int, facts: float, planter: Planter
    ) -> tuple[Chunk | None, int]:
        """The chunk that begins with a sentence, and where the next one begins; None where the text ends before."""
        width, used, first = self._collator.max_tokens, 0, at
        parts: list[str] = []
        planted: list[tuple[str, Fact]] = []
        while used < width:
            if at == len(text.sentences):
                return None, at
            length = self._maker.count(" " + text.sentences[at])
            if rng.random() < facts * length / width:
                found = planter.fact()
                if found:
                    planted.append(found)
                    parts.append(found[1].statement)
                    used += self._maker.count(" " + found[1].statement)
            parts.append(text.sentences[at])
            used, at = used + length, at + 1
        ids = self._collator.chunk(" ".join(parts))
        if len(ids) < width + len(self._collator.prefix):
            return None, at
        shown: str = self._maker.tokenizer.decode(ids[len(self._collator.prefix) :])
        # Whole sentences only: the last one is cut where the chunk ends.
        sentences = [sentence for sentence in text.sentences[first:at] if sentence in shown]
        asked = {
            kind: [Pair(fact.question, fact.answer) for one, fact in planted if one == kind and fact.statement in shown]
            for kind in ("facts", "relations")
        }
        reading = [pair for start, example in text.examples if first <= start < at for pair in example.pairs]
        asked["reading"] = [pair for pair in reading if spelled_in(shown, pair.answer)]
        return Chunk(ids, shown, sentences, asked), at


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
        return tuple(chunk.asked[kind])


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

    def to_settle(self, step: int) -> Tensor | None:
        """Chunks [n, prefix + tokens] whose sum is to be settled before this step; None = keep what is settled."""
        if not self.runs or step % self.config.settle_every:
            return None
        run, settled = self._settled_part(step)
        return run.ids[settled.start : settled.stop]

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
        return Surround(plan[0].ids[plan[1]], settled=plan[3]) if plan else ALONE

    def beside(self, step: int) -> Beside | None:
        """What the documents of a step are drawn from; None where nothing surrounds them."""
        plan = self._plan(step)
        return Beside([plan[0].chunks[number] for number in plan[2]]) if plan else None
