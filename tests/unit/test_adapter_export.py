"""Adapters of the library as PEFT folders: the base that is found or missing, names, damaged and strange files."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from localhyper.adapter_export import export_peft, peft_target
from localhyper.base_header import read_base_info
from localhyper.errors import AdapterError, LibraryError, LocalHyperError, ModelError
from localhyper.gguf_adapter import AdapterMetadata, unpermute_for_base, write_adapter
from localhyper.library import AdapterInfo
from localhyper.lora import LoraWeights
from localhyper.paths import Paths
from localhyper.peft_folder import CONFIG, TENSORS
from localhyper.registry import load_registry
from tests.tiny_gguf import TinySpec, tiny_lora, write_tiny_gguf

SPEC = TinySpec()
OWN = """[base.tiny]
file = "tiny.gguf"
unquantized = "someone/tiny"
path = "{path}"
"""
A, B = np.ones((2, 96), np.float32), np.ones((64, 2), np.float32)
DOWN = "blk.0.ffn_down.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_tiny_gguf(tmp_path / "models" / "tiny.gguf")


def stored(folder: Path, model: Path, weights: LoraWeights, name: str = "lease") -> AdapterInfo:
    """A row of the library over a real file; the base's name has what a stranger's may have."""
    base = read_base_info(model)
    path = folder / "stored.gguf"
    write_adapter(path, weights, base, AdapterMetadata(name=name, base_fingerprint=base.fingerprint), "f32")
    return AdapterInfo(
        name, path, "k" * 64, "Title", "txt", "/x", "aa", "it's \u202etiny", base.fingerprint, "net", "cc", 3, 1.0, 10,
        1, path.stat().st_size, "2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def known(paths: Paths, model: Path) -> Paths:
    """Put the model into models.toml."""
    paths.models_file.parent.mkdir(parents=True, exist_ok=True)
    paths.models_file.write_text(OWN.format(path=model), encoding="utf-8")
    return paths


def config_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return found


def test_a_known_base_gives_its_repository_and_the_order_of_rows(tmp_path: Path, paths: Paths, model: Path) -> None:
    weights = tiny_lora(modules=("attn_q", "attn_k"))
    info = stored(tmp_path, model, weights)
    made = export_peft(info, load_registry(known(paths, model)), tmp_path / "new" / "lease")
    assert made.folder == tmp_path / "new" / "lease"
    assert config_of(made.folder)["base_model_name_or_path"] == made.base == "someone/tiny"
    found = load_file(made.folder / TENSORS)
    for module, part, heads in (("attn_q", "q_proj", SPEC.heads), ("attn_k", "k_proj", SPEC.heads_kv)):
        wanted = unpermute_for_base(weights.targets[module].b, heads, "llama")
        assert np.array_equal(found[f"base_model.model.model.layers.1.self_attn.{part}.lora_B.weight"], wanted[1])
    assert f"from_pretrained('someone/tiny')\nmodel = PeftModel.from_pretrained(base, '{made.folder}')" in made.python


def test_without_the_base_mlp_adapters_are_written_and_attention_is_not(
    tmp_path: Path, paths: Paths, model: Path
) -> None:
    registry = load_registry(paths)
    made = export_peft(stored(tmp_path, model, tiny_lora()), registry, tmp_path)
    assert made.folder == tmp_path / "lease-peft"
    assert made.base == "it's \u202etiny"
    lines = made.python
    assert "\u202e" not in lines
    compile(lines, "lines", "exec")
    with pytest.raises(ModelError, match=r"`it's \?tiny` is not on this machine") as caught:
        export_peft(stored(tmp_path, model, tiny_lora(modules=("attn_q",))), registry, tmp_path / "other")
    assert "models list" in caught.value.hint


def test_the_folder_is_the_one_named_or_one_in_it(tmp_path: Path, paths: Paths, model: Path) -> None:
    info, registry = stored(tmp_path, model, tiny_lora()), load_registry(paths)
    assert peft_target(tmp_path / "new", "lease") == tmp_path / "new"
    made = export_peft(info, registry, tmp_path)
    for to in (tmp_path, made.folder):
        with pytest.raises(LibraryError, match="lease-peft` exists already"):
            export_peft(info, registry, to)
        assert export_peft(info, registry, to, overwrite=True).folder == made.folder
    for name in ("../evil", "a/b", ".."):
        with pytest.raises(LibraryError, match="cannot be an adapter's name"):
            peft_target(tmp_path, name)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, paths: Paths, model: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", TinySpec(rope_base=500.0))
    row, file = stored(tmp_path, model, tiny_lora()), stored(tmp_path, other, tiny_lora())
    swapped = AdapterInfo(**{**vars(row), "path": file.path})
    with pytest.raises(AdapterError, match="made for another base model"):
        export_peft(swapped, load_registry(known(paths, model)), tmp_path / "out")


@pytest.mark.parametrize("here", [True, False], ids=["base here", "base not here"])
@pytest.mark.parametrize(
    ("words", "tensors"),
    [
        (r"lacks `blk\.0\.ffn_down\.weight\.lora_b`", {f"{DOWN}.lora_a": A}),
        (r"unexpected tensor `blk\.0\.ffn_down\.weight`", {DOWN: A}),
        (r"ssm_in", {"blk.0.ssm_in.weight.lora_a": A, "blk.0.ssm_in.weight.lora_b": B}),
        (r"blk\.00", {"blk.00.ffn_down.weight.lora_a": A, "blk.00.ffn_down.weight.lora_b": B}),
        ("blk\\.\u0660", {"blk.\u0660.ffn_down.weight.lora_a": A, "blk.\u0660.ffn_down.weight.lora_b": B}),
        (r"token_embd", {"token_embd.weight.lora_a": A, "token_embd.weight.lora_b": B}),
        (r"rank|no matching", {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": np.ones((64, 3), np.float32)}),
        (r"shape|no matching", {f"{DOWN}.lora_a": np.ones(96, np.float32), f"{DOWN}.lora_b": B}),
        (r"not finite", {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": B * np.inf}),
        (r"no tensors", {}),
    ],
)
def test_strange_adapters_are_one_line_and_leave_nothing(
    tmp_path: Path, paths: Paths, model: Path, words: str, tensors: dict[str, np.ndarray], here: bool
) -> None:
    info = stored(tmp_path, model, tiny_lora())
    write_tensors(info.path, tensors)
    with pytest.raises(LocalHyperError, match=words) as caught:
        export_peft(info, load_registry(known(paths, model) if here else paths), tmp_path / "out")
    assert caught.value.exit_code == AdapterError.exit_code
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert not (tmp_path / "out").exists()


def write_tensors(path: Path, tensors: dict[str, np.ndarray], alpha: float = 2.0) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_overflowing_scale_is_refused(tmp_path: Path, paths: Paths, model: Path) -> None:
    """Alpha / rank is folded into b, and may not fit there."""
    info = stored(tmp_path, model, tiny_lora())
    write_tensors(info.path, {f"{DOWN}.lora_a": A, f"{DOWN}.lora_b": B * 1e3}, alpha=3e38)
    with pytest.raises(AdapterError, match="not finite"):
        export_peft(info, load_registry(paths), tmp_path / "out")


def test_a_missing_file_is_said(tmp_path: Path, paths: Paths, model: Path) -> None:
    info = stored(tmp_path, model, tiny_lora())
    info.path.unlink()
    with pytest.raises(AdapterError, match="does not exist"):
        export_peft(info, load_registry(paths), tmp_path / "out")


def test_random_damage_ends_in_a_folder_or_one_line(tmp_path: Path, paths: Paths, model: Path) -> None:
    """Without the base, so that nothing but the reader stands before the writer."""
    info, registry = stored(tmp_path, model, tiny_lora(modules=("ffn_down", "ffn_up"))), load_registry(paths)
    data, random = info.path.read_bytes(), np.random.default_rng(5)
    refusals = 0
    for number in range(200):
        damaged = bytearray(data)
        for place in random.integers(0, 2500, 1 + number % 4):
            damaged[place] = random.integers(0, 256)
        info.path.write_bytes(damaged)
        try:
            export_peft(info, registry, tmp_path / "out", overwrite=True)
        except LocalHyperError as error:
            refusals += 1
            assert "\n" not in error.message
    assert refusals > 20
