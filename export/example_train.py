"""Training a task hypernetwork on descriptions with examples: `localhyper train RECIPE … --init TASK`.

A description alone says too little of a task to a small model; a few of its inputs with their answers say the rest. The
hypernetwork reads both in one text. What descriptions alone give is held to what it was, so that a recipe of this kind
can follow any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from localhyper.export.answer_forms import answer_forms, other_descriptions
from localhyper.export.freezing import freeze
from localhyper.export.staying import Shares, StayingRun, draw_staying
from localhyper.export.staying_objectives import Staying, StayingLosses
from localhyper.export.task_batches import Described, Rows, TaskBatch
from localhyper.export.task_data import ShownExamples, TaskDrawer
from localhyper.export.task_objectives import TaskModel, probe_tasks


@dataclass(frozen=True)
class ExampleBatch:
    """Tasks told by examples, and descriptions without them, whose LoRAs are to stay."""

    tasks: TaskBatch
    staying: Described

    @property
    def rows(self) -> Rows:
        """Of the tasks."""
        return self.tasks.rows

    @property
    def tokens(self) -> int:
        """Tokens that go through the base model."""
        return self.tasks.tokens + self.staying.ids.numel()

    def to(self, device: torch.device | str) -> ExampleBatch:
        """The same batch on a device."""
        return ExampleBatch(self.tasks.to(device), self.staying.to(device))


class Examples(Staying):
    """The losses of a batch."""

    def forward(self, batch: ExampleBatch, stay: float, count: Tensor) -> StayingLosses:
        """Both objectives; `stay` weighs the second, `count` divides the sum over answers' tokens."""
        made = self.core.adapter(self.core.pairs(batch.tasks.described))
        return self.losses(self.core.answer_loss(batch.rows, made) / count, batch.staying, stay)


class ExamplesRun(StayingRun):
    """A run over tasks that are told by description and examples."""

    model: Examples

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
        self.stay = self.recipe.examples.stay
        freeze(core.hypernetwork, self.recipe.examples.frozen, "examples.frozen")
        return Examples(core).to(self.device)

    def _batch(self, step: int) -> ExampleBatch:
        cfg, at = self.recipe.examples, self.batches
        shares = Shares(cfg.staying, cfg.meaningless, cfg.others)
        staying = draw_staying(self.plain, at, self.others, shares, step)
        return ExampleBatch(at.train(self.drawer, step), at.described([], staying))

    def probe(self) -> dict[str, object]:
        """Held-out tasks by unseen descriptions with examples, and the same rows by the descriptions alone."""
        found: dict[str, object] = {"event": "probe", "step": self.step}
        for name, drawer in (("held", self.held), ("described", self.held_plain)):
            batches = [self.batches.held(drawer, i).to(self.device) for i in range(self.recipe.run.probe_batches)]
            found[name] = {key: round(value, 4) for key, value in vars(probe_tasks(self.core, batches)).items()}
        return found
