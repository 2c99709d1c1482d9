"""Published Doc-to-LoRA checkpoints (Charakorn et al. 2026): what one holds, checked, and fitted to a base model.

Settings come from the pickle inside, sizes from the settings; names and shapes of all tensors are compared with those
before any is read. Knows neither the command line nor ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from localhyper.base_header import BaseHeader
from localhyper.errors import ConfigError, HypernetworkError
from localhyper.export.checkpoint_file import Checkpoint
from localhyper.export.checkpoint_pickle import Record, TensorView
from localhyper.export.perceiver import DocToLora, PerceiverConfig
from localhyper.gguf_adapter import permute_for_base
from localhyper.gguf_header import shown
from localhyper.peft_folder import MODULES

# Hugging Face's names of the modules that the recipe may adapt, and GGUF's.
TARGETS = {name.rpartition(".")[2]: target for target, name in MODULES.items()}
PER_LAYER, EARLY_EXIT, EMBED_ONLY = "per_layer_activations", "early_exit", "embed_only"
HINT = "localhyper reads checkpoints of the published Doc-to-LoRA recipe; this one is of another, or damaged"
MAX_NAMED = 5  # tensors named in one line
_REQUIRED = object()


@dataclass(frozen=True)
class PublishedRun:
    """A checkpoint's settings.

    Attributes:
        config: Sizes of the hypernetwork; `config.modules` are Hugging Face's names.
        scaling: Factor of B^T A: the checkpoint's lora_alpha, not divided by the rank.
        base_name: The base model as the checkpoint calls it, mostly a repository on the hub.
        encoder: How the context is read: one of `PER_LAYER`, `EARLY_EXIT` and `EMBED_ONLY`.
        quantized_encoder: In training the base model that read the context was quantized to 4 bits.
    """

    config: PerceiverConfig
    scaling: float
    base_name: str
    encoder: str
    quantized_encoder: bool


class _Fields:
    """The fields of one record of the pickle; every getter names the field it refuses."""

    def __init__(self, checkpoint: Checkpoint, where: str, values: Mapping[str, object]) -> None:
        self._checkpoint, self._where, self._values = checkpoint, where, values

    def fail(self, key: str, wanted: str) -> HypernetworkError:
        """The error for one field, to be raised; a value is shown only where it is short and plain."""
        value = self._values.get(key)
        got = "nothing" if key not in self._values else f"a {type(value).__name__}"
        if isinstance(value, str | int | float | bool):
            got = f"`{shown(str(value), 60)}`"
        return HypernetworkError(
            f"checkpoint `{self._checkpoint.path}`: `{self._where}{key}` must be {wanted}, got {got}", HINT
        )

    def get(self, key: str, default: object = _REQUIRED) -> object:
        if key not in self._values and default is _REQUIRED:
            raise self.fail(key, "there")
        return self._values.get(key, default)

    def record(self, key: str, kind: str) -> _Fields:
        value = self.get(key)
        if not isinstance(value, Record) or value.kind != kind:
            raise self.fail(key, f"a {kind}")
        return _Fields(self._checkpoint, f"{self._where}{key}.", value.fields)

    def whole(self, key: str, low: int, high: int, default: object = _REQUIRED) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low} to {high}")
        return value

    def same(self, key: str, wanted: int) -> None:
        if self.whole(key, 0, 1 << 24) != wanted:
            raise self.fail(key, f"{wanted}, as the rest of the checkpoint says")

    def number(self, key: str) -> float:
        value = self.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1e6:
            raise self.fail(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: object = _REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str, default: object = _REQUIRED) -> str:
        value = self.get(key, default)
        if not isinstance(value, str) or len(value) > 500:
            raise self.fail(key, "text")
        return value


def read_run(checkpoint: Checkpoint) -> PublishedRun:
    """A checkpoint's settings; no tensor but the numbers of its blocks is read.

    Raises:
        HypernetworkError: A setting is missing, out of range, or of a kind that no published checkpoint has.
    """
    top = _Fields(checkpoint, "", checkpoint.values)
    hyper = top.record("hypernet_config", "HypernetConfig")
    lora = hyper.record("lora_config", "LoraConfig")
    aggregator = hyper.record("aggregator_config", "AggregatorConfig")
    base_name, encoder = top.text("base_model_name_or_path"), _encoder(top)
    if hyper.get("extra_modules", None) is not None:
        raise hyper.fail("extra_modules", "None")
    if aggregator.text("aggregator_type").lower() != "perceiver":
        raise aggregator.fail("aggregator_type", "perceiver")
    for part in (hyper, aggregator):
        if not part.flag("per_rank_gen"):
            raise part.fail("per_rank_gen", "true")
    blocks = _blocks(checkpoint, hyper)
    modules, inputs, outputs = _modules(hyper, lora)
    rank, latent = lora.whole("r", 1, 1 << 10), hyper.whole("latent_size", 1, 1 << 13)
    for key, wanted in (
        ("num_layers", len(blocks)),
        ("num_modules", len(modules)),
        ("num_extra_modules", 0),
        ("output_size", latent),
        ("lora_r", rank),
    ):
        aggregator.same(key, wanted)
    kind = encoder.text("ctx_encoder_type", EARLY_EXIT)
    taps = _taps(encoder, kind, len(blocks))
    if aggregator.flag("layer_to_layer_ctx_encoder") != (kind == PER_LAYER):
        raise aggregator.fail("layer_to_layer_ctx_encoder", f"{kind == PER_LAYER} where the encoder is `{kind}`")
    config = PerceiverConfig(
        hidden=aggregator.whole("feature_size", 1, 1 << 16),
        taps=taps,
        blocks=blocks,
        modules=modules,
        inputs=inputs,
        outputs=outputs,
        layer_to_layer=kind == PER_LAYER,
        rank=rank,
        latent=latent,
        queries=aggregator.whole("n_latent_queries", 1, 1 << 13),
        cross_blocks=aggregator.whole("num_blocks", 1, 1 << 7),
        self_blocks=aggregator.whole("num_self_attn_per_block", 0, 1 << 5),
        shared_weights=aggregator.flag("shared_weights"),
        pre_head=hyper.whole("num_pre_head_layers", 0, 1 << 6, 4),
        per_layer_processing=hyper.flag("per_layer_processing"),
        use_bias=hyper.flag("use_bias", True),
        last_tap_normed=kind != EMBED_ONLY,
    )
    quantized = encoder.flag("quantize_ctx_encoder", False)
    return PublishedRun(config, lora.number("lora_alpha"), base_name, kind, quantized)


def _encoder(top: _Fields) -> _Fields:
    """The context encoder's settings; it must be the base model itself."""
    encoder = top.record("ctx_encoder_args", "CtxEncoderArguments")
    name = encoder.get("ctx_encoder_model_name_or_path", None)
    if name is not None and name != top.text("base_model_name_or_path"):
        raise encoder.fail("ctx_encoder_model_name_or_path", "the base model: a second model cannot read the document")
    return encoder


