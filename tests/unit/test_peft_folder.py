"""PEFT folders: names, values, order of rows, configuration, and what is refused or left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from localhyper.errors import AdapterError, LibraryError, LocalHyperError, ModelError
from localhyper.gguf_adapter import AdapterMetadata
from localhyper.lora import LoraTarget, LoraWeights
from localhyper.peft_folder import CONFIG, MODULES, TENSORS, PeftBase, peft_config, peft_tensors, write_peft_folder
from tests.tiny_gguf import TinySpec, tiny_lora

SPEC = TinySpec()
BASE = PeftBase("someone/tiny", "llama", SPEC.heads, SPEC.heads_kv)
DOWN = "base_model.model.model.layers.1.mlp.down_proj"


def written(folder: Path, weights: LoraWeights, base: PeftBase = BASE) -> dict[str, np.ndarray]:
    write_peft_folder(folder, weights, base, AdapterMetadata(name="lease"))
    return load_file(folder / TENSORS)


def test_every_module_comes_back_with_its_values(tmp_path: Path) -> None:
    weights = tiny_lora(modules=tuple(MODULES))
    found = written(tmp_path / "out", weights)
    assert len(found) == len(MODULES) * SPEC.blocks * 2
    for module, target in weights.targets.items():
        for row, block in enumerate(target.layers):
            name = f"base_model.model.model.layers.{block}.{MODULES[module]}"
            assert np.array_equal(found[f"{name}.lora_A.weight"], target.a[row])
            if module not in ("attn_q", "attn_k"):
                assert np.array_equal(found[f"{name}.lora_B.weight"], target.b[row])
    assert found[f"{DOWN}.lora_A.weight"].shape == (3, SPEC.ffn)
    assert found[f"{DOWN}.lora_B.weight"].shape == (SPEC.hidden, 3)


@pytest.mark.parametrize(("module", "heads"), [("attn_q", SPEC.heads), ("attn_k", SPEC.heads_kv)])
def test_rows_of_queries_and_keys_are_put_back_into_halves(module: str, heads: int) -> None:
    """GGUF has the rows of a head of width 16 as 0 8 1 9 …; each row is numbered here by where transformers has it."""
    width = SPEC.head_width
    order = [
        head * width + half * width // 2 + i for head in range(heads) for i in range(width // 2) for half in (0, 1)
    ]
    b = np.array(order, np.float32).reshape(1, -1, 1)
    weights = LoraWeights({module: LoraTarget((0,), np.ones((1, 1, SPEC.hidden), np.float32), b)})
    name = f"base_model.model.model.layers.0.{MODULES[module]}.lora_B.weight"
    assert peft_tensors(weights, BASE)[name][:, 0].tolist() == list(range(heads * width))
    other = PeftBase("x", "qwen3", SPEC.heads, SPEC.heads_kv)
    assert peft_tensors(weights, other)[name][:, 0].tolist() == order


def test_numbers_are_half_only_where_that_is_exact(tmp_path: Path) -> None:
    exact = tiny_lora()
    target = exact.targets["ffn_down"]
    rounded = LoraTarget(
        target.layers, *(array.astype(np.float16).astype(np.float32) for array in (target.a, target.b))
    )
    halves = peft_tensors(LoraWeights({"ffn_down": rounded}), BASE)
    assert {array.dtype for array in halves.values()} == {np.dtype(np.float16)}
    assert np.array_equal(halves[f"{DOWN}.lora_B.weight"], rounded.b[1])
    assert {array.dtype for array in peft_tensors(exact, BASE).values()} == {np.dtype(np.float32)}
    huge = LoraWeights({"ffn_down": LoraTarget(target.layers, target.a, target.b * np.float32(1e6))})
    assert {array.dtype for array in peft_tensors(huge, BASE).values()} == {np.dtype(np.float32)}


def test_the_configuration_says_what_peft_asks(tmp_path: Path) -> None:
    full = tiny_lora(rank=5).targets["ffn_down"]
    written(tmp_path / "out", LoraWeights({"ffn_down": LoraTarget((1,), full.a[1:], full.b[1:])}))
    config = json.loads((tmp_path / "out" / CONFIG).read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "someone/tiny"
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert config["r"] == config["lora_alpha"] == 5
    assert config["inference_mode"] is True
    assert (config["target_modules"], config["layers_to_transform"]) == (["down_proj"], [1])
    with safe_open(tmp_path / "out" / TENSORS, "numpy") as file:
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["localhyper.name"] == "lease"


def test_modules_of_different_blocks_are_named_one_by_one_and_ranks_evened() -> None:
    down, up = tiny_lora(rank=2).targets["ffn_down"], tiny_lora(rank=4, modules=("ffn_up",)).targets["ffn_up"]
    weights = LoraWeights({"ffn_down": down, "ffn_up": LoraTarget((1,), up.a[1:], up.b[1:])})
    config = peft_config(weights, BASE)
    assert config["target_modules"] == ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj", "layers.1.mlp.up_proj"]
    assert "layers_to_transform" not in config
    assert config["r"] == config["lora_alpha"] == 4
    found = peft_tensors(weights, BASE)
    a, b = found[f"{DOWN}.lora_A.weight"], found[f"{DOWN}.lora_B.weight"]
    assert (a.shape, b.shape) == ((4, SPEC.ffn), (SPEC.hidden, 4))
    assert np.array_equal(b @ a, down.b[1] @ down.a[1])


def test_what_peft_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    down = tiny_lora().targets["ffn_down"]
    broken = LoraTarget(down.layers, down.a, np.full_like(down.b, np.nan))
    odd = LoraTarget(down.layers, down.a, down.b[:, :63])
    cases: list[tuple[str, type[LocalHyperError], LoraWeights, PeftBase]] = [
        (r"module `ssm\?in`, PEFT folders can hold attn_q", AdapterError, LoraWeights({"ssm\nin": down}), BASE),
        ("architecture `phi3`", AdapterError, tiny_lora(), PeftBase("x", "phi3")),
        ("no target", AdapterError, LoraWeights({}), BASE),
        ("not finite", AdapterError, LoraWeights({"ffn_down": broken}), BASE),
        ("63 rows for `attn_q`", AdapterError, LoraWeights({"attn_q": odd}), BASE),
        ("`my base` is not on this machine", ModelError, tiny_lora(modules=("attn_k",)), PeftBase("my base", "llama")),
    ]
    for words, kind, weights, base in cases:
        with pytest.raises(kind, match=words) as caught:
            write_peft_folder(tmp_path / "out", weights, base, AdapterMetadata())
        assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_rows_that_nobody_permutes_need_no_heads() -> None:
    assert peft_tensors(tiny_lora(), PeftBase("x", "llama"))
    assert peft_tensors(tiny_lora(modules=("attn_q",)), PeftBase("x", "qwen3"))


def test_an_older_export_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(folder, tiny_lora())
    with pytest.raises(LibraryError, match="exists already") as caught:
        written(folder, tiny_lora(seed=2))
    assert "--force" in caught.value.hint
    write_peft_folder(folder, tiny_lora(seed=2), BASE, AdapterMetadata(), overwrite=True)
    wanted = tiny_lora(seed=2).targets["ffn_down"].b[1]
    assert np.array_equal(load_file(folder / TENSORS)[f"{DOWN}.lora_B.weight"], wanted)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, TENSORS]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_else_is_ever_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(folder, tiny_lora())
    (folder / "thesis.md").write_text("years of work")
    with pytest.raises(LibraryError, match=r"holds `thesis\.md`"):
        write_peft_folder(folder, tiny_lora(), BASE, AdapterMetadata(), overwrite=True)
    file = tmp_path / "file"
    file.write_text("words")
    with pytest.raises(LibraryError, match="is a file"):
        write_peft_folder(file, tiny_lora(), BASE, AdapterMetadata(), overwrite=True)
    assert (folder / "thesis.md").read_text() == "years of work"
    assert file.read_text() == "words"


def test_a_full_disk_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    before = written(folder, tiny_lora())

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LibraryError, match="No space left"):
        write_peft_folder(folder, tiny_lora(seed=2), BASE, AdapterMetadata(), overwrite=True)
    after = load_file(folder / TENSORS)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_names_and_fields_are_those_that_vllm_reads(tmp_path: Path) -> None:
    """VLLM itself is not run here: these are the rules of its `lora/peft_helper.py` and `parse_fine_tuned_lora_name`.

    A name is `base_model.model.`, the module, `.lora_A.weight` or `.lora_B.weight`; the module's last part is one of
    the model's own linear layers; the factor is lora_alpha / r; bias, DoRA and modules_to_save are refused there.
    """
    names = written(tmp_path / "x", tiny_lora(modules=tuple(MODULES)))
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    halves: dict[str, set[str]] = {}
    for name, array in names.items():
        parts = name.split(".")
        assert parts[:2] == ["base_model", "model"]
        assert parts[-1] == "weight"
        assert parts[-3] in layers
        halves.setdefault(".".join(parts[2:-2]), set()).add(parts[-2])
        assert array.shape[0 if parts[-2] == "lora_A" else 1] == 3
    assert set(map(frozenset, halves.values())) == {frozenset({"lora_A", "lora_B"})}
    config = json.loads((tmp_path / "x" / CONFIG).read_text(encoding="utf-8"))
    assert {"r", "lora_alpha", "target_modules"} <= config.keys()
    assert config["lora_alpha"] / config["r"] == 1
    assert (config["bias"], config["use_dora"], config["use_rslora"]) == ("none", False, False)
    assert config["modules_to_save"] is None
