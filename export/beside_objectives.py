"""Objectives of training a task hypernetwork beside documents: the document's facts in the task's form, all else kept.

The documents' adapters come from a frozen hypernetwork; what descriptions of other tasks give is held to what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localhyper.export.beside_batches import BesideBatch
from localhyper.export.objectives import MetaModel
from localhyper.export.task_hypernetwork import TaskHypernetwork
from localhyper.export.task_objectives import Adapter, TaskModel, TaskProbe, probe_rows, rolled
from localhyper.export.text_to_lora import LoraPair
from localhyper.export.torch_base import BlockLora

DOCUMENT_MODULE = "ffn_down"


@dataclass(frozen=True)
class BesideLosses:
    """What a step minimises, `total`, and its parts, detached."""

    total: Tensor
    answer: Tensor
    moved: Tensor


def both(documents: Mapping[int, BlockLora], tasks: Adapter, forms: int) -> Adapter:
    """A document's adapter and each of its forms' as one: their sum, by joining ranks.

    Args:
        documents: LoRA of `ffn_down` of some blocks, [documents, …].
        tasks: LoRA of all blocks, [documents * forms, …].
        forms: Forms a document.
    """
    joined = {block: dict(modules) for block, modules in tasks.items()}
    for block, document in documents.items():
        task = joined[block].get(DOCUMENT_MODULE)
        a, b = (x.repeat_interleave(forms, 0) for x in (document.a, document.b))
        if task is not None:
            a, b = torch.cat((a.to(task.a.dtype), task.a), 1), torch.cat((b.to(task.b.dtype), task.b), 2)
        joined[block][DOCUMENT_MODULE] = BlockLora(a, b)
    return joined


def moved(now: Mapping[str, LoraPair], before: Mapping[str, LoraPair]) -> Tensor:
    """How far updates B A have moved, as a share of their squared norm, mean over tasks; pairs [tasks, blocks, …].

    By Gram matrices of the ranks: |BA - DC|² = <BᵀB, AAᵀ> - 2 <DᵀB, CAᵀ> + <DᵀD, CCᵀ>.
    """
    distance, size = [], []
    for name, new in now.items():
        old = before[name]
        norm = _inner(old, old)
        distance.append((_inner(new, new) - 2 * _inner(old, new) + norm).sum(-1))
        size.append(norm.sum(-1))
    return (torch.stack(distance).sum(0) / torch.stack(size).sum(0)).mean()


def _inner(one: LoraPair, other: LoraPair) -> Tensor:
    """Inner products of updates, [tasks, blocks]."""
    return ((one.b.mT @ other.b) * (one.a @ other.a.mT)).sum((-2, -1))


class Beside(nn.Module):
    """The losses of a batch."""

    def __init__(self, core: TaskModel, meta: MetaModel) -> None:
        super().__init__()
        assert isinstance(core.hypernetwork, TaskHypernetwork)
        self.core, self.meta = core, meta.requires_grad_(False)
        self.before = copy.deepcopy(core.hypernetwork).requires_grad_(False)

    def adapters(self, batch: BesideBatch) -> Mapping[int, BlockLora]:
        """The documents' adapters, without gradient; those that are not in force are zero."""
        with torch.no_grad():
            made = self.meta.adapters(batch.documents.ids, batch.documents.mask)
        weight = batch.in_force[:, None, None]
        return {block: BlockLora(lora.a, lora.b * weight.to(lora.b.dtype)) for block, lora in made.items()}

    def forward(self, batch: BesideBatch, stay: float, count: Tensor) -> BesideLosses:
        """Both objectives.

        Args:
            batch: Documents with forms.
            stay: Weight of staying.
            count: What to divide the sum over answers' tokens by: their weights.
        """
        asked = self.core.adapter(self.core.pairs(batch.described))
        answer = self.core.answer_loss(batch.rows, both(self.adapters(batch), asked, batch.forms)) / count
        assert batch.staying is not None
        encoded, mask = self.core.encode(batch.staying.ids), batch.staying.mask
        with torch.no_grad():
            before = self.before(encoded, mask)
        distance = moved(self.core.hypernetwork(encoded, mask), before)
        return BesideLosses(answer + stay * distance, answer.detach(), distance.detach())


@torch.no_grad()
def probe_beside(model: Beside, batches: list[BesideBatch]) -> TaskProbe:
    """Measure held-out documents: with the form's adapter beside, with another form's, with the document's alone."""

    def used(batch: BesideBatch) -> tuple[Adapter, Adapter, Adapter]:
        pairs, documents = model.core.pairs(batch.described), model.adapters(batch)
        right, wrong = (model.core.adapter(x) for x in (pairs, rolled(pairs)))
        alone = {block: {DOCUMENT_MODULE: lora} for block, lora in documents.items()}
        return both(documents, right, batch.forms), both(documents, wrong, batch.forms), alone

    return probe_rows(model.core, ((batch.rows, used(batch)) for batch in batches))
