"""What descriptions give that are to stay: how far their updates have moved from what they were, as an objective."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localhyper.export.task_batches import Described
from localhyper.export.task_hypernetwork import TaskHypernetwork
from localhyper.export.task_objectives import TaskModel
from localhyper.export.text_to_lora import LoraPair


@dataclass(frozen=True)
class StayingLosses:
    """What a step minimises, `total`, and its parts, detached."""

    total: Tensor
    answer: Tensor
    moved: Tensor


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


class Staying(nn.Module):
    """A task model, and what its hypernetwork was when the run began."""

    def __init__(self, core: TaskModel) -> None:
        super().__init__()
        assert isinstance(core.hypernetwork, TaskHypernetwork)
        self.core = core
        self.before = copy.deepcopy(core.hypernetwork).requires_grad_(False)

    def losses(self, answer: Tensor, staying: Described, stay: float) -> StayingLosses:
        """The loss of answers beside how far the descriptions that are to stay have moved, which `stay` weighs."""
        encoded, mask = self.core.encode(staying.ids), staying.mask
        with torch.no_grad():
            before = self.before(encoded, mask)
        distance = moved(self.core.hypernetwork(encoded, mask), before)
        return StayingLosses(answer + stay * distance, answer.detach(), distance.detach())
