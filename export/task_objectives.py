"""Objectives of a task run: answers without the task in the prompt; the base kept where a description says nothing.

Works on tensors of a batch; knows neither files nor recipes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.export.task_batches import IGNORED, Described, Rows, TaskBatch
from localhyper.export.task_hypernetwork import LoraBank, TaskHypernetwork
from localhyper.export.text_to_lora import LoraPair
from localhyper.export.torch_base import NONE, BlockLora, TorchBase

Adapter = Mapping[int, Mapping[str, BlockLora]]


@dataclass(frozen=True)
class TaskLosses:
    """What a step minimises, `total`, and its parts, detached."""

    total: Tensor
    answer: Tensor
    meaningless: Tensor


def block_adapter(pairs: Mapping[str, LoraPair], scaling: float, dtype: torch.dtype) -> Adapter:
    """Pairs a [tasks, blocks, r, inputs], b [tasks, blocks, outputs, r] as what adapts each block."""
    blocks: dict[int, dict[str, BlockLora]] = {}
    for name, pair in pairs.items():
        a, b = pair.a.to(dtype), (pair.b * scaling).to(dtype)
        for block, both in enumerate(zip(a.unbind(1), b.unbind(1), strict=True)):
            blocks.setdefault(block, {})[name] = BlockLora(*both)
    return blocks


def joined(one: Adapter, other: Adapter) -> Adapter:
    """Two adapters in force at once: where both adapt a module, along the ranks, in the number format of the other."""

    def both(first: BlockLora, last: BlockLora) -> BlockLora:
        dtype = last.a.dtype
        return BlockLora(torch.cat((first.a.to(dtype), last.a), 1), torch.cat((first.b.to(dtype), last.b), 2))

    def of_block(first: Mapping[str, BlockLora], last: Mapping[str, BlockLora]) -> dict[str, BlockLora]:
        return {**first, **last, **{name: both(first[name], last[name]) for name in first.keys() & last.keys()}}

    return {block: of_block(one.get(block, NONE), other.get(block, NONE)) for block in one.keys() | other.keys()}


def rolled(pairs: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
    """Each task gets the adapter of the one before it: the shuffled-description control."""
    return {name: LoraPair(pair.a.roll(1, 0), pair.b.roll(1, 0)) for name, pair in pairs.items()}


def part(pairs: Mapping[str, LoraPair], where: slice) -> dict[str, LoraPair]:
    """The pairs of some tasks; one pair for all stays as it is."""
    return {name: LoraPair(*(x if len(x) == 1 else x[where] for x in pair)) for name, pair in pairs.items()}


class TaskModel(nn.Module):
    """A frozen base model and what adapts it to tasks."""

    def __init__(self, base: TorchBase, hypernetwork: TaskHypernetwork | LoraBank, prefix_tokens: int) -> None:
        super().__init__()
        self.base, self.hypernetwork, self.prefix_tokens = base, hypernetwork, prefix_tokens
        self.config = hypernetwork.config
        self.dtype = base.get_buffer("token_embd_weight").dtype

    @torch.no_grad()
    def encode(self, descriptions: Tensor) -> Tensor:
        """Activations [n, taps, tokens, hidden] of descriptions [n, prefix + tokens], those of the prefix left out."""
        taps = self.config.taps
        _, got = self.base.run(self.base.embed(descriptions), 0, max(taps), taps=taps)
        return torch.stack([got.taps[tap] for tap in taps], 1)[:, :, self.prefix_tokens :].float()

    def pairs(self, described: Described) -> dict[str, LoraPair]:
        """Each module's LoRA, one for each description; or those that are there, whatever the descriptions."""
        if isinstance(self.hypernetwork, LoraBank):
            return self.hypernetwork()  # type: ignore[no-any-return]
        return self.hypernetwork(self.encode(described.ids), described.mask, described.jitter)  # type: ignore[no-any-return]

    def adapter(self, pairs: Mapping[str, LoraPair]) -> Adapter:
        """What adapts each block."""
        return block_adapter(pairs, self.config.scaling, self.dtype)

    def logits(self, rows: Rows, adapter: Adapter | None) -> Tensor:
        """float32 logits [n, vocab] at the rows' places."""
        x, _ = self.base.run(self.base.embed(rows.ids), 0, self.base.shape.blocks, lora=adapter)
        return self.base.logits(x.flatten(0, 1).index_select(0, rows.places)).float()

    def answer_loss(self, rows: Rows, adapter: Adapter) -> Tensor:
        """Cross-entropy of the answers' tokens, summed by their weights."""
        each = F.cross_entropy(self.logits(rows, adapter), rows.gold, reduction="none", ignore_index=IGNORED)
        return (each * rows.weights).sum()

    def kept_loss(self, rows: Rows, adapter: Adapter) -> Tensor:
        """KL from the base model without adapter, summed over places by their weights."""
        with torch.no_grad():
            reference = self.logits(rows, None).log_softmax(-1)
        adapted = self.logits(rows, adapter).log_softmax(-1)
        return (F.kl_div(adapted, reference, log_target=True, reduction="none").sum(-1) * rows.weights).sum()

    def forward(self, batch: TaskBatch, meaningless: float, counts: Tensor) -> TaskLosses:
        """All objectives.

        Args:
            batch: Tasks with rows.
            meaningless: Weight of keeping the base model where the description says nothing.
            counts: What to divide the sums by, [2]: weights of answers' tokens, and of kept ones.
        """
        pairs, tasks = self.pairs(batch.described), batch.tasks
        answer = self.answer_loss(batch.rows, self.adapter(part(pairs, slice(0, tasks)))) / counts[0]
        kept = answer.new_zeros(())
        if batch.kept is not None:
            kept = self.kept_loss(batch.kept, self.adapter(part(pairs, slice(tasks, None)))) / counts[1]
        return TaskLosses(answer + meaningless * kept, answer.detach(), kept.detach())


