"""Training a task hypernetwork on descriptions with examples: `localhyper train RECIPE … --init TASK`.

A description alone says too little of a task to a small model; a few of its inputs with their answers say the rest. The
hypernetwork reads both in one text. What descriptions alone give is held to what it was, so that a recipe of this kind
can follow any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from localhyper.export.answer_forms import answer_forms, other_descriptions
from localhyper.export.beside_objectives import moved
from localhyper.export.freezing import freeze
from localhyper.export.prefetch import prefetch
from localhyper.export.staying import Shares, StayingRun, draw_staying
from localhyper.export.task_batches import Described, TaskBatch
from localhyper.export.task_data import ShownExamples, TaskDrawer
from localhyper.export.task_objectives import TaskModel, probe_tasks
from localhyper.export.training_loop import StepResult


@dataclass(frozen=True)
class ExampleBatch:
    """Tasks told by examples, and descriptions without them, whose LoRAs are to stay."""

    tasks: TaskBatch
    staying: Described

    @property
    def tokens(self) -> int:
        """Tokens that go through the base model."""
        return self.tasks.tokens + self.staying.ids.numel()

    def to(self, device: torch.device | str) -> ExampleBatch:
        """The same batch on a device."""
        return ExampleBatch(self.tasks.to(device), self.staying.to(device))


@dataclass(frozen=True)
class ExampleLosses:
    """What a step minimises, `total`, and its parts, detached."""

    total: Tensor
    answer: Tensor
    moved: Tensor


class Staying(nn.Module):
    """A task model, and what its hypernetwork was."""

    def __init__(self, core: TaskModel) -> None:
        super().__init__()
        self.core = core
        self.before = copy.deepcopy(core.hypernetwork).requires_grad_(False)

    def forward(self, batch: ExampleBatch, stay: float, count: Tensor) -> ExampleLosses:
        """Both objectives; `count` divides the sum over answers' tokens."""
        tasks, core = batch.tasks, self.core
        answer = core.answer_loss(tasks.rows, core.adapter(core.pairs(tasks.described))) / count
        encoded, mask = core.encode(batch.staying.ids), batch.staying.mask
        with torch.no_grad():
            before = self.before(encoded, mask)
        distance = moved(core.hypernetwork(encoded, mask), before)
        return ExampleLosses(answer + stay * distance, answer.detach(), distance.detach())


class ExamplesRun(StayingRun):
    """A run over tasks that are told by description and examples."""

    model: Staying

    def _read(self, base_path: Path, data: Path) -> None:
        """Tasks as ever, drawn with examples; and the descriptions that stay."""
        super()._read(base_path, data)
        cfg, rows = self.recipe.examples, self.row_maker
        train, held = self.drawer.tasks, self.held.tasks
        given = self.recipe.data, self.recipe.run.seed
        self.plain, self.held_plain = self.drawer, self.held
        shown = ShownExamples(cfg, rows.max_tokens, rows.gap)
        self.drawer = TaskDrawer(train, *given, "train", unseen=False, shown=shown)
        self.held = TaskDrawer(held, *given, "held", unseen=True, shown=shown)
        forms = [text for form in answer_forms() if not form.test for text in form.descriptions]
        self.others = rows.descriptions([*forms, *other_descriptions()])

    def wrap(self, core: TaskModel, source: Path | None) -> nn.Module:
        """The hypernetwork beside what it was."""
        freeze(core.hypernetwork, self.recipe.examples.frozen, "examples.frozen")
        return Staying(core).to(self.device)

    def begin(self, first: int, last: int) -> None:
        """Have the batches of these steps made."""
        self._examples: Iterator[ExampleBatch] = prefetch(self._batch, first, last, self.recipe.run.workers)

    def _batch(self, step: int) -> ExampleBatch:
        cfg, at = self.recipe.examples, self.batches
        shares = Shares(cfg.staying, cfg.meaningless, cfg.others)
        staying = draw_staying(self.plain, at, self.others, shares, step)
        return ExampleBatch(at.train(self.drawer, step), at.described([], staying))

    def train_step(self) -> StepResult:
        """One optimizer step."""
        batch = next(self._examples)
        tokens = batch.tokens * self.accelerator.num_processes
        batch = batch.to(self.device)
        count = self.accelerator.reduce(batch.tasks.rows.weights.sum(), "mean")
        losses = self.wrapped(batch, self.recipe.examples.stay, count)
        norm = self.descend(losses.total)
        answer, distance = self.accelerator.reduce(torch.stack((losses.answer, losses.moved)), "mean").tolist()
        width = batch.tasks.rows.ids.shape[1]
        return StepResult({"answer": answer, "moved": distance}, float(norm), tokens, {"width": width})

    def probe(self) -> dict[str, object]:
        """Held-out tasks by unseen descriptions with examples, and the same rows by the descriptions alone."""
        found: dict[str, object] = {"event": "probe", "step": self.step}
        for name, drawer in (("held", self.held), ("described", self.held_plain)):
            batches = [self.batches.held(drawer, i).to(self.device) for i in range(self.recipe.run.probe_batches)]
            found[name] = {key: round(value, 4) for key, value in vars(probe_tasks(self.core, batches)).items()}
        return found
