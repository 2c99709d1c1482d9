"""A task hypernetwork: what the base model makes of a task's description becomes LoRA matrices for all its blocks.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105) without a second model: in place of an embedding model's vector,
learned queries read the activations of the very model that is adapted. From there on it is theirs: the task vector, the
block and the module through a mixer and residual MLPs, then a linear head for each module. The heads add to learned
matrices of each block and begin at zero, so a fresh hypernetwork leaves the base model as it is.

Rows of b are in llama.cpp's order, because the base model that it is trained on is: nothing is permuted in export.

One readable file; exports to ONNX as it is. Knows no training and no base model beyond its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from localhyper.errors import ConfigError
from localhyper.export.hypernetwork import Attention
from localhyper.export.text_to_lora import LoraPair, table, two_linears


@dataclass(frozen=True)
class TaskConfig:
    """Sizes of a task hypernetwork.

    Attributes:
        hidden: Width of the base model's residual stream.
        ffn: Width inside its MLP.
        keys: Width of all its keys, and of all its values.
        blocks: Its blocks, all adapted.
        taps: Taps read, ascending.
        modules: Adapted modules by their GGUF names.
        rank: LoRA rank.
        scaling: LoRA scaling, part of b in the bundle.
        width: Width in which a description is read.
        queries: Learned queries that attend to its tokens.
        heads: Attention heads of a query.
        latent: Width of the trunk, a multiple of 4; the task vector has half of it.
        head_input: Width of what the heads read.
        max_tokens: Most tokens of a description.
        z_scored: What the heads add is multiplied by a constant for each number: the spread of the LoRAs to be
            reconstructed, whose mean stands in for the learned matrices.
    """

    hidden: int = 576
    ffn: int = 1536
    keys: int = 192
    blocks: int = 30
    taps: tuple[int, ...] = (8, 16, 24)
    modules: tuple[str, ...] = ("attn_q", "attn_v", "ffn_down")
    rank: int = 16
    scaling: float = 2.0
    width: int = 192
    queries: int = 4
    heads: int = 4
    latent: int = 192
    head_input: int = 112
    max_tokens: int = 256
    z_scored: bool = False

    def __post_init__(self) -> None:
        """Only modules that the base model has, and widths that can be divided."""
        unknown = sorted(set(self.modules) - set(module_widths(self)))
        if unknown or not self.modules or len(set(self.modules)) != len(self.modules):
            what = f"unknown: {unknown[0]}" if unknown else f"got {list(self.modules)}"
            raise ConfigError(
                f"hypernetwork.modules must name modules once each, {what}", f"known: {', '.join(module_widths(self))}"
            )
        if self.latent % 4 or self.width % self.heads:
            raise ConfigError("hypernetwork.latent must be a multiple of 4, and width one of heads")
        if not self.taps or list(self.taps) != sorted({tap for tap in self.taps if 0 <= tap <= self.blocks}):
            raise ConfigError(f"hypernetwork.taps must ascend from 0 to {self.blocks}, got {list(self.taps)}")

    @property
    def task(self) -> int:
        """Width of the task vector."""
        return self.latent // 2

    def as_dict(self) -> dict[str, object]:
        """The configuration as JSON-ready values."""
        return asdict(self)


def module_widths(config: TaskConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each module of a block."""
    hidden, ffn, keys = config.hidden, config.ffn, config.keys
    return {
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, keys),
        "attn_v": (hidden, keys),
        "attn_output": (hidden, hidden),
        "ffn_gate": (hidden, ffn),
        "ffn_up": (hidden, ffn),
        "ffn_down": (ffn, hidden),
    }


@dataclass(frozen=True)
class Jitter:
    """What blurs task vectors in training, so that 600 of them cannot be learnt by heart.

    Attributes:
        keep: [tasks, task]: 0 where a number is dropped, else 1 / (1 - share dropped).
        noise: [tasks, task], added afterwards.
    """

    keep: Tensor
    noise: Tensor


