"""What the ways of training have in common that go on from a task hypernetwork and hold what it gives elsewhere.

The model of such a run keeps the hypernetwork as it was, `before`: descriptions that are to stay are held to its LoRAs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from localhyper.errors import ConfigError
from localhyper.export.task_batches import TaskBatchMaker
from localhyper.export.task_data import Ids, TaskDrawer
from localhyper.export.task_train import TaskRun


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


class StayingRun(TaskRun):
    """A run that goes on from a task hypernetwork; `model.before` is what it was."""

    def _start_anew(self) -> None:
        raise ConfigError(
            f"task.way = {self.recipe.task.way!r} goes on from a task hypernetwork", "name one with --init"
        )

    def _start_from(self, path: Path) -> None:
        super()._start_from(path)
        self._before.load_state_dict(self.trained.state_dict())

    def extra_state(self) -> dict[str, Any]:
        """The weights that other descriptions are held to."""
        return {"before": self._before.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._before.load_state_dict(state["before"])

    @property
    def _before(self) -> nn.Module:
        before = self.model.before
        assert isinstance(before, nn.Module)
        return before
