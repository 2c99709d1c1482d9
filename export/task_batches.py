"""Drawn tasks to tensors. Everything that a step needs of its random numbers is made here, on the CPU, ahead of it.

Where losses are taken is given as flat places and not as a mask: a mask would make the host wait for the device.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from localhyper.export.task_config import TaskRecipe
from localhyper.export.task_data import Drawn, Ids, Row, TaskDrawer
from localhyper.export.task_hypernetwork import Jitter

DESCRIPTION_STEP = 32  # descriptions are padded to a multiple of it
PLACES_STEP = 128  # and places of answers to one of this, with weight 0
IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """Rows of instances and where their answers lie.

    Attributes:
        ids: int64 [rows, width], right-padded.
        places: int64 [n]: flat places in it whose next token is to be learnt; padded with 0.
        gold: int64 [n]: that token; padded with `IGNORED`.
        weights: float32 [n]: what it counts; padded with 0.
        row_of: int64 [n]: the row it is in.
    """

    ids: Tensor
    places: Tensor
    gold: Tensor
    weights: Tensor
    row_of: Tensor

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on a device."""
        return Rows(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


@dataclass(frozen=True)
class Described:
    """Descriptions and what blurs their task vectors.

    Attributes:
        ids: int64 [n, prefix + tokens], right-padded.
        mask: float32 [n, tokens], 1 on a description's tokens (without the prefix).
        keep: float32 [n, task]: see `Jitter`.
        noise: Likewise.
    """

    ids: Tensor
    mask: Tensor
    keep: Tensor
    noise: Tensor

    @property
    def jitter(self) -> Jitter:
        """What blurs the task vectors."""
        return Jitter(self.keep, self.noise)

    def to(self, device: torch.device | str) -> Described:
        """The same descriptions on a device."""
        return Described(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


@dataclass(frozen=True)
class TaskBatch:
    """Tasks with the same number of rows each; descriptions of no task follow them, with rows of their own.

    Attributes:
        described: Of the tasks, then of no task.
        tasks: How many tasks.
        rows: Of the tasks, in their order.
        kept: Of descriptions of no task: rows whose answers only mark where the base model is to be kept; or None.
    """

    described: Described
    tasks: int
    rows: Rows
    kept: Rows | None

    @property
    def tokens(self) -> int:
        """Tokens that go through the base model."""
        return sum(ids.numel() for ids in (self.described.ids, self.rows.ids, *([self.kept.ids] if self.kept else [])))

    def to(self, device: torch.device | str) -> TaskBatch:
        """The same batch on a device."""
        kept = self.kept.to(device) if self.kept is not None else None
        return TaskBatch(self.described.to(device), self.tasks, self.rows.to(device), kept)


def pad_rows(rows: Sequence[Row], width: int, length_power: float) -> Rows:
    """Rows as tensors; a token of an answer of n tokens has weight n ** -length_power."""
    ids = np.zeros((len(rows), width), np.int64)
    places, gold, weights, row_of = [], [], [], []
    for index, row in enumerate(rows):
        n = len(row.ids) - row.prompt
        ids[index, : len(row.ids)] = row.ids
        places.append(np.arange(row.prompt - 1, len(row.ids) - 1) + index * width)
        gold.append(row.ids[row.prompt :])
        weights.append(np.full(n, float(n) ** -length_power, np.float32))
        row_of.append(np.full(n, index))
    count = sum(map(len, places))
    missing = -count % PLACES_STEP
    return Rows(
        torch.from_numpy(ids),
        _joined(places, 0, missing),
        _joined(gold, IGNORED, missing),
        _joined(weights, 0.0, missing, torch.float32),
        _joined(row_of, 0, missing),
    )


def _joined(
    parts: Sequence[NDArray[np.generic]], fill: float, missing: int, dtype: torch.dtype = torch.int64
) -> Tensor:
    end = torch.full((missing,), fill, dtype=dtype)
    return torch.cat((torch.from_numpy(np.concatenate(parts)).to(dtype), end))


def pad_descriptions(prefix: Sequence[int], found: Sequence[Ids], most: int) -> tuple[Tensor, Tensor]:
    """Ids [n, prefix + tokens] and mask [n, tokens] of descriptions."""
    width = min(most, -(-max(map(len, found)) // DESCRIPTION_STEP) * DESCRIPTION_STEP)
    ids, mask = np.zeros((len(found), len(prefix) + width), np.int64), np.zeros((len(found), width), np.float32)
    ids[:, : len(prefix)] = prefix
    for index, description in enumerate(found):
        ids[index, len(prefix) : len(prefix) + len(description)] = description
        mask[index, : len(description)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


class TaskBatchMaker:
    """The batch of a step on one process."""

    def __init__(
        self,
        recipe: TaskRecipe,
        prefix: Sequence[int],
        meaningless: Sequence[Ids],
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.recipe, self.prefix, self.meaningless = recipe, prefix, meaningless
        self.process, self.processes = process, processes

    def train(self, drawer: TaskDrawer, step: int) -> TaskBatch:
        """A batch to learn from, on the CPU."""
        run = self.recipe.run
        width, drawn = drawer.draw(step, run.tasks, run.rows, self.process, self.processes)
        count = min(run.meaningless, len(drawn)) if self.recipe.loss.meaningless and self.meaningless else 0
        # Evenly spaced, so that several processes have those that one would have.
        lent = drawn[:: len(drawn) // count][:count] if count else []
        empty = [random.Random(f"{one.key}/meaningless").choice(self.meaningless) for one in lent]
        kept = pad_rows([row for one in lent for row in one.rows], width, 0.0) if count else None
        return TaskBatch(self.described(drawn, empty), len(drawn), self.rows(drawn, width), kept)

    def held(self, drawer: TaskDrawer, step: int) -> TaskBatch:
        """A batch to measure, the same on all processes."""
        run = self.recipe.run
        width, drawn = drawer.draw(step, run.tasks, run.rows)
        described = self.described(drawn, blurred=False)
        return TaskBatch(described, len(drawn), self.rows(drawn, width, 0.0), None)

    def described(self, drawn: Sequence[Drawn], more: Sequence[Ids] = (), *, blurred: bool = True) -> Described:
        """The descriptions drawn, blurred for training, and more that are not."""
        found = [*(one.description for one in drawn), *more]
        ids, mask = pad_descriptions(self.prefix, found, self.recipe.hypernetwork.max_tokens)
        keep = torch.ones(len(found), self.recipe.hypernetwork.task)
        noise = torch.zeros_like(keep)
        for index, one in enumerate(drawn if blurred else ()):
            keep[index], noise[index] = self._jitter(one.key)
        return Described(ids, mask, keep, noise)

    def rows(self, drawn: Sequence[Drawn], width: int, power: float | None = None) -> Rows:
        """The rows drawn, padded to `width`; `power` is that of `pad_rows`, None = the recipe's."""
        power = self.recipe.loss.length_power if power is None else power
        return pad_rows([row for one in drawn for row in one.rows], width, power)

    def _jitter(self, key: str) -> tuple[Tensor, Tensor]:
        """`keep` and `noise` of a task drawn, [task] each."""
        run, size = self.recipe.run, self.recipe.hypernetwork.task
        generator = torch.Generator().manual_seed(random.Random(f"{key}/jitter").getrandbits(63))
        keep = (torch.rand(size, generator=generator) >= run.dropout).float() / (1 - run.dropout)
        return keep, torch.randn(size, generator=generator) * run.noise
