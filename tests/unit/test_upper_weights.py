"""Which base models' upper blocks are computed here, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from localhyper.engine import FloatArray
from localhyper.lora import LoraTarget, LoraWeights
from localhyper.upper_blocks import Factor, Lesson, UpperBlocks
from localhyper.upper_weights import NotComputedHereError, check_upper, read_upper
from tests.tiny_gguf import TinySpec, reference_forward, tiny_weights, write_tiny_gguf

IDS = np.arange(40, 52).astype(np.int32)


def lesson(spec: TinySpec, start: int) -> Lesson:
    """The last three tokens of a sequence, from a block on."""
    states = reference_forward(spec, IDS).taps[start]
    places = np.array([8, 9, 10], np.int32)
    return Lesson(states, (len(IDS),), places, IDS[places + 1], np.full(3, 1 / 3, np.float32))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_logits_are_those_of_an_independent_forward_under_factors_and_adapters_alike(
    architecture: str, tmp_path: Path
) -> None:
    spec = TinySpec(architecture, blocks=3)
    upper = UpperBlocks(read_upper(write_tiny_gguf(tmp_path / "t.gguf", spec), 1))
    given = lesson(spec, 1)
    plain = upper.logits(given)
    np.testing.assert_allclose(plain, reference_forward(spec, IDS).logits[given.places], atol=2e-4)
    random = np.random.default_rng(1)
    a, b = random.normal(size=(4, spec.ffn)).astype(np.float32), random.normal(size=(spec.hidden, 4)).astype(np.float32)
    delta: FloatArray = (0.1 * b @ a).astype(np.float32)
    wanted = reference_forward(spec, IDS, {"blk.2.ffn_down.weight": delta}).logits[given.places]
    np.testing.assert_allclose(upper.logits(given, {(2, "ffn_down"): Factor(a, 0.1 * b)}), wanted, atol=2e-4)
    # Blocks that are not there are left out: an adapter has them all.
    adapter = LoraWeights({"ffn_down": LoraTarget((0, 2), np.stack([a, a]), np.stack([b, 0.1 * b]))})
    inside = UpperBlocks(upper.weights.with_adapter(adapter))
    np.testing.assert_allclose(inside.logits(given), wanted, atol=2e-4)
    np.testing.assert_array_equal(upper.logits(given), plain)


def test_other_sequences_change_nothing(tmp_path: Path) -> None:
    spec = TinySpec(blocks=2)
    upper = UpperBlocks(read_upper(write_tiny_gguf(tmp_path / "t.gguf", spec), 0))
    one = lesson(spec, 0)
    other = np.random.default_rng(2).normal(size=(5, spec.hidden)).astype(np.float32)
    both = Lesson(
        np.concatenate([other, one.states]), (5, len(IDS)), np.asarray(one.places + 5), one.wanted, one.shares
    )
    np.testing.assert_allclose(upper.logits(both), upper.logits(one), atol=1e-5)


def write_with(path: Path, change: str) -> Path:
    """A tiny model with something unusual."""
    spec, metadata = TinySpec(blocks=2), dict[str, Any]()
    if change == "yarn":
        metadata = {"llama.rope.scaling.type": "yarn"}
    if change == "scale":
        metadata = {"llama.attention.scale": 3}
    write_tiny_gguf(path, TinySpec(blocks=2, metadata=metadata))
    if change in ("bias", "norm"):
        _rewrite(path, {f"blk.1.{'attn_q.bias' if change == 'bias' else 'attn_q_norm.weight'}": np.ones(spec.hidden)})
    return path


def _rewrite(path: Path, added: dict[str, np.ndarray]) -> None:
    """The same file with more tensors."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, array in added.items():
        writer.add_tensor(name, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("yarn", "rotary embedding is scaled by `yarn`"),
        ("scale", "has `llama.attention.scale`"),
        ("bias", "has `blk.1.attn_q.bias`"),
        ("norm", "has `blk.1.attn_q_norm.weight`"),
    ],
)
def test_what_is_not_computed_is_named(change: str, said: str, tmp_path: Path) -> None:
    path = write_with(tmp_path / "t.gguf", change)
    with pytest.raises(NotComputedHereError, match=said):
        check_upper(path, 1)
    with pytest.raises(NotComputedHereError, match=said):
        read_upper(path, 1)


def test_stretched_frequencies_are_divided_and_others_than_wanted_are_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf", TinySpec(blocks=2))
    plain = read_upper(path, 1).shape.frequencies
    factors = np.linspace(1, 8, len(plain))
    _rewrite(path, {"rope_freqs.weight": factors})
    np.testing.assert_allclose(read_upper(path, 1).shape.frequencies, plain / factors, rtol=1e-6)
    other = write_tiny_gguf(tmp_path / "u.gguf", TinySpec(blocks=2))
    _rewrite(other, {"rope_freqs.weight": np.ones(3)})
    with pytest.raises(NotComputedHereError, match=r"`rope_freqs.weight` has shape \[3\], wanted \[8\]"):
        read_upper(other, 1)


def test_only_the_blocks_that_are_read_count(tmp_path: Path) -> None:
    path = write_with(tmp_path / "t.gguf", "bias")
    _rewrite(path, {"blk.0.attn_v.bias": np.ones(32)})
    with pytest.raises(NotComputedHereError, match=r"blk\.1\.attn_q\.bias"):
        check_upper(path, 1)
    plain = write_tiny_gguf(tmp_path / "u.gguf", TinySpec(blocks=3))
    _rewrite(plain, {"blk.0.attn_v.bias": np.ones(32)})
    check_upper(plain, 1)


def test_a_model_too_large_for_memory_is_turned_down_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf", TinySpec(blocks=2))
    floats = sum(array.size for name, array in tiny_weights(TinySpec(blocks=2)).items() if array.ndim == 2)
    monkeypatch.setattr("localhyper.upper_weights.available_memory", lambda: 8 * floats)
    check_upper(path, 0)
    with pytest.raises(NotComputedHereError, match="take"):
        check_upper(path, 0, tokens=1)
    monkeypatch.setattr("localhyper.upper_weights.available_memory", lambda: 7 * floats)
    with pytest.raises(NotComputedHereError, match="take"):
        check_upper(path, 0)
    monkeypatch.setattr("localhyper.upper_weights.available_memory", lambda: None)
    check_upper(path, 0)
