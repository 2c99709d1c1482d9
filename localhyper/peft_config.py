"""`adapter_config.json` of a PEFT folder, checked: an ordinary LoRA on linear layers, or one line that says why not.

Every field that PEFT 0.21's `LoraConfig` writes is known here: read, refused when it is set, or without effect on a
finished adapter. A field that is not known is refused when it is set, because it may change what the matrices mean.
Knows no tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localhyper.errors import AdapterError
from localhyper.gguf_header import shown
from localhyper.pattern_match import PatternError, match_table

MAX_CONFIG = 1 << 22
MAX_RANK = 1 << 14
_READ = frozenset({
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias",
    "init_lora_weights",
})  # fmt: skip
_NO_EFFECT = frozenset({
    "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
})  # fmt: skip
_REFUSED: Mapping[str, str] = {
    "use_dora": "is DoRA, whose magnitudes have no place in a GGUF adapter",
    "modules_to_save": "holds whole retrained modules, not only LoRA matrices",
    "trainable_token_indices": "holds retrained token embeddings",
    "alora_invocation_tokens": "is an activated LoRA, which acts only after its own tokens",
    "lora_bias": "trains biases beside its matrices",
    "fan_in_fan_out": "is for layers that store their weights transposed",
    "use_qalora": "is QA-LoRA, which pools the inputs of its matrices",
    "layer_replication": "repeats blocks of its base model",
    "target_parameters": "adapts parameters that are no linear layers",
    "megatron_config": "is for Megatron's parallel layers",
    "use_bdlora": "is BD-LoRA, whose matrices are block-diagonal",
    "arrow_config": "routes between several adapters (Arrow)",
    "kasa_config": "is KaSA, which has a diagonal between its matrices",
    "velora_config": "is VeLoRA",
    "monteclora_config": "is MonteCLoRA, which samples its matrices",
}
_HARMLESS_INITS = ("true", "false", "gaussian", "eva", "orthogonal")
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_CONVERT = "save it with `path_initial_model_for_weight_conversion`, which turns it into an ordinary LoRA"


@dataclass(frozen=True)
class PeftConfig:
    """What a PEFT folder says of its LoRA.

    Attributes:
        base: What it calls its base model; empty = nothing.
        rank: Rank where `ranks` says nothing else.
        alpha: Likewise.
        rslora: Whether the factor is alpha / √rank rather than alpha / rank.
        ranks: Pattern to rank.
        alphas: Pattern to alpha.
        targets: Module names, or one pattern; `all-linear` = all.
        excluded: Module names, or one pattern.
        blocks: Blocks adapted; None = all.
        block_lists: Names a list of blocks may have; empty = any.
    """

    base: str
    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str = ()
    blocks: tuple[int, ...] | None = None
    block_lists: tuple[str, ...] = ()

    def factor(self, alpha: float, rank: int) -> float:
        """What PEFT multiplies b @ a by."""
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def parse_config(data: bytes, where: str) -> PeftConfig:
    """Read `adapter_config.json`.

    Args:
        data: The file.
        where: What to call the folder in messages.

    Raises:
        AdapterError: No JSON, no LoRA, a LoRA that is more than matrices, or a value out of range.
    """
    fields = _object(data, where)
    _refuse(fields, where)
    return PeftConfig(
        base=shown(str(fields.get("base_model_name_or_path") or ""), 200),
        rank=_rank(fields.get("r"), "r", where),
        alpha=_alpha(fields.get("lora_alpha", 8), "lora_alpha", where),
        rslora=fields.get("use_rslora") is True,
        ranks={key: _rank(value, "rank_pattern", where) for key, value in _table(fields, "rank_pattern", where)},
        alphas={key: _alpha(value, "alpha_pattern", where) for key, value in _table(fields, "alpha_pattern", where)},
        targets=_names(fields, "target_modules", where),
        excluded=_names(fields, "exclude_modules", where),
        blocks=_blocks(fields.get("layers_to_transform"), where),
        block_lists=_lists(fields, where),
    )


def _object(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_CONFIG:
        raise AdapterError(f"`{where}`: adapter_config.json has more than {MAX_CONFIG} bytes")
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"`{where}`: adapter_config.json is no JSON") from error
    if not isinstance(fields, dict):
        raise AdapterError(f"`{where}`: adapter_config.json is no JSON object")
    return fields


def _refuse(fields: Mapping[str, Any], where: str) -> None:
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"`{where}` is a PEFT adapter of type `{shown(str(kind), 40)}`, wanted `LORA`")
    for name, reason in _REFUSED.items():
        if _is_set(fields.get(name)):
            raise AdapterError(f"`{where}` {reason} (`{name}`)", "train it as an ordinary LoRA")
    task, bias = fields.get("task_type"), fields.get("bias", "none")
    if task not in (None, "CAUSAL_LM"):
        raise AdapterError(f"`{where}` is for the task `{shown(str(task), 40)}`, wanted `CAUSAL_LM`")
    if bias != "none":
        raise AdapterError(f"`{where}` trains biases of its base model (`bias` is `{shown(str(bias), 40)}`)")
    _refuse_init(fields.get("init_lora_weights", True), where)
    for name in sorted(set(fields) - _READ - _NO_EFFECT - set(_REFUSED)):
        if _is_set(fields[name]):
            raise AdapterError(f"`{where}` sets `{shown(name, 60)}` in adapter_config.json, which is not known here")


def _refuse_init(init: object, where: str) -> None:
    """Some ways to begin a training change the base model's weights; the matrices then fit that changed base only."""
    text = str(init).casefold()
    if text in _HARMLESS_INITS:
        return
    name = next((name for name in _CHANGED_BASE if text.startswith(name)), "")
    if name == "loftq":
        raise AdapterError(f"`{where}` makes up for a quantization of its own (`init_lora_weights` is `loftq`)")
    if name:
        raise AdapterError(
            f"`{where}` began with changed weights of its base model (`init_lora_weights` is `{shown(text, 40)}`)",
            _CONVERT,
        )
    raise AdapterError(f"`{where}`: `init_lora_weights` is `{shown(text, 40)}`, which is not known here")


