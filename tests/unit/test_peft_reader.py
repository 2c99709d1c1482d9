"""PEFT folders read: spellings, factors, patterns, number formats, and one line for whatever cannot be taken."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localhyper.errors import AdapterError
from localhyper.pattern_match import PatternError, match_table
from localhyper.peft_reader import read_peft
from tests.peft_files import PREFIX, bfloat16_file, pair, write_peft

MODULE = f"{PREFIX}.0.mlp.down_proj"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.3.self_attn.q_proj.lora_{}.weight",
        "base_model.model.model.layers.3.self_attn.q_proj.lora_{}.default.weight",
        "base_model.model.layers.3.self_attn.q_proj.lora_{}.weight",
        "model.layers.3.self_attn.q_proj.lora_{}.weight",
        "layers.3.self_attn.q_proj.lora_{}.my-adapter.weight",
    ],
)
def test_every_spelling_of_a_name_is_one_matrix(tmp_path: Path, name: str) -> None:
    plain = pair()
    tensors = {name.format("A"): plain[A], name.format("B"): plain[B]}
    found = read_peft(write_peft(tmp_path / "x", tensors, target_modules=["q_proj"]))
    target = found.weights.targets["attn_q"]
    assert target.layers == (3,)
    assert np.array_equal(target.a[0], plain[A])
    assert np.array_equal(target.b[0], 2 * plain[B])  # alpha 8 / rank 4


@pytest.mark.parametrize(
    ("fields", "factor"),
    [
        ({}, 2.0),
        ({"lora_alpha": 6.5}, 6.5 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"down_proj": 1}}, 0.25),
        ({"alpha_pattern": {"up_proj": 1}}, 2.0),
        ({"alpha_pattern": {"proj": 1}}, 2.0),  # a pattern begins after a dot
        ({"alpha_pattern": {"model.layers.0.mlp.down_proj": 4}}, 1.0),
        ({"alpha_pattern": {r"layers\.[0-3]\..*_proj": 16, "down_proj": 1}}, 4.0),  # the first match counts
        ({"alpha_pattern": {"^model.layers.0.mlp.down_proj": 16}}, 4.0),
        ({"r": 9, "rank_pattern": {r".*\.down_proj": 4}}, 2.0),
        ({"r": 16, "rank_pattern": {"down_proj": 4}, "alpha_pattern": {"mlp.down_proj": 2}, "use_rslora": True}, 1.0),
        ({"target_modules": r".*\.(up|down)_proj"}, 2.0),
        ({"target_modules": "all-linear", "init_lora_weights": "gaussian"}, 2.0),
        ({"layers_to_transform": [0, 2], "layers_pattern": "layers"}, 2.0),
        ({"layers_to_transform": 0, "lora_dropout": 0.1, "loftq_config": {}, "peft_version": "0.21.2"}, 2.0),
    ],
)
def test_the_factor_is_pefts(tmp_path: Path, fields: dict[str, Any], factor: float) -> None:
    found = read_peft(write_peft(tmp_path / "x", **fields)).weights.targets["ffn_down"]
    assert np.allclose(found.b[0], factor * pair()[B], rtol=1e-6)


def test_ranks_that_differ_are_filled_up_with_zeros(tmp_path: Path) -> None:
    tensors = {**pair(2), **pair(4, name=f"{PREFIX}.1.mlp.down_proj")}
    folder = write_peft(tmp_path / "x", tensors, r=4, rank_pattern={"layers.0.mlp.down_proj": 2})
    target = read_peft(folder).weights.targets["ffn_down"]
    assert target.a.shape == (2, 4, 96)
    assert np.allclose(target.b[0] @ target.a[0], 4 * tensors[B] @ tensors[A], atol=1e-5)


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    tensors = pair()
    folder = write_peft(
        tmp_path / "x", {name: array.astype(np.float16) for name, array in tensors.items()}, lora_alpha=4
    )
    found = read_peft(folder)
    assert np.array_equal(found.weights.targets["ffn_down"].b[0], tensors[B].astype(np.float16).astype(np.float32))
    assert found.half


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_bfloat16_is_read_exactly_without_torch(tmp_path: Path, size: float) -> None:
    tensors = {name: array * np.float32(size) for name, array in pair().items()}
    folder = write_peft(tmp_path / "x", lora_alpha=4)
    (folder / "adapter_model.safetensors").write_bytes(bfloat16_file(tensors))
    found = read_peft(folder)
    wanted = (tensors[B].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert np.array_equal(found.weights.targets["ffn_down"].b[0], wanted)
    assert found.half == (size == 1.0), "its eight bits fit into float16, its range does not"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "of type `IA3`"),
        ({"peft_type": "ADALORA"}, "of type `ADALORA`"),
        ({"peft_type": None}, "of type `None`"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "retrained modules"),
        ({"trainable_token_indices": [1, 2]}, "token embeddings"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"lora_bias": True}, "biases"),
        ({"bias": "all"}, "`bias` is `all`"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"layer_replication": [[0, 1]]}, "repeats blocks"),
        ({"target_parameters": ["experts"]}, "no linear layers"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"arrow_config": {"top_k": 3}}, "Arrow"),
        ({"task_type": "SEQ_CLS"}, "task `SEQ_CLS`"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed weights of its base model"),
        ({"init_lora_weights": "olora"}, "`init_lora_weights` is `olora`"),
        ({"init_lora_weights": "loftq"}, "quantization of its own"),
        ({"init_lora_weights": "corda"}, "changed weights"),
        ({"init_lora_weights": "mica"}, "not known here"),
        ({"use_everything": {"x": 1}}, "sets `use_everything`"),
        ({"r": 0}, "`r` is 0"),
        ({"r": True}, "`r` is True"),
        ({"r": "8"}, "`r` is '8'"),
        ({"r": 5}, "has rank 4, its configuration says 5"),
        ({"lora_alpha": None}, "`lora_alpha` is None"),
        ({"lora_alpha": float("nan")}, "`lora_alpha` is nan"),
        ({"rank_pattern": [1]}, "`rank_pattern` is no JSON object"),
        ({"alpha_pattern": {"(": 1}}, "no regular expression"),
        ({"target_modules": ["up_proj"]}, "does not adapt"),
        ({"target_modules": [1]}, "neither a list"),
        ({"target_modules": None}, "does not adapt"),
        ({"exclude_modules": ["down_proj"]}, "does not adapt"),
        ({"layers_to_transform": [1]}, "does not adapt"),
        ({"layers_to_transform": ["x"]}, "no list of blocks"),
    ],
)
def test_what_is_no_ordinary_lora_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        read_peft(write_peft(tmp_path / "x", **fields))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{MODULE}.lora_magnitude_vector", "DoRA"),
        ("base_model.model.lm_head.lora_A.weight", "output head"),
        ("base_model.model.lm_head.weight", "output head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "token embeddings"),
        ("base_model.model.model.embed_tokens.weight", "token embeddings"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "retrained token"),
        ("base_model.model.score.modules_to_save.weight", "retrained module"),
        (f"{MODULE}.base_layer.weight", "weights of the base"),
        (f"{MODULE}.lora_B.bias", "a bias"),
        (f"{PREFIX}.0.input_layernorm.weight", "a norm"),
        (f"{PREFIX}.0.mlp.experts.3.down_proj.lora_A.weight", "experts"),
        (f"{PREFIX}.0.self_attn.qkv_proj.lora_A.weight", "no known module, known are q_proj"),
        (f"{PREFIX}.00.mlp.down_proj.lora_A.weight", "no LoRA matrix"),
        (f"{PREFIX}.٣.mlp.down_proj.lora_A.weight", "no LoRA matrix"),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", "no LoRA matrix"),
        ("x\x1b[2J\n", "no LoRA matrix"),
    ],
)
def test_what_is_no_matrix_of_a_block_is_never_left_out_silently(tmp_path: Path, name: str, words: str) -> None:
    folder = write_peft(tmp_path / "x", {**pair(), name: np.ones((2, 3), np.float32)}, target_modules="all-linear")
    with pytest.raises(AdapterError) as caught:
        read_peft(folder)
    assert words in caught.value.message
    assert caught.value.message.isprintable()


def test_halves_shapes_and_two_adapters_in_one_file(tmp_path: Path) -> None:
    good = pair()
    twice = {**good, A.replace("lora_A", "lora_A.other"): good[A]}
    other = {**good, **pair(name="model.layers.0.mlp.down_proj"), **pair(name="layers.0.mlp.down_proj")}
    cases = {
        r"lacks `lora_B`": {A: good[A]},
        r"lacks `lora_A`": {B: good[B]},
        r"holds two adapters": twice,
        r"holds two adapters for": other,
        r"A \[4, 96\], B \[64, 3\]": {A: good[A], B: good[B][:, :3]},
        r"A \[384\]": {A: good[A].reshape(-1), B: good[B]},
        r"different widths": {**good, **pair(d_in=95, name=f"{PREFIX}.1.mlp.down_proj")},
        r"A \[4, 0\]": {A: good[A][:, :0].copy(), B: good[B]},
        r"not finite": {A: good[A], B: good[B] * np.inf},
        r"holds no matrices": {},
    }
    for words, tensors in cases.items():
        with np.errstate(all="ignore"), pytest.raises(AdapterError, match=words):
            read_peft(write_peft(tmp_path / "x", tensors))


def test_a_factor_that_overflows_is_refused(tmp_path: Path) -> None:
    tensors = pair()
    tensors[B] *= np.float32(1e32)
    with pytest.raises(AdapterError, match="not finite"):
        read_peft(write_peft(tmp_path / "x", tensors, lora_alpha=1e9))


def test_one_of_the_files_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "x")
    for path in (folder, folder / "adapter_config.json", folder / "adapter_model.safetensors"):
        assert read_peft(path).base == "someone/tiny"


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "x")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="is a pickle") as caught:
        read_peft(folder)
    assert "safe_serialization" in caught.value.hint
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match=r"has no `adapter_model\.safetensors`"):
        read_peft(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="is no PEFT adapter"):
        read_peft(folder)


def test_a_pattern_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localhyper.pattern_match.SECONDS", 1.0)
    folder = write_peft(tmp_path / "x", alpha_pattern={r"(.*)*(.*)*(.*)*x": 1})
    with pytest.raises(AdapterError, match="take longer than 1 seconds"):
        read_peft(folder)


def test_patterns_are_bounded() -> None:
    with pytest.raises(PatternError, match="more than 1000"):
        match_table(["a" * 1001], ["x"], "{}")
    with pytest.raises(PatternError, match="5000 patterns"):
        match_table(["a"] * 5000, ["x"], "{}")
    assert match_table(["a.c", "(b)"], ["abc", "b"], r"(?:{})\Z") == [[True, False], [False, True]]


def test_the_configuration_is_json_of_a_bounded_size(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "x")
    config = folder / "adapter_config.json"
    deep = '{"r": ' + "[" * 200_000 + "]" * 200_000 + "}"
    for text, words in (
        ("", "no JSON"),
        ("[]", "no JSON object"),
        (deep, "no JSON"),
        ("\xff\xfe", "of type|no JSON"),
        (json.dumps({"x": "y" * (1 << 22)}), "more than"),
    ):
        config.write_bytes(text.encode("latin-1"))
        with pytest.raises(AdapterError, match=words):
            read_peft(folder)
