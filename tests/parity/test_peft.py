"""PEFT = llama.cpp = numpy: the same adapter on transformers' models gives the same logits, read by the `peft` library.

Queries and keys are in every adapter here, because their rows stand in another order in the two worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
peft = pytest.importorskip("peft", reason="peft is in the [dev] extra")

from localhyper.adapter_export import export_peft  # noqa: E402
from localhyper.base_header import read_base_info  # noqa: E402
from localhyper.engine import AdapterUse, EngineConfig  # noqa: E402
from localhyper.gguf_adapter import AdapterMetadata, write_adapter  # noqa: E402
from localhyper.library import AdapterInfo  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.lora import LoraTarget, LoraWeights  # noqa: E402
from localhyper.paths import Paths  # noqa: E402
from localhyper.peft_folder import MODULES  # noqa: E402
from localhyper.registry import load_registry  # noqa: E402
from tests.parity.hugging_face import FloatArray, hugging_face_model, logits, tiny_hugging_face  # noqa: E402
from tests.tiny_gguf import TinySpec, lora_deltas, reference_forward, tiny_lora, write_tiny_gguf  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.torch,
    # What the two libraries tell each other; PEFT's own words about keys that it misses stay errors.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

IDS = np.array([1, 40, 70, 99, 103, 40, 12, 200, 201, 5, 40, 70], np.int32)


def exported(folder: Path, base: Path, weights: LoraWeights, paths: Paths) -> tuple[Path, Path]:
    """The adapter as GGUF file and as PEFT folder; the second is made from the first, as a user makes it."""
    info, path = read_base_info(base), folder / "adapter.gguf"
    write_adapter(path, weights, info, AdapterMetadata(name="parity", base_fingerprint=info.fingerprint))
    (paths.create().models_dir / base.name).symlink_to(base)
    row = AdapterInfo(
        "parity", path, "k" * 64, "Title", "txt", "", "aa", info.name, info.fingerprint, "net", "cc", weights.rank, 1.0,
        1, 1, path.stat().st_size, "2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return path, export_peft(row, load_registry(paths), folder / "out").folder


def rounded(weights: LoraWeights) -> LoraWeights:
    """As a half-precision file has them."""

    def half(array: FloatArray) -> FloatArray:
        return array.astype(np.float16).astype(np.float32)

    return LoraWeights({name: LoraTarget(t.layers, half(t.a), half(t.b)) for name, t in weights.targets.items()})


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("uneven", [False, True], ids=["all blocks", "different blocks"])
def test_peft_gives_the_logits_of_the_numpy_forward(
    tmp_path: Path, paths: Paths, no_network: None, architecture: str, uneven: bool
) -> None:
    spec = TinySpec(architecture, blocks=3)
    weights = rounded(tiny_lora(spec, modules=tuple(MODULES), size=0.2))
    if uneven:
        cut = {name: LoraTarget(t.layers[1:], t.a[1:], t.b[1:]) for name, t in weights.targets.items()}
        weights = LoraWeights({**cut, "attn_k": weights.targets["attn_k"]})
    base = write_tiny_gguf(tmp_path / "tiny.gguf", spec)
    _, folder = exported(tmp_path, base, weights, paths)
    model = tiny_hugging_face(spec)
    plain = reference_forward(spec, IDS).logits
    assert np.abs(logits(model, IDS) - plain).max() < 1e-4, "the two base models must be one"
    wanted = reference_forward(spec, IDS, lora_deltas(weights)).logits
    got = logits(peft.PeftModel.from_pretrained(model, folder), IDS)
    assert np.abs(wanted - plain).max() > 0.3, "the adapter must matter for this test to mean anything"
    assert np.abs(got - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def engine(f32_model: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(f32_model, EngineConfig(n_ctx=256, flash_attention=False, kv_type="f32")) as loaded:
        yield loaded


@pytest.mark.native
@pytest.mark.slow
def test_peft_gives_llama_cpps_logits_on_the_default_base(
    engine: LlamaEngine, f32_model: Path, tmp_path: Path, paths: Paths, no_network: None
) -> None:
    weights = large_lora(f32_model)
    path, folder = exported(tmp_path, f32_model, weights, paths)
    ids = engine.tokenize("The lighthouse keeper wrote the number 4829 on the wall and left for the harbor.")
    plain = engine.logits(ids)
    engine.set_adapters([AdapterUse(path)])
    wanted = engine.logits(ids)
    model = default_hugging_face(f32_model)
    assert np.abs(logits(model, ids) - plain).max() <= 1e-2
    got = logits(peft.PeftModel.from_pretrained(model, folder), ids)
    assert np.abs(wanted - plain).max() > 1.0, "the adapter must matter for this test to mean anything"
    assert np.abs(got - wanted).max() <= 1e-2
    assert np.array_equal(got.argmax(-1), wanted.argmax(-1))


def large_lora(base: Path) -> LoraWeights:
    """A random rank-8 adapter on all modules of three blocks."""
    random = np.random.default_rng(0)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in gguf.GGUFReader(base).tensors}
    blocks, targets = (6, 18, 26), {}
    for module in MODULES:
        d_in, d_out = shapes[f"blk.0.{module}.weight"]
        a = random.normal(0, d_in**-0.5, (len(blocks), 8, d_in)).astype(np.float32)
        targets[module] = LoraTarget(blocks, a, random.normal(0, 0.1, (len(blocks), d_out, 8)).astype(np.float32))
    return LoraWeights(targets)


def default_hugging_face(path: Path) -> Any:
    reader = gguf.GGUFReader(path)
    found = {key.removeprefix("llama."): reader.fields[key].contents() for key in reader.fields if "llama." in key}
    weights = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    return hugging_face_model(
        "llama",
        weights,
        vocab_size=len(weights["token_embd.weight"]),
        hidden_size=found["embedding_length"],
        intermediate_size=found["feed_forward_length"],
        num_hidden_layers=found["block_count"],
        num_attention_heads=found["attention.head_count"],
        num_key_value_heads=found["attention.head_count_kv"],
        rms_norm_eps=found["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": found["rope.freq_base"]},
    )
