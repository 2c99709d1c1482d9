"""Examples of many tasks learnt at once, in PyTorch: the descent of `localhyper.example_descent`, from given factors.

The same arithmetic (held to it in tests/parity/test_initial_training.py), with a task axis. Knows no recipe and no
file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.example_descent import EPSILON, FIRST, SECOND, DescentSettings
from localhyper.export.task_batches import Rows
from localhyper.export.task_hypernetwork import TaskConfig, module_widths
from localhyper.export.task_objectives import Adapter, block_adapter, joined
from localhyper.export.text_to_lora import LoraPair
from localhyper.export.torch_base import TorchBase

Pairs = Mapping[str, LoraPair]


class InitialFactors(nn.Module):
    """What learning examples begins with, and how fast each matrix learns.

    `a` [blocks, rank, inputs], `b` [blocks, outputs, rank] of each module, blocks from the first adapted one on;
    `rates` [2, blocks] of each, for a and b: logarithms of what a learning rate is multiplied by, over `rate_scale`.
    """

    def __init__(self, config: TaskConfig, descent: DescentSettings, rate_scale: float = 0.0) -> None:
        super().__init__()
        self.config, self.descent, self.rate_scale = config, descent, rate_scale
        self.start = descent.start(config.blocks)
        count, rank, widths = config.blocks - self.start, descent.rank, module_widths(config)
        self.a = nn.ParameterDict(
            {name: torch.randn(count, rank, widths[name][0]) * widths[name][0] ** -0.5 for name in descent.modules}
        )
        self.b = nn.ParameterDict({name: torch.zeros(count, widths[name][1], rank) for name in descent.modules})
        self.rates = nn.ParameterDict({name: torch.zeros(2, count) for name in descent.modules})

    def pairs(self) -> dict[str, LoraPair]:
        """The factors."""
        return {name: LoraPair(self.a[name], self.b[name]) for name in self.descent.modules}

    def multipliers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What the learning rates of a and b are multiplied by, [blocks, 1, 1] each."""
        found = {name: (self.rates[name] * self.rate_scale).exp()[..., None, None] for name in self.descent.modules}
        return {name: (both[0], both[1]) for name, both in found.items()}


@dataclass(frozen=True)
class Visit:
    """Rows of tasks as the upper blocks meet them, those of each task beside each other, as many of each.

    Attributes:
        states: What enters the first of them, [tasks * rows, width, hidden].
        rows: Where answers are said, without padded places; the weights are those of the loss.
        tasks: How many tasks.
    """

    states: Tensor
    rows: Rows
    tasks: int

    @property
    def task_of(self) -> Tensor:
        """The task of each place, int64 [n]."""
        return self.rows.row_of // (len(self.rows.ids) // self.tasks)


@torch.no_grad()
def visit(base: TorchBase, rows: Rows, tasks: int, given: Adapter, start: int) -> Visit:
    """Rows read by the lower blocks under the adapters given."""
    x, _ = base.run(base.embed(rows.ids), 0, start, lora=given)
    return Visit(x, rows, tasks)


def beside(given: Adapter, pairs: Pairs, start: int, dtype: torch.dtype) -> Adapter:
    """The adapters given, and pairs [tasks, blocks, …] of the blocks from `start` on beside them."""
    own = block_adapter(pairs, 1.0, dtype)
    return joined(given, {start + block: modules for block, modules in own.items()})


def task_losses(base: TorchBase, shown: Visit, adapter: Adapter, start: int) -> Tensor:
    """Cross-entropy of each task's answers by their weights, [tasks]."""
    each = F.cross_entropy(upper_logits(base, shown, adapter, start), shown.rows.gold, reduction="none")
    return each.new_zeros(shown.tasks).index_add(0, shown.task_of, each * shown.rows.weights)


def upper_logits(base: TorchBase, shown: Visit, adapter: Adapter, start: int) -> Tensor:
    """float32 logits [n, vocab] at the places of a visit."""
    x, _ = base.run(shown.states, start, base.shape.blocks, lora=adapter)
    return base.logits(x.flatten(0, 1).index_select(0, shown.rows.places)).float()


def descend(base: TorchBase, shown: Visit, given: Adapter, initial: InitialFactors, steps: int) -> dict[str, LoraPair]:
    """What each task's examples teach: pairs [tasks, blocks, …], of no graph.

    Args:
        base: The base model.
        shown: The examples.
        given: Adapters of the descriptions, in force.
        initial: What it begins with.
        steps: How many, whose learning rates go up and down as the runtime's.
    """
    now = [half.detach().expand(shown.tasks, *half.shape) for pair in initial.pairs().values() for half in pair]
    speed = [half.detach() for both in initial.multipliers().values() for half in both]
    dtype, settings, start = base.get_buffer("token_embd_weight").dtype, initial.descent, initial.start
    first, second = [torch.zeros_like(one) for one in now], [torch.zeros_like(one) for one in now]
    for step in range(steps):
        leaves = [one.detach().requires_grad_() for one in now]
        adapter = beside(given, paired(settings.modules, leaves), start, dtype)
        with torch.enable_grad():
            loss = task_losses(base, shown, adapter, start).sum()
        found = torch.autograd.grad(loss, leaves)
        rate = settings.rate_at(step, steps)
        with torch.no_grad():
            for index, gradient in enumerate(found):
                first[index].lerp_(gradient, 1 - FIRST)
                second[index].lerp_(gradient.square(), 1 - SECOND)
                mean, spread = first[index] / (1 - FIRST ** (step + 1)), second[index] / (1 - SECOND ** (step + 1))
                now[index] = now[index] - rate * speed[index] * mean / (spread.sqrt() + EPSILON)
    return paired(settings.modules, [one.detach() for one in now])


def paired(modules: Sequence[str], halves: Sequence[Tensor]) -> dict[str, LoraPair]:
    """a, b, a, b, … as pairs by their modules."""
    return {name: LoraPair(halves[2 * i], halves[2 * i + 1]) for i, name in enumerate(modules)}
