"""The Text-to-LoRA hypernetwork: a vector of a task description through residual MLPs and a head for each module.

Written from a prose description of Text-to-LoRA (Charakorn et al. 2025); parameter names and shapes are those of its
published checkpoints. What its trainer calls SFT and reconstruction, with one head output for both matrices or one for
each, are all here; dropout is left out. The trunk's parts also serve `task_hypernetwork`.

Knows neither checkpoint files nor base models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

STD_FLOOR = 1e-10  # added to the standard deviations of reconstruction targets
HIDDEN = 4  # a residual MLP is so many times wider inside


@dataclass(frozen=True)
class TextToLoraConfig:
    """Sizes and variant of a Text-to-LoRA hypernetwork.

    Attributes:
        blocks: Blocks L of the base model, all adapted.
        modules: Adapted modules by their published names, in the order of the rows of `layer_type_encoder`.
        inputs: Input width of each module.
        outputs: Output width of each module.
        rank: LoRA rank r.
        embedding: Size E of the description's vector.
        latent: Width s of the trunk, a multiple of 4.
        head_input: Width t of what the heads read.
        head_bias: Modules whose head has a bias.
        shared_head: One head output serves both matrices, told apart by a learned vector (`shared_AB_head`).
        reconstruction: Trained to reconstruct LoRAs; False = trained on the tasks (SFT).
        factorized: Of reconstruction: the matrices were the target, not their product.
        z_scored: Of reconstruction, factorized: the target was standardised (`pred_z_score`).
        delta_scaling: Of reconstruction, not factorized: factor of the product in training (`delta_w_scaling`).
    """

    blocks: int
    modules: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rank: int
    embedding: int
    latent: int
    head_input: int
    head_bias: tuple[str, ...] = ()
    shared_head: bool = False
    reconstruction: bool = False
    factorized: bool = False
    z_scored: bool = False
    delta_scaling: float = 10_000.0

    def as_dict(self) -> dict[str, object]:
        """The configuration as JSON-ready values."""
        return asdict(self)


class LoraPair(NamedTuple):
    """A module's matrices in all blocks: a [L, r, d_in], b [L, d_out, r], without the LoRA scaling."""

    a: Tensor
    b: Tensor


class _Stack(nn.Module):
    """Layers under the name `mlp`."""

    def __init__(self, mlp: nn.Sequential) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        out: Tensor = self.mlp(x)
        return out


def two_linears(width: int, outputs: int, first: nn.Module) -> nn.Sequential:
    """silu(Lin(silu(Lin(first(x))))): [..., width] to [..., outputs].

    The places 1 and 4 of the linears are the published ones.
    """
    inner = HIDDEN * width
    silu, dropout = nn.SiLU(), nn.Identity()
    return nn.Sequential(first, nn.Linear(width, inner), silu, dropout, nn.Linear(inner, outputs), nn.SiLU())


def table(rows: int, width: int) -> nn.Sequential:
    """A learned vector for each of `rows` numbers, normed."""
    return nn.Sequential(nn.Embedding(rows, width), nn.LayerNorm(width))


