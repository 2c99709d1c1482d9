"""Base model headers: facts, fingerprint, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from localhyper.base_header import read_base_header, read_base_info
from localhyper.errors import ModelError
from tests.tiny_gguf import CONTROL, TinySpec, tiny_tokens, tiny_weights, write_tiny_gguf


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_facts_are_read_from_the_header(tmp_path: Path, architecture: str) -> None:
    spec = TinySpec(architecture)
    path = write_tiny_gguf(tmp_path / "m.gguf", spec)
    info = read_base_info(path)
    assert (info.name, info.architecture, info.block_count) == (f"tiny-{architecture}", architecture, spec.blocks)
    assert (info.hidden_size, info.ffn_size, info.context_length) == (spec.hidden, spec.ffn, spec.context)
    assert (info.head_count, info.head_count_kv) == (spec.heads, spec.heads_kv)
    assert (info.vocab_size, info.quantization) == (len(tiny_tokens()), "F32")
    assert info.size_bytes == path.stat().st_size
    assert info.parameter_count == sum(array.size for array in tiny_weights(spec).values())


def test_header_carries_template_control_tokens_and_cache_size(tmp_path: Path) -> None:
    spec = TinySpec()
    header = read_base_header(write_tiny_gguf(tmp_path / "m.gguf", spec))
    assert header.chat_template == spec.chat_template
    assert header.control_tokens == CONTROL
    assert header.kv_bytes_per_token == 2 * 2 * spec.blocks * spec.heads_kv * spec.head_width
    assert header.shapes["blk.1.ffn_down.weight"] == (spec.ffn, spec.hidden)


def test_fingerprint_is_the_documented_hash(tmp_path: Path) -> None:
    spec = TinySpec()
    info = read_base_info(write_tiny_gguf(tmp_path / "m.gguf", spec))
    hyperparameters = {
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
        "llama.attention.value_length": 16,
        "llama.block_count": 2,
        "llama.context_length": 1024,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
    }
    content = {"architecture": "llama", "hyperparameters": hyperparameters, "tokens": tiny_tokens()}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert info.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_fingerprint_knows_sizes_but_not_weights_or_names(tmp_path: Path) -> None:
    def of(name: str, spec: TinySpec) -> str:
        return read_base_info(write_tiny_gguf(tmp_path / name, spec)).fingerprint

    same = of("a.gguf", TinySpec())
    assert same == of("b.gguf", TinySpec(seed=9, metadata={"general.author": "someone"}))
    assert same != of("c.gguf", TinySpec(rope_base=500000.0))
    assert same != of("d.gguf", TinySpec(blocks=3))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    assert read_base_info(write_tiny_gguf(path, TinySpec())).block_count == 2
    assert read_base_info(write_tiny_gguf(path, TinySpec(blocks=3))).block_count == 3


def patched(path: Path, key: str, value: float) -> Path:
    """A model file with the 4 bytes of one scalar overwritten."""
    data = bytearray(write_tiny_gguf(path).read_bytes())
    at = data.index(key.encode()) + len(key) + 4
    data[at : at + 4] = struct.pack("<f" if isinstance(value, float) else "<I", value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 3),
        ("llama.block_count", 2**32 - 1),
        ("llama.context_length", 0),
        ("llama.embedding_length", 0),
        ("llama.embedding_length", 128),
        ("llama.feed_forward_length", 95),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", 1000),
        ("llama.attention.head_count_kv", 0),
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.key_length", 8),
        ("llama.attention.value_length", 2**31),
        ("llama.rope.dimension_count", 12),
        ("llama.rope.freq_base", float("inf")),
        ("llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("llama.attention.layer_norm_rms_epsilon", -1.0),
    ],
)
def test_numbers_that_native_code_would_abort_on_are_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(ModelError, match="is unusable"):
        read_base_info(patched(tmp_path / "m.gguf", key, value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.rope.scaling.type", "llama3", "wanted none, linear"),
        ("llama.expert_count", 8, "experts"),
        ("llama.expert_used_count", 2, "experts"),
        ("llama.nextn_predict_layers", 9, "predicting heads"),
        ("split.count", 2, "several files"),
    ],
)
def test_variants_that_native_code_would_abort_on_are_refused(
    tmp_path: Path, key: str, value: str | int, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        read_base_info(write_tiny_gguf(tmp_path / "m.gguf", TinySpec(metadata={key: value})))


@pytest.mark.parametrize(("old", "new"), [("b", "a"), ("b", ""), ("c", "[EMPTY_99]")])
def test_vocabularies_that_native_code_would_abort_on_are_refused(
    tmp_path: Path, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tiny_tokens()
    tokens[99] = ""
    twice = [new if token == old else token for token in tokens] if new else [*tokens[:-1], "[EMPTY_99]"]
    monkeypatch.setattr("tests.tiny_gguf.tiny_tokens", lambda: twice)
    with pytest.raises(ModelError, match="twice"):
        read_base_info(write_tiny_gguf(tmp_path / "m.gguf", TinySpec()))


@pytest.mark.parametrize(("kind", "words"), [("rwkv", "wanted one of gpt2, llama"), ("llama", "byte tokens")])
def test_tokenizers_that_cannot_be_used_are_refused(
    tmp_path: Path, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    add = gguf.GGUFWriter.add_tokenizer_model
    monkeypatch.setattr(gguf.GGUFWriter, "add_tokenizer_model", lambda writer, _kind: add(writer, kind))
    with pytest.raises(ModelError, match=words):
        read_base_info(write_tiny_gguf(tmp_path / "m.gguf", TinySpec()))


def test_the_patch_itself_does_no_harm(tmp_path: Path) -> None:
    assert read_base_info(patched(tmp_path / "m.gguf", "llama.context_length", 2048)).context_length == 2048


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", TinySpec("mamba"))
    with pytest.raises(ModelError, match=r"architecture `mamba`, supported are gemma2, llama, qwen3"):
        read_base_info(path)


def test_a_missing_file_and_a_folder_have_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_base_info(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="is not a file"):
        read_base_info(tmp_path)