class Offsets(nn.Module):
    """Learned matrices of each block and module: a random, b zeros, as LoRA begins."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__()
        widths, blocks, rank = module_widths(config), config.blocks, config.rank
        self.a = nn.ParameterDict(
            {name: torch.randn(blocks, rank, widths[name][0]) * widths[name][0] ** -0.5 for name in config.modules}
        )
        self.b = nn.ParameterDict({name: torch.zeros(blocks, widths[name][1], rank) for name in config.modules})

    def pair(self, name: str) -> LoraPair:
        """A [blocks, rank, inputs] and b [blocks, outputs, rank] of a module."""
        return LoraPair(self.a[name], self.b[name])


class DescriptionReader(nn.Module):
    """A description's activations to its task vector."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in config.taps)
        self.projections = nn.ModuleList(nn.Linear(config.hidden, config.width, bias=False) for _ in config.taps)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.attention = Attention(config.width, config.heads)
        self.out = nn.Sequential(nn.Linear((config.queries + 1) * config.width, config.task), nn.LayerNorm(config.task))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Activations [batch, taps, tokens, hidden] and mask [batch, tokens] to [batch, task]."""
        taps = zip(self.norms, self.projections, hidden.unbind(1), strict=True)
        parts = [project(norm(tap)) for norm, project, tap in taps]
        x = torch.stack(parts).sum(0)
        bias = ((1 - mask) * -1e4)[:, None, None]
        queries = self.queries.expand(hidden.shape[0], -1, -1)
        read = self.attention(queries, x, bias)
        ends = mask - F.pad(mask[:, 1:], (0, 1))  # 1 on the last token of each description
        last = (x * ends[..., None]).sum(1)
        out: Tensor = self.out(torch.cat((read.flatten(1), last), -1))
        return out


class TaskHypernetwork(nn.Module):
    """Activations of descriptions to LoRA matrices of several modules in all blocks."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__()
        self.config = config
        s, t = config.latent, config.head_input
        self.reader = DescriptionReader(config)
        self.depth = table(config.blocks, s // 4)
        self.kind = table(len(config.modules), s // 4)
        self.mixer = two_linears(s, s, nn.Identity())
        self.mlp1 = two_linears(s, s, nn.LayerNorm(s))
        self.mlp2 = two_linears(s, s, nn.LayerNorm(s))
        self.mlp3 = two_linears(s, t, nn.LayerNorm(s))
        self.last = nn.LayerNorm(t)
        self.widths: Mapping[str, tuple[int, int]] = {name: module_widths(config)[name] for name in config.modules}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(t, config.rank * sum(pair), bias=False) for name, pair in self.widths.items()}
        )
        for head in self.heads.parameters():
            nn.init.zeros_(head)
        self.offsets = Offsets(config)
        if config.z_scored:
            self.spread = Offsets(config)
            for side in (self.offsets, self.spread):
                side.requires_grad_(False)

    def forward(self, hidden: Tensor, mask: Tensor, jitter: Jitter | None = None) -> dict[str, LoraPair]:
        """Descriptions to each module's LoRA, without the scaling.

        Args:
            hidden: Activations of descriptions [batch, taps, tokens, hidden].
            mask: [batch, tokens], 1 for tokens of the description, 0 for padding (right).
            jitter: For training.

        Returns:
            a [batch, blocks, rank, inputs] and b [batch, blocks, outputs, rank] of each module.
        """
        return {name: self._placed(name, pair) for name, pair in self.raw(hidden, mask, jitter).items()}

    def raw(self, hidden: Tensor, mask: Tensor, jitter: Jitter | None = None) -> dict[str, LoraPair]:
        """What the heads add, before any spread: the shapes of `forward`."""
        vector = self.reader(hidden, mask)
        if jitter is not None:
            vector = vector * jitter.keep + jitter.noise
        x = self.trunk(vector)
        return {name: self._split(name, self.heads[name](x[:, i])) for i, name in enumerate(self.widths)}

    def trunk(self, vector: Tensor) -> Tensor:
        """Task vectors [batch, task] to what the heads read, [batch, modules, blocks, head_input]."""
        config = self.config
        shape = (vector.shape[0], len(config.modules), config.blocks, -1)
        depth = self.depth(torch.arange(config.blocks, device=vector.device))
        kind = self.kind(torch.arange(len(config.modules), device=vector.device))
        parts = (vector[:, None, None], depth[None, None], kind[None, :, None])
        x = self.mixer(torch.cat([part.expand(shape) for part in parts], -1))
        x = x + self.mlp1(x)
        # Divided by the width: a step of Adam then moves a LoRA as far as it would if that were the parameter.
        out: Tensor = self.last(self.mlp3(x + self.mlp2(x))) / config.head_input
        return out

    def _split(self, name: str, made: Tensor) -> LoraPair:
        """A head's output [batch, blocks, rank * (inputs + outputs)] as a pair."""
        inputs, outputs = self.widths[name]
        cut = self.config.rank * inputs
        a, b = made[..., :cut], made[..., cut:]
        rank, lead = self.config.rank, made.shape[:-1]
        return LoraPair(a.reshape(*lead, rank, inputs), b.reshape(*lead, outputs, rank))

    def _placed(self, name: str, made: LoraPair) -> LoraPair:
        offset = self.offsets.pair(name)
        if self.config.z_scored:
            spread = self.spread.pair(name)
            made = LoraPair(made.a * spread.a, made.b * spread.b)
        return LoraPair(offset.a + made.a, offset.b + made.b)


class LoraBank(nn.Module):
    """LoRAs of a number of tasks as parameters, in the hypernetwork's place; all begin with the same a. Reads nothing.

    One for all tasks is the multi-task LoRA that task hypernetworks are compared with.
    """

    def __init__(self, config: TaskConfig, tasks: int = 1) -> None:
        super().__init__()
        self.config = config
        begin = Offsets(config)
        self.a = nn.ParameterDict({name: value.detach().repeat(tasks, 1, 1, 1) for name, value in begin.a.items()})
        self.b = nn.ParameterDict({name: value.detach().repeat(tasks, 1, 1, 1) for name, value in begin.b.items()})

    def forward(self) -> dict[str, LoraPair]:
        """A [tasks, blocks, rank, inputs] and b [tasks, blocks, outputs, rank] of each module."""
        return {name: LoraPair(self.a[name], self.b[name]) for name in self.config.modules}
