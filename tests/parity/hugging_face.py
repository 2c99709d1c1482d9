"""Base models of GGUF files as transformers has them: names, order of rows and norms as transformers wants them.

Written from the layouts, not with the code under test: the rows of queries and keys are put in order by an index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.tiny_gguf import TinySpec, tiny_weights

FloatArray = NDArray[np.float32]

COMMON = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_model(architecture: str, weights: Mapping[str, FloatArray], **sizes: Any) -> Any:
    """A causal language model with these GGUF weights; `sizes` are those of its configuration."""
    import transformers

    name = {"llama": "Llama", "qwen3": "Qwen3", "gemma2": "Gemma2"}[architecture]
    config = getattr(transformers, f"{name}Config")(tie_word_embeddings=True, attn_implementation="eager", **sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    state = {
        _name(key, architecture): torch.from_numpy(_value(key, array, architecture, config))
        for key, array in weights.items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # tied
    assert not unexpected
    return model


def _name(key: str, architecture: str) -> str:
    inner = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", key)
    if inner is None:
        return f"{TOP[key.removesuffix('.weight')]}.weight"
    names = {**COMMON, **(GEMMA if architecture == "gemma2" else {})}
    return f"model.layers.{inner[1]}.{names[inner[2]]}.weight"


def _value(key: str, array: FloatArray, architecture: str, config: Any) -> FloatArray:
    if architecture == "gemma2" and key.endswith("norm.weight"):
        return array - 1  # transformers adds the one itself, llama.cpp's converter beforehand
    if architecture == "llama" and key.endswith(("attn_q.weight", "attn_k.weight")):
        return array[_halves_of_pairs(len(array), config.head_dim)]
    return array


def _halves_of_pairs(rows: int, width: int) -> NDArray[np.int64]:
    """Where GGUF has each of transformers' rows: pair i of a head holds row i of its first and of its second half."""
    places = np.arange(rows)
    head, inner = places // width * width, places % width
    return head + 2 * (inner % (width // 2)) + inner // (width // 2)


def tiny_hugging_face(spec: TinySpec) -> Any:
    """The model of `write_tiny_gguf`."""
    weights = tiny_weights(spec)
    extra = {"query_pre_attn_scalar": spec.head_width} if spec.architecture == "gemma2" else {}
    return hugging_face_model(
        spec.architecture,
        weights,
        vocab_size=len(weights["token_embd.weight"]),
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads_kv,
        head_dim=spec.head_width,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_base},
        **extra,
    )


def logits(model: Any, ids: NDArray[np.int32]) -> FloatArray:
    """float32 [tokens, vocabulary]."""
    with torch.no_grad():
        found: FloatArray = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float().numpy()
    return found


@cache
def reference_model(name: str) -> Any:
    """A base model of the reference (`tests/parity/fixtures`) in transformers, float32; one for all tests."""
    import transformers
    from safetensors.torch import load_file

    fixtures = Path(__file__).parent / "fixtures"
    config = json.loads((fixtures / f"{name}.json").read_text(encoding="utf-8"))
    kind = {"gemma2": "Gemma2", "qwen3": "Qwen3", "mistral": "Mistral", "llama": "Llama"}[config["model_type"]]
    settings = getattr(transformers, f"{kind}Config")(**{**config, "attn_implementation": "eager"})
    model = getattr(transformers, f"{kind}ForCausalLM")(settings).float().eval()
    missing, unexpected = model.load_state_dict(load_file(fixtures / f"{name}.safetensors"), strict=False)
    assert set(missing) <= ({"lm_head.weight"} if settings.tie_word_embeddings else set())
    assert not unexpected
    return model
