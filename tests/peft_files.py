"""PEFT folders by hand, for tests of the reader: any configuration, any tensors, any bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

PREFIX = "base_model.model.model.layers"
CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "someone/tiny",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["down_proj"],
}


def pair(
    rank: int = 4, d_in: int = 96, d_out: int = 64, name: str = f"{PREFIX}.0.mlp.down_proj", seed: int = 0
) -> dict[str, np.ndarray]:
    """Both matrices of one module, float32."""
    random = np.random.default_rng(seed)
    return {
        f"{name}.lora_A.weight": random.normal(size=(rank, d_in)).astype(np.float32),
        f"{name}.lora_B.weight": random.normal(size=(d_out, rank)).astype(np.float32),
    }


def write_peft(
    folder: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """A folder with these tensors and this configuration; `fields` are laid over it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**(CONFIG if config is None else config), **fields})
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    found = pair() if tensors is None else dict(tensors)
    (folder / "adapter_model.safetensors").write_bytes(save(found, {"format": "pt"}))
    return folder


def raw_file(rows: Mapping[str, Any], data: bytes) -> bytes:
    """A safetensors file with this header, right or wrong, and these bytes."""
    header = json.dumps(rows).encode()
    return len(header).to_bytes(8, "little") + header + data


def bfloat16_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file of bfloat16: the upper halves of these float32 values."""
    rows, data = {}, b""
    for name, array in tensors.items():
        raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        rows[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return raw_file(rows, data)