def _is_set(value: object) -> bool:
    return value not in (None, False, 0, "", [], {})


def _rank(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANK:
        raise AdapterError(
            f"`{where}`: `{name}` is {shown(repr(value), 40)}, wanted a whole number from 1 to {MAX_RANK}"
        )
    return value


def _alpha(value: object, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise AdapterError(f"`{where}`: `{name}` is {shown(repr(value), 40)}, wanted a number")
    return float(value)


def _table(fields: Mapping[str, Any], name: str, where: str) -> Sequence[tuple[str, object]]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"`{where}`: `{name}` is no JSON object")
    return list(value.items())


def _names(fields: Mapping[str, Any], name: str, where: str) -> tuple[str, ...] | str:
    value = fields.get(name) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise AdapterError(f"`{where}`: `{name}` is neither a list of names nor a pattern")
    return tuple(value)


def _blocks(value: object, where: str) -> tuple[int, ...] | None:
    numbers = [value] if isinstance(value, int) else value
    if numbers in (None, []):
        return None
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise AdapterError(f"`{where}`: `layers_to_transform` is no list of blocks")
    return tuple(numbers)


def _lists(fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = _names(fields, "layers_pattern", where)
    return (names,) if isinstance(names, str) else names


def resolve(config: PeftConfig, names: Sequence[str], where: str) -> dict[str, tuple[int, float]]:
    """The rank and alpha that PEFT gives each module of the file.

    A pattern counts for the modules whose name it matches from the beginning or after a dot, to the end; the first one
    that does is taken (PEFT's `get_pattern_key`).

    Args:
        config: The checked configuration.
        names: Modules as PEFT names them, such as `model.layers.0.mlp.down_proj`.
        where: What to call the folder in messages.

    Raises:
        AdapterError: A module that PEFT would leave out, or patterns that are none.
    """
    try:
        ranks = _patterned(config.ranks, names, config.rank)
        alphas = _patterned(config.alphas, names, config.alpha)
        wanted = _wanted(config, names)
    except PatternError as error:
        raise AdapterError(f"`{where}`: adapter_config.json has {error}") from error
    for name, is_target in zip(names, wanted, strict=True):
        if not is_target:
            raise AdapterError(
                f"`{where}` has matrices for `{shown(name, 120)}`, which its configuration does not adapt",
                "PEFT would leave them out: correct `target_modules`, or save the adapter again",
            )
    return {name: (int(ranks[name]), alphas[name]) for name in names}


def _patterned(patterns: Mapping[str, float], names: Sequence[str], otherwise: float) -> dict[str, float]:
    table = match_table(list(patterns), names, r"(.*\.)?({})$") if patterns else []
    found = dict.fromkeys(names, otherwise)
    for row, value in reversed(list(zip(table, patterns.values(), strict=True))):  # the first match stays
        found.update({name: value for name, matches in zip(names, row, strict=True) if matches})
    return found


def _wanted(config: PeftConfig, names: Sequence[str]) -> list[bool]:
    """Whether each module is a target (PEFT's `check_target_module_exists`)."""
    chosen = _chosen(config.targets, names)
    excluded = _chosen(config.excluded, names) if config.excluded else [False] * len(names)
    inside = [_in_blocks(config, name) for name in names]
    return [yes and not no and block for yes, no, block in zip(chosen, excluded, inside, strict=True)]


def _chosen(targets: tuple[str, ...] | str, names: Sequence[str]) -> list[bool]:
    if targets == "all-linear":
        return [True] * len(names)
    if isinstance(targets, str):
        return match_table([targets], names, r"(?:{})\Z")[0]
    return [any(name == target or name.endswith(f".{target}") for target in targets) for name in names]


def _in_blocks(config: PeftConfig, name: str) -> bool:
    """`layers_to_transform` counts where targets are a list; our names have one number, after the list of blocks."""
    if config.blocks is None or isinstance(config.targets, str):
        return True
    parts = name.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdecimal()), 0)
    return (
        at > 0 and int(parts[at]) in config.blocks and (not config.block_lists or parts[at - 1] in config.block_lists)
    )