def _taps(encoder: _Fields, kind: str, count: int) -> tuple[int, ...]:
    """Which hidden states are read, in our numbers: tap l enters block l."""
    if kind == EMBED_ONLY:
        return (0,)
    if kind == EARLY_EXIT:
        return (encoder.whole("layer_idx", 0, 1 << 10),)
    if kind != PER_LAYER:
        raise encoder.fail("ctx_encoder_type", f"{PER_LAYER}, {EARLY_EXIT} or {EMBED_ONLY}")
    if encoder.get("ctx_encoder_last_layer", None) is not None:
        encoder.same("ctx_encoder_last_layer", count)
    return tuple(range(count))


def _blocks(checkpoint: Checkpoint, hyper: _Fields) -> tuple[int, ...]:
    view = hyper.get("layer_indices")
    if not isinstance(view, TensorView) or len(view.shape) != 1 or not 1 <= view.shape[0] <= 1 << 10:
        raise hyper.fail("layer_indices", "a tensor of block numbers")
    numbers = checkpoint.read_view(view, "layer_indices").tolist()
    if (
        any(type(number) is not int or not 0 <= number < 1 << 10 for number in numbers)
        or sorted(set(numbers)) != numbers
    ):
        raise hyper.fail("layer_indices", "ascending block numbers")
    return tuple(numbers)


def _modules(hyper: _Fields, lora: _Fields) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Adapted modules in alphabetical order, in which all of the checkpoint's weights lie, and their widths."""
    targets, sizes = lora.get("target_modules"), hyper.get("feature_sizes")
    items = list(targets) if isinstance(targets, frozenset | list | tuple) else []
    if not items or not all(isinstance(item, str) and item in TARGETS for item in items):
        raise lora.fail("target_modules", f"some of {', '.join(TARGETS)}")
    modules = tuple(sorted(set(items)))
    if not isinstance(sizes, tuple | list) or len(sizes) != 2 or not all(isinstance(side, dict) for side in sizes):
        raise hyper.fail("feature_sizes", "a pair of dictionaries")
    inputs, outputs = (_widths(_Fields(hyper._checkpoint, "feature_sizes.", side), modules) for side in sizes)
    return modules, inputs, outputs


