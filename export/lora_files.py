"""LoRAs of many tasks on disk, one safetensors file a task, and as GGUF adapters for llama.cpp.

A file `NAME.safetensors` holds `a.MODULE` [blocks, rank, inputs] and `b.MODULE` [blocks, outputs, rank], float32, rows
in the order of the GGUF base, without the LoRA scaling. An adapter has the scaling in b, like all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from localhyper.atomic import write_bytes_atomic
from localhyper.engine import BaseModelInfo
from localhyper.errors import ConfigError
from localhyper.export.task_hypernetwork import TaskConfig, module_widths
from localhyper.export.text_to_lora import LoraPair
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.gguf_writer import Dtype
from localhyper.lora import FloatArray, LoraTarget, LoraWeights

SUFFIX = ".safetensors"
_STRANGE = re.compile(r"[^A-Za-z0-9._-]+")


def file_name(name: str, suffix: str = SUFFIX) -> str:
    """The file of a task's LoRA."""
    return _STRANGE.sub("_", name) + suffix


def write_lora(folder: Path, name: str, pairs: Mapping[str, LoraPair]) -> None:
    """Write one task's LoRA: pairs without a task axis."""
    tensors = {f"{side}.{module}": getattr(pair, side).float() for module, pair in pairs.items() for side in "ab"}
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    write_bytes_atomic(folder / file_name(name), data)


def read_lora(path: Path, config: TaskConfig) -> dict[str, LoraPair]:
    """One task's LoRA.

    Raises:
        ConfigError: Missing, damaged, or of other sizes.
    """
    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except Exception as error:  # safetensors has a class of its own, which is no OSError or ValueError
        raise ConfigError(f"LoRA file {path} cannot be read: {error}", "train it again") from None
    shapes = lora_shapes(config)
    got = {key: tuple(value.shape) for key, value in tensors.items()}
    if got != shapes:
        different = sorted(set(got.items()) ^ set(shapes.items()))[0]
        raise ConfigError(f"LoRA file {path} does not fit the recipe: {different[0]} {list(different[1])}")
    return {name: LoraPair(tensors[f"a.{name}"], tensors[f"b.{name}"]) for name in config.modules}


def lora_shapes(config: TaskConfig) -> dict[str, tuple[int, int, int]]:
    """Shape of each tensor of a file."""
    shapes = {}
    for name in config.modules:
        inputs, outputs = module_widths(config)[name]
        shapes[f"a.{name}"] = (config.blocks, config.rank, inputs)
        shapes[f"b.{name}"] = (config.blocks, outputs, config.rank)
    return shapes


def write_task_adapter(
    path: Path,
    name: str,
    pairs: Mapping[str, LoraPair],
    config: TaskConfig,
    base: BaseModelInfo,
    dtype: Dtype = "f16",
) -> None:
    """Write one task's LoRA as a GGUF adapter: pairs without a task axis.

    Raises:
        AdapterError: It does not fit the base, or has values that are not finite in float16.
    """
    layers = tuple(range(config.blocks))
    targets = {
        module: LoraTarget(layers, _array(pair.a), _array(pair.b * config.scaling)) for module, pair in pairs.items()
    }
    metadata = AdapterMetadata(
        name=name, source_title=name, source_kind="task", base_fingerprint=base.fingerprint, rank=config.rank
    )
    write_adapter(path, LoraWeights(targets), base, metadata, dtype)


def _array(tensor: Tensor) -> FloatArray:
    values: FloatArray = tensor.detach().to(torch.float32).cpu().contiguous().numpy()
    return values