def count_weights(batch: TaskBatch) -> Tensor:
    """What the sums of `TaskModel.forward` are divided by, [2]."""
    kept = batch.kept.weights.sum() if batch.kept is not None else torch.ones((), device=batch.rows.weights.device)
    return torch.stack((batch.rows.weights.sum(), kept))


@dataclass(frozen=True)
class TaskProbe:
    """Held-out figures: nats per answer token with a description of the task, with another task's, with no adapter.

    `exact…` is the share of answers of which every token is the most likely one, given those before it.
    """

    aligned: float
    shuffled: float
    none: float
    exact: float
    exact_shuffled: float
    exact_none: float


@torch.no_grad()
def probe_tasks(model: TaskModel, batches: list[TaskBatch]) -> TaskProbe:
    """Measure held-out batches; every answer token counts alike."""
    made = ((batch.rows, model.pairs(batch.described)) for batch in batches)
    return probe_rows(model, ((rows, (model.adapter(p), model.adapter(rolled(p)), None)) for rows, p in made))


@torch.no_grad()
def probe_rows(model: TaskModel, batches: Iterable[tuple[Rows, Sequence[Adapter | None]]]) -> TaskProbe:
    """Measure rows, each with three adapters: in the places of aligned, shuffled and none."""
    sums = torch.zeros(6, dtype=torch.float64)
    tokens = answers = 0
    for rows, used in batches:
        found = [_measure(model, rows, adapter) for adapter in used]
        sums[:3] += torch.tensor([loss for loss, _ in found], dtype=torch.float64)
        sums[3:] += torch.tensor([exact for _, exact in found], dtype=torch.float64)
        tokens, answers = tokens + int((rows.gold != IGNORED).sum()), answers + len(rows.ids)
    return TaskProbe(*(sums[:3] / max(1, tokens)).tolist(), *(sums[3:] / max(1, answers)).tolist())


def _measure(model: TaskModel, rows: Rows, adapter: Adapter | None) -> tuple[float, float]:
    """Loss summed over answers' tokens, and how many answers are exact."""
    logits = model.logits(rows, adapter)
    loss = F.cross_entropy(logits, rows.gold, reduction="sum", ignore_index=IGNORED)
    wrong = ((logits.argmax(-1) != rows.gold) & (rows.gold != IGNORED)).float()
    missed = torch.zeros(len(rows.ids), device=wrong.device).index_add_(0, rows.row_of, wrong)
    return float(loss), float((missed == 0).sum())