def _widths(side: _Fields, modules: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(side.whole(module, 1, 1 << 20) for module in modules)


def check_run_base(run: PublishedRun, base: BaseHeader) -> None:
    """Refuse a base model of other sizes than the checkpoint's.

    Raises:
        HypernetworkError: Width, number of blocks, or a matrix's shape differs.
    """
    config, info = run.config, base.info
    wanted: list[tuple[str, object, object]] = [("hidden size", config.hidden, info.hidden_size)]
    if run.encoder == PER_LAYER or config.blocks[-1] >= info.block_count:
        wanted.append(("number of blocks", config.blocks[-1] + 1, info.block_count))
    if config.taps[-1] > info.block_count:
        wanted.append(("number of blocks", f"at least {config.taps[-1]}", info.block_count))
    for module, into, out in zip(config.modules, config.inputs, config.outputs, strict=True):
        name = f"blk.0.{TARGETS[module]}.weight"
        wanted.append((f"shape of `{module}`", [into, out], list(base.shapes.get(name, ()))))
    for what, want, got in wanted:
        if want != got:
            raise HypernetworkError(
                f"the checkpoint is for `{shown(run.base_name)}`: its {what} is {want}, `{info.name}` has {got}",
                "give the base model it was trained for with --base",
            )


def load_network(checkpoint: Checkpoint, run: PublishedRun, base: BaseHeader) -> DocToLora:
    """The hypernetwork with its weights, float32 on the CPU; rows of queries and keys in the order of the GGUF base.

    One copy of the weights is made: each tensor is read into its place.

    Raises:
        HypernetworkError: Tensors are missing, left over, of another shape, damaged, or not finite.
    """
    try:
        with torch.device("meta"):
            net = DocToLora(run.config)
    except ConfigError as error:
        raise HypernetworkError(f"checkpoint `{checkpoint.path}`: {error.message}", HINT) from error
    check_tensors(checkpoint, {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}, HINT)
    net.load_state_dict(read_tensors(checkpoint, HINT), strict=True, assign=True)
    _permute(net, base)
    return net.eval()


def read_tensors(checkpoint: Checkpoint, hint: str) -> dict[str, Tensor]:
    """All tensors, float32 on the CPU.

    Raises:
        HypernetworkError: Damaged, of another type, or not finite.
    """
    state: dict[str, Tensor] = {}
    for name in checkpoint.tensors:
        values = checkpoint.read(name)
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise HypernetworkError(
                f"checkpoint `{checkpoint.path}`: tensor `{name}` has values that are not finite float32", hint
            )
        state[name] = torch.from_numpy(values if values.flags.writeable else values.copy())
    return state


def check_tensors(
    checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], hint: str, optional: tuple[str, ...] = ()
) -> None:
    """Compare names and shapes of all tensors with those wanted, before any is read.

    Args:
        checkpoint: The open checkpoint.
        wanted: Name to shape.
        hint: What to say to the user.
        optional: Beginnings of the names that may be absent.

    Raises:
        HypernetworkError: Tensors are missing, left over, or of another shape.
    """
    got = {name: view.shape for name, view in checkpoint.tensors.items()}
    missing = {name for name in wanted.keys() - got.keys() if not name.startswith(optional)}
    for what, names in (("lacks", missing), ("has unexpected", got.keys() - wanted.keys())):
        if names:
            listed = ", ".join(f"`{shown(name)}`" for name in sorted(names)[:MAX_NAMED])
            more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
            raise HypernetworkError(f"checkpoint `{checkpoint.path}` {what} tensors: {listed}{more}", hint)
    for name, shape in got.items():
        if wanted[name] != shape:
            raise HypernetworkError(
                f"checkpoint `{checkpoint.path}`: tensor `{name}` has shape {list(shape)}, wanted {list(wanted[name])}",
                hint,
            )


@torch.no_grad()
def _permute(net: DocToLora, base: BaseHeader) -> None:
    """Put what makes rows of b for queries and keys into GGUF's order: columns of the head, and the bias."""
    heads = {"q_proj": base.info.head_count, "k_proj": base.info.head_count_kv}
    for index, (module, into, out) in enumerate(
        zip(net.config.modules, net.config.inputs, net.config.outputs, strict=True)
    ):
        if module not in heads or base.info.architecture != "llama":
            continue
        weight = cast(Tensor, net.head.weight)
        columns = (weight if weight.ndim == 3 else weight[:, index])[..., into : into + out]
        parts = [columns, net.bias_B[module]] if net.config.use_bias else [columns]
        for part in parts:
            rows = part.transpose(-1, -2).contiguous().numpy()
            permuted = permute_for_base(rows, heads[module], base.info.architecture)
            part.copy_(torch.from_numpy(permuted).transpose(-1, -2))
