"""The objective of factors that learning examples begins with: the loss of others of a task's instances, once learnt.

Works on tensors of a batch; knows neither files nor recipes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.export.inner_descent import (
    InitialFactors,
    Pairs,
    Visit,
    beside,
    descend,
    paired,
    task_losses,
    upper_logits,
    visit,
)
from localhyper.export.task_batches import IGNORED, Described, Rows
from localhyper.export.task_objectives import Adapter, TaskModel
from localhyper.export.text_to_lora import LoraPair


@dataclass(frozen=True)
class VisitBatch:
    """Tasks to visit.

    Attributes:
        described: Their descriptions.
        keep: float32 [tasks]: 1, or 0 where the description is not used.
        shown: Examples to learn, those of each task beside each other; None = none.
        asked: Instances that say how well it went; of both, the weights of a task sum to 1.
        tasks: How many.
    """

    described: Described
    keep: Tensor
    shown: Rows | None
    asked: Rows
    tasks: int

    def to(self, device: torch.device | str) -> VisitBatch:
        """The same batch on a device."""
        shown = self.shown.to(device) if self.shown is not None else None
        described, keep = self.described.to(device), self.keep.to(device)
        return VisitBatch(described, keep, shown, self.asked.to(device), self.tasks)


def evened(rows: Rows, tasks: int) -> Rows:
    """Rows whose weights sum to 1 for each task, without padded places: the vocabulary is a third of a short visit."""
    there = rows.gold != IGNORED
    weights, row_of = rows.weights[there], rows.row_of[there]
    task_of = row_of // (len(rows.ids) // tasks)
    sums = torch.zeros(tasks).index_add_(0, task_of, weights)
    return Rows(rows.ids, rows.places[there], rows.gold[there], weights / sums[task_of], row_of)


class Visits(nn.Module):
    """A frozen base model, what a frozen hypernetwork makes of descriptions, and the factors beside it."""

    def __init__(self, core: TaskModel, initial: InitialFactors) -> None:
        super().__init__()
        core.requires_grad_(False)
        self.core, self.initial = core, initial

    @torch.no_grad()
    def given(self, batch: VisitBatch) -> Adapter:
        """Adapters of the descriptions."""
        pairs, kept = self.core.pairs(batch.described), batch.keep[:, None, None, None]
        return self.core.adapter({name: LoraPair(pair.a, pair.b * kept) for name, pair in pairs.items()})

    def learnt(self, batch: VisitBatch, given: Adapter, steps: int) -> Pairs:
        """Factors of each task where a descent of so many steps ends, of no graph."""
        if batch.shown is not None and steps:
            return descend(self.core.base, self._visit(batch.shown, batch.tasks, given), given, self.initial, steps)
        halves = [half for pair in self.initial.pairs().values() for half in pair]
        begun = [half.detach().expand(batch.tasks, *half.shape) for half in halves]
        return paired(self.initial.descent.modules, begun)

    def _visit(self, rows: Rows, tasks: int, given: Adapter) -> Visit:
        return visit(self.core.base, rows, tasks, given, self.initial.start)

    def forward(self, batch: VisitBatch, steps: int) -> tuple[Tensor, Tensor]:
        """What to differentiate, and the loss of what is asked where the descent ends, detached.

        The first has the gradients of the second: to the factors, as if the descent moved along with them; to the
        logarithms of rates, as if each step went on in its direction.
        """
        given = self.given(batch)
        ends = [half for pair in self.learnt(batch, given, steps).values() for half in pair]
        leaves = [half.detach().requires_grad_() for half in ends]
        asked = self._visit(batch.asked, batch.tasks, given)
        adapter = beside(given, paired(self.initial.descent.modules, leaves), self.initial.start, self.core.dtype)
        with torch.enable_grad():
            loss = task_losses(self.core.base, asked, adapter, self.initial.start).mean()
        return self._carried(leaves, torch.autograd.grad(loss, leaves)), loss.detach()

    def _carried(self, ends: list[Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
        """A number whose gradients are those given, at what the descent began with."""
        total = gradients[0].new_zeros(())
        for index, (name, pair) in enumerate(self.initial.pairs().items()):
            for side, begun in enumerate(pair):
                end, gradient = ends[2 * index + side].detach(), gradients[2 * index + side]
                slopes = (gradient * (end - begun.detach())).sum((0, 2, 3)) * self.initial.rate_scale
                total = total + (begun * gradient.sum(0)).sum() + (self.initial.rates[name][side] * slopes).sum()
        return total

    @torch.no_grad()
    def measure(self, batch: VisitBatch, given: Adapter, learnt: Pairs) -> tuple[float, float]:
        """Loss of what is asked, and the share of its answers of which every token is the likeliest."""
        asked, start = self._visit(batch.asked, batch.tasks, given), self.initial.start
        logits = upper_logits(self.core.base, asked, beside(given, learnt, start, self.core.dtype), start)
        rows = batch.asked
        loss = F.cross_entropy(logits, rows.gold, reduction="none")
        missed = torch.zeros(len(rows.ids), device=loss.device)
        missed.index_add_(0, rows.row_of, (logits.argmax(-1) != rows.gold).float())
        return float((loss * rows.weights).sum() / batch.tasks), float((missed == 0).float().mean())
