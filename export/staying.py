"""What the ways of training have in common that go on from a task hypernetwork and hold what it gives elsewhere.

The model of such a run keeps the hypernetwork as it was, `before`: descriptions that are to stay are held to its LoRAs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from localhyper.errors import ConfigError
from localhyper.export.prefetch import prefetch
from localhyper.export.staying_objectives import Staying
from localhyper.export.task_batches import Rows, TaskBatchMaker
from localhyper.export.task_data import Ids, TaskDrawer
from localhyper.export.task_train import TaskRun
from localhyper.export.training_loop import StepResult


@dataclass(frozen=True)
class Shares:
    """How many descriptions stay in a step, on each process: of tasks, of no task, and of others."""

    tasks: int
    meaningless: int
    others: int


def draw_staying(drawer: TaskDrawer, at: TaskBatchMaker, others: Sequence[Ids], shares: Shares, step: int) -> list[Ids]:
    """Descriptions of tasks, of none, and of others, for one step of one process."""
    rng = random.Random(f"{at.recipe.run.seed}/staying/{step}/{at.process}")
    drawn = drawer.draw_tasks(step, shares.tasks, at.process, at.processes)
    of_none = rng.choices(at.meaningless, k=shares.meaningless)
    return [one.description for one in drawn] + of_none + rng.choices(others, k=shares.others)


class StayingBatch(Protocol):
    """What a step needs of a batch, whatever else is in it."""

    @property
    def rows(self) -> Rows:
        """Whose answers are learnt."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that go through the base model."""
        ...

    def to(self, device: torch.device | str) -> StayingBatch:
        """The same batch on a device."""
        ...


class StayingRun(TaskRun):
    """A run that goes on from a task hypernetwork; `model.before` is what it was.

    Attributes:
        stay: Weight of staying.
    """

    model: Staying
    stay: float

    def _start_anew(self) -> None:
        raise ConfigError(
            f"task.way = {self.recipe.task.way!r} goes on from a task hypernetwork", "name one with --init"
        )

    def _start_from(self, path: Path) -> None:
        super()._start_from(path)
        self.model.before.load_state_dict(self.trained.state_dict())

    def extra_state(self) -> dict[str, Any]:
        """The weights that other descriptions are held to."""
        return {"before": self.model.before.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.model.before.load_state_dict(state["before"])

    def begin(self, first: int, last: int) -> None:
        """Have the batches of these steps made."""
        self._batches = prefetch(self._batch, first, last, self.recipe.run.workers)

    def _batch(self, step: int) -> StayingBatch:
        raise NotImplementedError

    def train_step(self) -> StepResult:
        """One optimizer step."""
        batch = next(self._batches)
        tokens = batch.tokens * self.accelerator.num_processes
        batch = batch.to(self.device)
        count = self.accelerator.reduce(batch.rows.weights.sum(), "mean")
        losses = self.wrapped(batch, self.stay, count)
        norm = self.descend(losses.total)
        answer, moved = self.accelerator.reduce(torch.stack((losses.answer, losses.moved)), "mean").tolist()
        return StepResult({"answer": answer, "moved": moved}, float(norm), tokens, {"width": batch.rows.ids.shape[1]})
