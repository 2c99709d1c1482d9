"""The rest of a long document: filler chunks that join the adapters of a training step.

An adapter of n chunks is a sum in which n - 1 chunks say nothing about the question. Trained alone, a chunk learns to
write everything; only inside such a sum does it learn what is worth writing. The chunks of a sum are consecutive ones
of one text, for they share words and subject, and what they write in common adds up; a sum of chunks about anything
teaches nothing about that (docs/training.md has the figures). The documents of the step are drawn from the same text.
Facts that nobody asks for are planted into some texts: they must not get in the way of those asked for.

Most of the sum is settled: computed without gradient every few steps and kept. A few chunks are live, and stand for all
when gates learn. All of it is a function of seed and step alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from localhyper.evaluate.facts import Fact, make_facts
from localhyper.export.batches import Collator
from localhyper.export.data import ExampleMaker
from localhyper.export.objectives import ALONE, Surround
from localhyper.export.relations import make_relations, places
from localhyper.export.texts import Near, Text, long_texts
from localhyper.export.train_config import SurroundConfig

SMALLEST_SUM = 4
SETTLED = 2 / 3  # share of sums that have a settled part
BOOKS = 0.5  # share of runs that are taken out of plain texts
PLAIN, MOST_FACTS = 0.4, 3.0  # share of runs without planted facts; most facts a chunk in the others
# Kinds of names that are invented, so that two facts about the same one are rare.
OPEN_NAMES = frozenset(
    "person given surname town river company title street flat device drug species club team opponent dish mineral "
    "mountain lake island hotel software doctor teacher monarch".split()
)


@dataclass(frozen=True)
class FilledRun:
    """Consecutive chunks of a text, ids [n, prefix + tokens], and the sentence that each one begins in."""

    text: Text
    chunks: Tensor
    starts: tuple[int, ...]

    def near(self, first: int, size: int) -> Near:
        """The text with the part that `size` chunks from `first` are made of."""
        last = self.starts[first + size] + 1 if first + size < len(self.starts) else len(self.text.sentences)
        return Near(self.text, self.starts[first], min(last, len(self.text.sentences)))


def open_fact(rng: random.Random, maker: ExampleMaker) -> Fact:
    """A fact about somebody or something that no other fact is likely to be about."""
    for _ in range(100):
        if rng.random() < 0.4:
            fact = make_facts(rng, maker.split, 1, digits=rng.random() < 0.6)[0]
            if fact.kind != "city":
                return fact
            continue
        fact = make_relations(rng, maker.split, 1)[0]
        if OPEN_NAMES.intersection(places(fact.attribute)):
            return fact
    return fact


def make_run(rng: random.Random, maker: ExampleMaker, collator: Collator, text: Text, most: int) -> FilledRun:
    """At most `most` consecutive full-length chunks of a text from a random place, with facts planted or not."""
    facts = 0.0 if rng.random() < PLAIN else rng.uniform(0.1, MOST_FACTS) / collator.max_tokens
    wanted = most * collator.max_tokens
    sentences = text.sentences
    # Begin where enough is left, if there is so much at all.
    room = max(1, len(sentences) - wanted // 20)
    at = rng.randrange(room)
    ids: list[int] = []
    owners: list[int] = []
    while at < len(sentences) and len(ids) < wanted:
        piece = collator.encode(" " + sentences[at])
        if rng.random() < facts * len(piece):
            piece += collator.encode(" " + open_fact(rng, maker).statement)
        ids += piece
        owners += [at] * len(piece)
        at += 1
    cuts = range(0, min(len(ids), wanted) - collator.max_tokens + 1, collator.max_tokens)
    rows = [collator.prefix + ids[cut : cut + collator.max_tokens] for cut in cuts]
    return FilledRun(text, torch.tensor(rows), tuple(owners[cut] for cut in cuts))


class FillerBank:
    """Runs of filler chunks, and which of them surround the documents of a step."""

    def __init__(self, maker: ExampleMaker, collator: Collator, config: SurroundConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.runs: list[FilledRun] = []
        if not config.share:
            return
        rng = random.Random(f"{seed}/{maker.split}/filler")
        plain, articles = long_texts(maker.corpus)
        weights = [math.sqrt(len(text.sentences)) for text in articles]
        left = config.bank
        for _ in range(config.bank):  # a text may be too short for a single chunk
            if left <= 0:
                break
            books = plain and (not articles or rng.random() < BOOKS)
            text = rng.choice(plain) if books else rng.choices(articles, weights)[0]
            run = make_run(rng, maker, collator, text, min(left, config.most + config.live))
            if len(run.chunks) > config.live:
                self.runs.append(run)
                left -= len(run.chunks)

    def longest(self) -> FilledRun:
        """The longest run."""
        return max(self.runs, key=lambda run: len(run.chunks))

    def _settled_part(self, step: int) -> tuple[FilledRun, int, int]:
        """The run of a step's surround, the first chunk of its settled part, and how many chunks that has."""
        rng = random.Random(f"{self.seed}/settle/{step // self.config.settle_every}")
        run = rng.choices(self.runs, [len(run.chunks) for run in self.runs])[0]
        most = max(1, min(self.config.most, len(run.chunks) - self.config.live))
        size = round(math.exp(rng.uniform(math.log(min(SMALLEST_SUM, most)), math.log(most))))
        return run, rng.randrange(len(run.chunks) - size + 1), size

    def to_settle(self, step: int) -> Tensor | None:
        """Chunks [n, prefix + tokens] whose sum is to be settled before this step; None = keep what is settled."""
        if not self.runs or step % self.config.settle_every:
            return None
        run, first, size = self._settled_part(step)
        return run.chunks[first : first + size]

    def total(self, settled: int) -> int:
        """Chunks of the documents that a settled sum will be part of: it, the live ones and the document's own."""
        return settled + self.config.live + 2

    def _kind(self, step: int) -> tuple[random.Random, float]:
        rng = random.Random(f"{self.seed}/surround/{step}")
        return rng, rng.random() / self.config.share if self.config.share else 1.0

    def surround(self, step: int) -> Surround:
        """What joins the adapters of a step: chunks of one text, those that learn not among those that are settled."""
        rng, kind = self._kind(step)
        if not self.runs or kind >= 1:
            return ALONE
        run, first, size = self._settled_part(step)
        free = [i for i in range(len(run.chunks)) if not first <= i < first + size]
        live = rng.sample(free, min(self.config.live, len(free)))
        return Surround(run.chunks[live], settled=kind < SETTLED)

    def near(self, step: int) -> Near | None:
        """Where the documents of a step are drawn from; None where nothing surrounds them."""
        _, kind = self._kind(step)
        if not self.runs or kind >= 1:
            return None
        run, first, size = self._settled_part(step)
        return run.near(first, size)
