"""Base models of transformers as GGUF files: the tensors of a Llama, Mistral, Gemma 2 or Qwen3 in llama.cpp's layout.

The other direction of `hugging_face.py`, written from the layouts, not with the code under test: rows of queries and
keys are put in order by an index. The tokenizer is `tiny_gguf`'s, padded to the vocabulary of the configuration.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.parity.hugging_face import COMMON, GEMMA, TOP
from tests.tiny_gguf import CHATML, CONTROL, MERGES, tiny_tokens

FloatArray = NDArray[np.float32]

FIXTURES = Path(__file__).parent / "fixtures"
REFERENCE_BASES = ("base_gemma2", "base_qwen3", "base_mistral", "base_llama")
# model_type to GGUF architecture: llama.cpp knows a Mistral as a llama.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "gemma2": "gemma2", "qwen3": "qwen3"}
_UNUSED = 5  # llama.cpp's kind of a token that only pads the vocabulary


def write_reference_base(name: str, path: Path) -> Path:
    """Write one of `REFERENCE_BASES` (`tests/parity/fixtures`) as a float32 GGUF file."""
    from safetensors.numpy import load_file

    config = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return write_gguf_base(path, config, load_file(FIXTURES / f"{name}.safetensors"), name=name)


def write_gguf_model(path: Path, model: Any, **options: Any) -> Path:
    """Write a causal language model of transformers; `options` are those of `write_gguf_base`."""
    tensors = {key: value.detach().float().numpy() for key, value in model.state_dict().items()}
    return write_gguf_base(path, model.config.to_dict(), tensors, **options)


def write_gguf_base(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    name: str = "parity",
    chat_template: str = CHATML,
    add_bos: bool = False,
) -> Path:
    """Write a base model as a float32 GGUF file.

    Args:
        path: Where to.
        config: `config.json` of the model, in the spelling of transformers 4 or 5.
        tensors: Name in transformers to values `[outputs, inputs]`.
        name: `general.name`.
        chat_template: Jinja source; empty = none.
        add_bos: Whether llama.cpp puts the beginning-of-text token in front by itself.
    """
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_hyperparameters(writer, config, architecture)
    _add_tokenizer(writer, config["vocab_size"], chat_template, add_bos)
    for key, array in gguf_tensors(config, tensors).items():
        writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def head_width(config: Mapping[str, Any]) -> int:
    """Width of one attention head, which need not be hidden size / heads."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base and scaling of the rotary embedding; transformers 5 has them in one place, transformers 4 in two."""
    found = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    return {"rope_theta": config.get("rope_theta"), **found}


def _add_hyperparameters(writer: gguf.GGUFWriter, config: Mapping[str, Any], architecture: str) -> None:
    width = head_width(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if architecture == "llama":
        writer.add_rope_dimension_count(width)
    if architecture == "gemma2":
        # llama.cpp knows one scale of queries, that of the head's width (but for the 27B model, told by its 46 blocks).
        assert config["query_pre_attn_scalar"] == width, "llama.cpp cannot scale queries by anything else"
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int, chat_template: str, add_bos: bool) -> None:
    tokens = tiny_tokens()
    padding = [f"[PAD{index}]" for index in range(len(tokens), vocabulary)]
    assert len(tokens) + len(padding) == vocabulary, f"{vocabulary} tokens are fewer than bytes and control tokens"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*tokens, *padding])
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens] + [_UNUSED] * len(padding))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(add_bos)
    if chat_template:
        writer.add_chat_template(chat_template)


def gguf_tensors(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
    """GGUF's name of each tensor to its values in llama.cpp's layout, float32."""
    architecture = ARCHITECTURES[config["model_type"]]
    tied = config.get("tie_word_embeddings", architecture == "gemma2")
    found = {
        gguf_name(key, architecture): _value(key, np.asarray(array, np.float32), config, architecture)
        for key, array in tensors.items()
        if not (tied and key == "lm_head.weight")
    }
    frequencies = _frequency_factors(config)
    return found if frequencies is None else {**found, "rope_freqs.weight": frequencies}


def gguf_name(key: str, architecture: str) -> str:
    """GGUF's name of a tensor of transformers."""
    inner = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", key)
    if inner is None:
        tops = {name: short for short, name in TOP.items()}
        return f"{tops[key.removesuffix('.weight')]}.weight"
    names = {name: short for short, name in {**COMMON, **(GEMMA if architecture == "gemma2" else {})}.items()}
    return f"blk.{inner[1]}.{names[inner[2]]}.weight"


def _value(key: str, array: FloatArray, config: Mapping[str, Any], architecture: str) -> FloatArray:
    if architecture == "gemma2" and key.endswith("norm.weight"):
        return array + 1  # llama.cpp's norms have the one inside, transformers adds it while computing
    if architecture == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
        return np.ascontiguousarray(array[pairs_of_halves(len(array), head_width(config))])
    return np.ascontiguousarray(array)


def pairs_of_halves(rows: int, width: int) -> NDArray[np.int64]:
    """Where transformers has each of GGUF's rows: pair i of a head is row i of its first and of its second half."""
    places = np.arange(rows)
    head, inner = places // width * width, places % width
    return head + inner // 2 + inner % 2 * (width // 2)


def _frequency_factors(config: Mapping[str, Any]) -> FloatArray | None:
    """What each frequency of Llama 3.1's stretched rotary embedding is divided by, float32 [head width / 2].

    Wavelengths up to the old window's share `high` stay, those beyond its share `low` are divided by the whole
    factor, and between the two the inverse goes linearly (Meta's `apply_scaling`, llama-models).
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    window, width = rope["original_max_position_embeddings"], head_width(config)
    factors = []
    for step in range(0, width, 2):
        turns = window / (2 * math.pi * rope["rope_theta"] ** (step / width))  # full turns inside the old window
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - share) / factor + share))
    return np.array(factors, np.float32)