class TextToLora(nn.Module):
    """All parameters and buffers that a checkpoint can have, under their published names."""

    def __init__(self, config: TextToLoraConfig) -> None:
        super().__init__()
        self.config = config
        s, t, r = config.latent, config.head_input, config.rank
        self.task_encoder = _Stack(nn.Sequential(nn.Linear(config.embedding, s // 2), nn.LayerNorm(s // 2)))
        self.layer_depth_encoder = table(config.blocks, s // 4)
        self.layer_type_encoder = table(len(config.modules), s // 4)
        self.mixer = two_linears(s, s, nn.Identity())
        self.mlp1 = _Stack(two_linears(s, s, nn.LayerNorm(s)))
        self.mlp2 = _Stack(two_linears(s, s, nn.LayerNorm(s)))
        self.mlp3 = two_linears(s, t, nn.LayerNorm(s))
        widths = dict(zip(config.modules, zip(config.inputs, config.outputs, strict=True), strict=True))
        self.widths: Mapping[str, tuple[int, int]] = widths
        sizes = {name: max(pair) if config.shared_head else sum(pair) for name, pair in widths.items()}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(t, r * size, bias=name in config.head_bias) for name, size in sizes.items()}
        )
        if config.shared_head:
            self.out_emb = nn.ModuleDict(
                {name: nn.ParameterDict({side: torch.zeros(s) for side in "AB"}) for name in config.modules}
            )
            self.out_emb_norm = nn.LayerNorm(s)
        self.AB_offset = self._constants()
        self.mean_recon_target = self._constants()
        self.std_recon_target = self._constants()

    def _constants(self) -> nn.ModuleDict:
        """Zeros in the shapes of A and B, which is what the reference takes where a checkpoint has none."""
        shapes = {
            name: ((self.config.blocks, self.config.rank, into), (self.config.blocks, out, self.config.rank))
            for name, (into, out) in self.widths.items()
        }
        return nn.ModuleDict(
            {
                side: nn.ParameterDict({name: torch.zeros(pair[index]) for name, pair in shapes.items()})
                for index, side in enumerate("AB")
            }
        )

    def forward(self, embedding: Tensor) -> dict[str, LoraPair]:
        """A description's vector [E], scaled (`scaled`), to each module's LoRA."""
        return self.finish(self.raw(embedding))

    def raw(self, embedding: Tensor) -> dict[str, LoraPair]:
        """What the heads give: of SFT the LoRA, of reconstruction what `finish` makes one of."""
        task = self.task_encoder(embedding)
        depth = self.layer_depth_encoder(torch.arange(self.config.blocks))
        found = {}
        for index, name in enumerate(self.config.modules):
            kind = self.layer_type_encoder(torch.tensor(index))
            rows = [task.expand(self.config.blocks, -1), depth, kind.expand(self.config.blocks, -1)]
            x = self.mixer(torch.cat(rows, -1))
            pair = self._both(name, x + self.mlp1(x))
            found[name] = pair if self.config.reconstruction else self._offset(name, pair)
        return found

    def _both(self, name: str, x: Tensor) -> LoraPair:
        """Trunk states [L, s] to a module's matrices."""
        into, out = self.widths[name]
        if self.config.shared_head:
            a, b = (
                self._head(name, x + self.out_emb_norm(self.get_parameter(f"out_emb.{name}.{side}"))) for side in "AB"
            )
        else:
            made = self._head(name, x)
            a, b = made[:, : self.config.rank * into], made[:, self.config.rank * into :]
        a, b = (part.reshape(self.config.blocks, self.config.rank, -1) for part in (a, b))
        return LoraPair(a[..., :into], b[..., :out].transpose(-1, -2))

    def _head(self, name: str, x: Tensor) -> Tensor:
        made: Tensor = self.heads[name](self.mlp3(x + self.mlp2(x)))
        return made

    def _offset(self, name: str, pair: LoraPair) -> LoraPair:
        return LoraPair(
            pair.a + self.get_parameter(f"AB_offset.A.{name}"), pair.b + self.get_parameter(f"AB_offset.B.{name}")
        )

    def finish(self, raw: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
        """The LoRA, of what the heads give."""
        return {name: self._finish(name, pair) for name, pair in raw.items()}

    def _finish(self, name: str, pair: LoraPair) -> LoraPair:
        config = self.config
        if not config.reconstruction:
            return pair
        if not config.factorized:
            return LoraPair(*(part / math.sqrt(config.delta_scaling) for part in pair))
        if config.z_scored:
            sides = zip("AB", pair, strict=True)
            pair = LoraPair(*(part * self._spread(side, name) + self._mean(side, name) for side, part in sides))
        return self._offset(name, pair)

    def _spread(self, side: str, name: str) -> Tensor:
        return self.get_parameter(f"std_recon_target.{side}.{name}") + STD_FLOOR

    def _mean(self, side: str, name: str) -> Tensor:
        return self.get_parameter(f"mean_recon_target.{side}.{name}")


def scaled(embedding: Tensor) -> Tensor:
    """A vector [E] of any length but 0 as the hypernetwork was given it in training: of length sqrt(E)."""
    bounded = embedding / embedding.abs().max()  # whose squares neither overflow nor vanish
    return bounded / bounded.square().sum().sqrt() * math.sqrt(embedding.shape[-1])
