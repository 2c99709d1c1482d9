"""Objectives of training a task hypernetwork beside documents: the document's facts in the task's form, all else kept.

The documents' adapters come from a frozen hypernetwork; what descriptions of other tasks give is held to what it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from localhyper.export.beside_batches import BesideBatch
from localhyper.export.objectives import MetaModel
from localhyper.export.staying_objectives import Staying, StayingLosses
from localhyper.export.task_objectives import Adapter, TaskModel, TaskProbe, joined, probe_rows, rolled
from localhyper.export.torch_base import BlockLora

DOCUMENT_MODULE = "ffn_down"


def both(documents: Mapping[int, BlockLora], tasks: Adapter, forms: int) -> Adapter:
    """A document's adapter and each of its forms' as one: their sum, by joining ranks.

    Args:
        documents: LoRA of `ffn_down` of some blocks, [documents, …].
        tasks: LoRA of all blocks, [documents * forms, …].
        forms: Forms a document.
    """
    repeated = {
        block: BlockLora(*(half.repeat_interleave(forms, 0) for half in (document.a, document.b)))
        for block, document in documents.items()
    }
    return joined({block: {DOCUMENT_MODULE: document} for block, document in repeated.items()}, tasks)


class Beside(Staying):
    """The losses of a batch."""

    def __init__(self, core: TaskModel, meta: MetaModel) -> None:
        super().__init__(core)
        self.meta = meta.requires_grad_(False)

    def adapters(self, batch: BesideBatch) -> Mapping[int, BlockLora]:
        """The documents' adapters, without gradient; those that are not in force are zero."""
        with torch.no_grad():
            made = self.meta.adapters(batch.documents.ids, batch.documents.mask)
        weight = batch.in_force[:, None, None]
        return {block: BlockLora(lora.a, lora.b * weight.to(lora.b.dtype)) for block, lora in made.items()}

    def forward(self, batch: BesideBatch, stay: float, count: Tensor) -> StayingLosses:
        """Both objectives.

        Args:
            batch: Documents with forms.
            stay: Weight of staying.
            count: What to divide the sum over answers' tokens by: their weights.
        """
        asked = self.core.adapter(self.core.pairs(batch.described))
        answer = self.core.answer_loss(batch.rows, both(self.adapters(batch), asked, batch.forms)) / count
        assert batch.staying is not None
        return self.losses(answer, batch.staying, stay)


@torch.no_grad()
def probe_beside(model: Beside, batches: list[BesideBatch]) -> TaskProbe:
    """Measure held-out documents: with the form's adapter beside, with another form's, with the document's alone."""

    def used(batch: BesideBatch) -> tuple[Adapter, Adapter, Adapter]:
        pairs, documents = model.core.pairs(batch.described), model.adapters(batch)
        right, wrong = (model.core.adapter(x) for x in (pairs, rolled(pairs)))
        alone = {block: {DOCUMENT_MODULE: lora} for block, lora in documents.items()}
        return both(documents, right, batch.forms), both(documents, wrong, batch.forms), alone

    return probe_rows(model.core, ((batch.rows, used(batch)) for batch in batches))
