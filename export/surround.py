"""The rest of a long document: filler chunks that join the adapters of a training step.

An adapter of n chunks is a sum in which n - 1 chunks say nothing about the question. Trained alone, a chunk learns to
write everything; only inside such a sum does it learn what is worth writing. Most of the sum is settled: computed
without gradient every few steps and kept. A few chunks are live, and stand for all when gates learn.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from localhyper.export.batches import Collator
from localhyper.export.data import ExampleMaker
from localhyper.export.objectives import ALONE, Surround
from localhyper.export.train_config import SurroundConfig

SMALLEST_SUM = 4


class FillerBank:
    """Filler chunks, and which of them surround the documents of a step: a function of seed and step alone."""

    def __init__(self, maker: ExampleMaker, collator: Collator, config: SurroundConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        rng = random.Random(f"{seed}/{maker.split}/filler")
        rows = [collator.chunk(maker.filler_chunk(rng)) for _ in range(config.bank if config.share else 0)]
        width = len(collator.prefix) + collator.max_tokens
        self.chunks = torch.tensor([row for row in rows if len(row) == width])

    def to_settle(self, step: int) -> Tensor | None:
        """Chunks [n, prefix + tokens] whose sum is to be settled before this step; None = keep what is settled."""
        if not len(self.chunks) or step % self.config.settle_every:
            return None
        rng = random.Random(f"{self.seed}/settle/{step}")
        most = min(self.config.most, len(self.chunks))
        size = round(math.exp(rng.uniform(math.log(min(SMALLEST_SUM, most)), math.log(most))))
        return self.chunks[rng.sample(range(len(self.chunks)), size)]

    def total(self, settled: int) -> int:
        """Chunks of the documents that a settled sum will be part of: it, the live ones and the document's own."""
        return settled + self.config.live + 2

    def surround(self, step: int) -> Surround:
        """What joins the adapters of a step."""
        rng = random.Random(f"{self.seed}/surround/{step}")
        kind = rng.random()
        if not len(self.chunks) or kind >= self.config.share:
            return ALONE
        live = rng.sample(range(len(self.chunks)), min(self.config.live, len(self.chunks)))
        return Surround(self.chunks[live], settled=kind < self.config.share / 2)
