"""LoRA matrices as a PEFT folder: what `peft.PeftModel.from_pretrained` on transformers' models and vLLM load.

Two files, `adapter_config.json` and `adapter_model.safetensors`. The names are those that transformers gives the
modules of Llama, Qwen3 and Gemma 2 models; the layout is that of PEFT's "LoRA checkpoint format" page. Knows neither
the library nor where base models lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from localhyper.atomic import atomic_folder
from localhyper.base_header import SUPPORTED_ARCHITECTURES
from localhyper.errors import AdapterError, LibraryError, ModelError
from localhyper.gguf_adapter import AdapterMetadata, unpermute_for_base
from localhyper.gguf_header import shown
from localhyper.lora import FloatArray, LoraWeights, even_ranks, validate

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MODULES: Mapping[str, str] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROTATED = ("attn_q", "attn_k")


@dataclass(frozen=True)
class PeftBase:
    """What a PEFT folder has to know of its base model.

    Attributes:
        name: For `base_model_name_or_path`: the Hugging Face repository of the weights, or what else it is called.
        architecture: GGUF architecture.
        head_count: Heads of `attn_q`; 0 = not known, which only a base that permutes the rows minds.
        head_count_kv: Heads of `attn_k`; likewise.
    """

    name: str
    architecture: str
    head_count: int = 0
    head_count_kv: int = 0


def peft_tensors(weights: LoraWeights, base: PeftBase) -> dict[str, NDArray[np.floating]]:
    """PEFT's name of each matrix to its values: lora_A [r, d_in], lora_B [d_out, r], rows in Hugging Face's order.

    float16 where that changes no value, as in an adapter file with float16 inside, else float32. Targets of a smaller
    rank are padded with zeros to the largest: one `r` stands for all.

    Raises:
        AdapterError: A module or architecture that has no name there, or weights that are none.
        ModelError: The rows need the base's head counts, and they are not known.
    """
    _check(weights, base)
    arrays: dict[str, FloatArray] = {}
    for module, target in even_ranks(weights).targets.items():
        turned = _rows(module, target.b, base)
        for row, block in enumerate(target.layers):
            name = f"base_model.model.model.layers.{block}.{MODULES[module]}"
            arrays[f"{name}.lora_A.weight"] = np.ascontiguousarray(target.a[row])
            arrays[f"{name}.lora_B.weight"] = np.ascontiguousarray(turned[row])
    return _halved(arrays)


def _check(weights: LoraWeights, base: PeftBase) -> None:
    if base.architecture not in SUPPORTED_ARCHITECTURES:
        raise AdapterError(
            f"the adapter is for architecture `{shown(base.architecture, 40)}`, "
            f"PEFT folders are written for {', '.join(SUPPORTED_ARCHITECTURES)}",
            "export it as GGUF",
        )
    for module in validate(weights).targets:
        if module not in MODULES:
            raise AdapterError(
                f"the adapter changes the module `{shown(module, 40)}`, PEFT folders can hold {', '.join(MODULES)}",
                "export it as GGUF",
            )


def _rows(module: str, b: FloatArray, base: PeftBase) -> FloatArray:
    """Values of b, [layers, d_out, rank], with the order undone that the GGUF converter gave the rows."""
    if module not in _ROTATED or base.architecture != "llama":
        return b
    heads = base.head_count if module == "attn_q" else base.head_count_kv
    if heads < 1:
        raise ModelError(
            f"base model `{shown(base.name)}` is not on this machine, and the order of the rows of `{module}` "
            "depends on its heads",
            "`localhyper models list` shows which base models can be fetched",
        )
    if b.shape[1] % (2 * heads):
        raise AdapterError(f"the adapter has {b.shape[1]} rows for `{module}`, no even multiple of {heads} heads")
    return unpermute_for_base(b, heads, base.architecture)


def _halved(arrays: Mapping[str, FloatArray]) -> dict[str, NDArray[np.floating]]:
    """All as float16 where no value changes by it, else all as they are."""
    with np.errstate(over="ignore"):
        halves: dict[str, NDArray[np.floating]] = {name: array.astype(np.float16) for name, array in arrays.items()}
    same = all(np.array_equal(halves[name].astype(np.float32), array) for name, array in arrays.items())
    return halves if same else dict(arrays)


def peft_config(weights: LoraWeights, base: PeftBase) -> dict[str, object]:
    """`adapter_config.json`. Alpha is the rank, so that PEFT's alpha / r is 1: all scaling is in b."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": weights.rank,
        "lora_alpha": weights.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        **_targets(weights),
    }


def _targets(weights: LoraWeights) -> dict[str, object]:
    """Which modules of which blocks: PEFT has one list of blocks; where they differ, each is named with its block."""
    blocks = {target.layers for target in weights.targets.values()}
    if len(blocks) == 1:
        names = [MODULES[module].rpartition(".")[2] for module in weights.targets]
        return {"target_modules": sorted(names), "layers_to_transform": list(blocks.pop()), "layers_pattern": "layers"}
    pairs = [(block, module) for module, target in weights.targets.items() for block in target.layers]
    return {"target_modules": [f"layers.{block}.{MODULES[module]}" for block, module in sorted(pairs)]}


def write_peft_folder(
    folder: Path, weights: LoraWeights, base: PeftBase, metadata: AdapterMetadata, *, overwrite: bool = False
) -> None:
    """Write a PEFT folder, whole or not at all.

    Args:
        folder: Where it will be; the folders above it are made.
        weights: Any adapter, rows of b in the order of the GGUF base.
        base: The base model.
        metadata: Where the adapter comes from; goes into the tensor file's header as `localhyper.<field>`.
        overwrite: Whether an older PEFT folder there is replaced.

    Raises:
        AdapterError: Weights that PEFT cannot hold.
        ModelError: The rows need the base's head counts, and they are not known.
        LibraryError: Something is there already, or the folder cannot be written.
    """
    from safetensors.numpy import save

    check_room(folder, overwrite=overwrite)
    tensors, config = peft_tensors(weights, base), peft_config(weights, base)
    origin = {f"localhyper.{name}": str(value) for name, value in asdict(metadata).items()}
    try:
        with atomic_folder(folder) as temporary:
            # `format` is what transformers asks the header for before it reads tensors.
            (temporary / TENSORS).write_bytes(save(tensors, {"format": "pt", **origin}))
            (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        message = f"cannot write `{folder}`: {error.strerror}"
        raise LibraryError(message, "check the folder, its permissions and the space left") from error


def check_room(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a PEFT folder may go there: nothing is lost but an older one, and that only when asked for.

    Raises:
        LibraryError: Something is there already.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise LibraryError(f"`{folder}` exists already", "add --force to replace it")
    if not folder.is_dir():
        raise LibraryError(f"`{folder}` is a file, and a PEFT adapter is a folder", "name another place")
    for entry in folder.iterdir():
        if entry.name not in (CONFIG, TENSORS) or not entry.is_file():
            raise LibraryError(
                f"`{folder}` holds `{shown(entry.name)}`, which is no part of a PEFT adapter",
                "name another folder: this one is not replaced",
            )
