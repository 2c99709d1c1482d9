"""A PEFT folder as LoRA matrices: what `PeftModel.save_pretrained` writes, and what Text-to-LoRA writes in its way.

The tensors decide what is adapted, the configuration how strongly. Whatever is neither a matrix of a known module nor
without effect is refused by name: an adapter that is used in part would be another one. Knows neither the library nor
base models; rows are still in Hugging Face's order here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localhyper.errors import AdapterError
from localhyper.gguf_header import shown
from localhyper.lora import FloatArray, LoraWeights
from localhyper.lora_union import Pair, stack_blocks
from localhyper.peft_config import MAX_CONFIG, MAX_RANK, PeftConfig, parse_config, resolve
from localhyper.peft_folder import CONFIG, MODULES, TENSORS
from localhyper.safetensors_file import SafetensorsError, TensorFile, read_safetensors

_PREFIX = "base_model.model."
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:model\.)?layers\.(?P<block>0|[1-9][0-9]{0,3})\.(?P<part>(?:self_attn|mlp)\.\w+))"
    r"\.lora_(?P<half>[AB])(?:\.(?P<adapter>[\w-]+))?\.weight",
    re.ASCII,
)
_PARTS = {part: module for module, part in MODULES.items()}
_DAMAGED = "save it again, or copy it again from where it comes"
# What else may be in a file, by a piece of the name, and why it cannot be taken.
_REASONS: tuple[tuple[str, str], ...] = (
    ("lora_magnitude_vector", "a magnitude of DoRA, which has no place in a GGUF adapter"),
    ("trainable_tokens", "retrained token embeddings"),
    ("lora_embedding_", "LoRA matrices of the token embeddings"),
    ("embed_tokens", "token embeddings"),
    ("modules_to_save", "a whole retrained module"),
    ("original_module", "a whole retrained module"),
    ("base_layer", "weights of the base model"),
    ("lm_head", "the output head, which is not adapted here"),
    (".experts.", "experts, which no supported base model has"),
    ("lora_E", "AdaLoRA's singular values"),
    (".bias", "a bias"),
    ("norm", "a norm"),
)


@dataclass(frozen=True)
class PeftAdapter:
    """A PEFT folder, read.

    Attributes:
        weights: GGUF module to its matrices, all scaling folded into b, rows in Hugging Face's order.
        base: What its configuration calls the base model; empty = nothing.
        texts: The texts in the header of its tensor file.
        half: Whether float16 holds every value exactly.
    """

    weights: LoraWeights
    base: str
    texts: Mapping[str, str]
    half: bool


def peft_files(path: Path) -> tuple[Path, Path]:
    """Configuration and tensors of a PEFT folder; one of the two files stands for its folder.

    Raises:
        AdapterError: No PEFT folder, or one whose tensors are a pickle.
    """
    folder = path.parent if path.name in (CONFIG, TENSORS) else path
    config, tensors = folder / CONFIG, folder / TENSORS
    if not config.is_file():
        raise AdapterError(f"`{folder}` is no PEFT adapter: it has no `{CONFIG}`", "name the folder that PEFT saved")
    if tensors.is_file():
        return config, tensors
    pickled = next((name for name in ("adapter_model.bin", "adapter_model.pt") if (folder / name).exists()), None)
    if pickled:
        raise AdapterError(
            f"`{folder / pickled}` is a pickle, which could run a stranger's code, and is not opened",
            f"load it where you trust it and save it with `safe_serialization=True`: that writes `{TENSORS}`",
        )
    raise AdapterError(f"`{folder}` has no `{TENSORS}`", "name the folder that PEFT saved")


def read_peft(path: Path) -> PeftAdapter:
    """Read a PEFT folder.

    Raises:
        AdapterError: Not PEFT, damaged, not finite, or more than LoRA matrices of modules that have a name here.
    """
    config_file, tensor_file = peft_files(path)
    where = config_file.parent.name or str(config_file.parent)
    try:
        with config_file.open("rb") as file:
            config = parse_config(file.read(MAX_CONFIG + 1), where)
        found = read_safetensors(tensor_file)
        return _assemble(found, config, where)
    except SafetensorsError as error:
        raise AdapterError(f"`{tensor_file}` is unusable: {error}", _DAMAGED) from error
    except OSError as error:
        raise AdapterError(f"`{path}` cannot be read: {error.strerror or error}", "check its permissions") from error


def _assemble(found: TensorFile, config: PeftConfig, where: str) -> PeftAdapter:
    names = _pairs(found, where)
    sizes = resolve(config, list(names), where)
    grouped: dict[str, dict[int, Pair]] = {}
    for module, (block, part, halves) in names.items():
        rank, alpha = sizes[module]
        _check_rank(found, module, halves, rank, where)
        pair = _load(found, halves, config.factor(alpha, rank), where)
        grouped.setdefault(_PARTS[part], {})[block] = pair
    try:
        targets = {module: stack_blocks(module, blocks) for module, blocks in grouped.items()}
    except AdapterError as error:
        raise AdapterError(f"`{where}`: {error.message}", error.hint) from error
    weights = LoraWeights(targets)
    return PeftAdapter(weights, config.base, found.metadata, _is_half(weights))


def _pairs(found: TensorFile, where: str) -> dict[str, tuple[int, str, dict[str, str]]]:
    """Module as PEFT names it → block, part, and the names of the tensors `A` and `B`."""
    pairs: dict[str, tuple[int, str, dict[str, str]]] = {}
    seen: dict[tuple[int, str], str] = {}
    for name in found.tensors:
        match = _NAME.fullmatch(name)
        if match is None or match["part"] not in _PARTS:
            raise AdapterError(f"`{where}` holds `{shown(name, 120)}`: {_reason(name, match)}")
        block, part, module = int(match["block"]), match["part"], match["module"]
        _, _, halves = pairs.setdefault(module, (block, part, {}))
        if match["half"] in halves or seen.setdefault((block, part), module) != module:
            raise AdapterError(
                f"`{where}` holds two adapters for `{shown(module, 120)}`", "save each into a folder of its own"
            )
        halves[match["half"]] = name
    if not pairs:
        raise AdapterError(f"`{where}` holds no matrices", _DAMAGED)
    for module, (_, _, halves) in pairs.items():
        if len(halves) != 2:
            missing = "lora_B" if "A" in halves else "lora_A"
            raise AdapterError(f"`{where}` lacks `{missing}` of `{shown(module, 120)}`", _DAMAGED)
    return pairs


def _reason(name: str, match: re.Match[str] | None) -> str:
    if match is not None:
        return f"no known module, known are {', '.join(part.rpartition('.')[2] for part in _PARTS)}"
    return next((reason for piece, reason in _REASONS if piece in name), "no LoRA matrix of a block")


def _check_rank(found: TensorFile, module: str, halves: Mapping[str, str], rank: int, where: str) -> None:
    a, b = found.tensors[halves["A"]].shape, found.tensors[halves["B"]].shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not 1 <= a[0] <= MAX_RANK or not (a[1] and b[0]):
        raise AdapterError(f"`{where}` has no matching matrices for `{module}`: A {list(a)}, B {list(b)}", _DAMAGED)
    if a[0] != rank:
        raise AdapterError(f"`{where}`: `{module}` has rank {a[0]}, its configuration says {rank}", _DAMAGED)


def _load(found: TensorFile, halves: Mapping[str, str], factor: float, where: str) -> Pair:
    a, b = found.load(halves["A"]), found.load(halves["B"])
    with np.errstate(all="ignore"):
        scaled: FloatArray = b * np.float32(factor)
    for name, matrix in ((halves["A"], a), (halves["B"], scaled)):
        if not np.isfinite(matrix).all():
            raise AdapterError(f"`{where}` has values in `{shown(name, 120)}` that are not finite", _DAMAGED)
    return a, scaled


def _is_half(weights: LoraWeights) -> bool:
    matrices = [matrix for target in weights.targets.values() for matrix in (target.a, target.b)]
    with np.errstate(over="ignore"):
        return all(np.array_equal(matrix.astype(np.float16).astype(np.float32), matrix) for matrix in matrices)
