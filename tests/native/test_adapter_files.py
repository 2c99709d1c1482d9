"""Adapter files of every format in llama.cpp: foreign ones, imported, converted, merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.adapter_convert import convert_adapter
from localhyper.adapter_merge import MergeSource, merge_adapters
from localhyper.engine import AdapterUse, EngineConfig
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import AdapterMetadata, read_adapter, write_adapter, write_weights
from localhyper.gguf_writer import DTYPES, Dtype
from localhyper.llama_engine import LlamaEngine
from localhyper.lora import LoraTarget, LoraWeights
from tests.tiny_gguf import (
    FloatArray,
    TinySpec,
    down_pair,
    lora_deltas,
    reference_forward,
    tiny_lora,
    tiny_weights,
    write_raw_adapter,
)

pytestmark = pytest.mark.native
EXACT = EngineConfig(n_ctx=512, threads=1, threads_batch=1, flash_attention=False, kv_type="f32")
IDS = np.array([1, 40, 70, 99, 103, 40, 12, 200, 201, 5, 40, 70], np.int32)
MODULES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(tiny_model_path, EXACT) as made:
        yield made


def logits(engine: LlamaEngine, *uses: AdapterUse) -> FloatArray:
    engine.set_adapters(uses)
    return engine.logits(IDS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [32, 5])
def test_llama_cpp_takes_every_format(engine: LlamaEngine, tmp_path: Path, dtype: Dtype, rank: int) -> None:
    weights = tiny_lora(rank=rank, modules=MODULES, size=0.1)
    write_adapter(tmp_path / "f32.gguf", weights, engine.info, AdapterMetadata(), "f32")
    wanted = logits(engine, AdapterUse(tmp_path / "f32.gguf"))
    convert_adapter(tmp_path / "f32.gguf", tmp_path / "out.gguf", dtype)
    got = logits(engine, AdapterUse(tmp_path / "out.gguf"))
    assert np.abs(wanted - logits(engine)).max() > 0.3, "the adapter must matter for this test to mean anything"
    assert np.abs(got - wanted).max() <= {"f32": 0.0, "f16": 0.05, "q8_0": 0.3, "q5_0": 1.0}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_different_ranks_act_as_if_filled_up(engine: LlamaEngine, tmp_path: Path, dtype: Dtype) -> None:
    weights = tiny_lora(rank=64, modules=MODULES, size=0.1)
    for target in weights.targets.values():
        target.a[0, 32:], target.b[0, :, 32:] = 0, 0
    filled = foreign(tmp_path / "filled.gguf", weights, 64.0, gguf.GGMLQuantizationType.F32, first=64)
    write_adapter(tmp_path / "out.gguf", weights, engine.info, AdapterMetadata(), dtype)
    wanted = logits(engine, AdapterUse(filled))
    got = logits(engine, AdapterUse(tmp_path / "out.gguf"))
    assert np.abs(wanted - logits(engine)).max() > 0.3, "the adapter must matter for this test to mean anything"
    assert np.abs(got - wanted).max() <= {"f32": 0.0, "f16": 0.05, "q8_0": 0.3, "q5_0": 1.0}[dtype]


def foreign(path: Path, weights: LoraWeights, alpha: float, kind: gguf.GGMLQuantizationType, first: int = 32) -> Path:
    """A file as another tool writes it: any alpha, a rank for each block (`first` for the first), any type."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for module, target in weights.targets.items():
        for row, block in enumerate(target.layers):
            rank = target.rank if row else first
            for half, matrix in (("lora_a", target.a[row][:rank]), ("lora_b", target.b[row][:, :rank])):
                data = gguf.quants.quantize(np.ascontiguousarray(matrix), kind)
                writer.add_tensor(f"blk.{block}.{module}.weight.{half}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alpha", [0.0, 16.0, -16.0])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_a_foreign_adapter_means_the_same_to_us_and_to_llama_cpp(
    engine: LlamaEngine, tmp_path: Path, alpha: float, kind: str
) -> None:
    """What we read out of it (alpha, ranks, types) gives, written anew, the logits that llama.cpp gives with it."""
    weights = tiny_lora(rank=64, size=0.05)
    path = foreign(tmp_path / "x.gguf", weights, alpha, gguf.GGMLQuantizationType[kind])
    wanted = logits(engine, AdapterUse(path))
    found, _ = read_adapter(path)
    write_adapter(tmp_path / "again.gguf", found, engine.info, AdapterMetadata(), "f32")
    got = logits(engine, AdapterUse(tmp_path / "again.gguf"))
    effect = np.abs(wanted - logits(engine)).max()
    assert effect > 0.02
    # llama.cpp multiplies other types by rounded inputs, which float32 does not.
    assert np.abs(got - wanted).max() <= {"F32": 1e-4}.get(kind, 0.1 * effect)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, -1.5)])
def test_a_merge_gives_the_logits_of_the_set(engine: LlamaEngine, tmp_path: Path, scales: tuple[float, float]) -> None:
    one = tiny_lora(rank=3, modules=("ffn_down", "attn_q"), size=0.3)
    full = tiny_lora(rank=5, seed=4, modules=("ffn_down", "attn_k", "ffn_up"), size=0.3).targets
    two = LoraWeights({name: LoraTarget((1,), target.a[1:], target.b[1:]) for name, target in full.items()})
    sources = []
    for number, weights in enumerate((one, two)):
        path = tmp_path / f"{number}.gguf"
        write_adapter(path, weights, engine.info, AdapterMetadata(), "f32")
        sources.append(MergeSource(path.stem, path, scales[number]))
    merged = merge_adapters(sources, 0, base=engine.info)
    write_weights(tmp_path / "all.gguf", merged.weights, merged.architecture, AdapterMetadata(), "f32")
    wanted = logits(engine, *(AdapterUse(source.path, source.scale) for source in sources))
    got = logits(engine, AdapterUse(tmp_path / "all.gguf"))
    assert np.abs(got - wanted).max() <= 1e-4
    deltas = lora_deltas(one, scales[0])
    for name, delta in lora_deltas(two, scales[1]).items():
        deltas[name] = deltas.get(name, np.zeros_like(delta)) + delta
    assert np.abs(got - reference_forward(TinySpec(), IDS, deltas).logits).max() <= 1e-3


def test_an_activated_adapter_does_not_reach_llama_cpp(engine: LlamaEngine, tmp_path: Path) -> None:
    tokens = ("adapter.alora.invocation_tokens", [1, 2])
    path = write_raw_adapter(tmp_path / "x.gguf", down_pair(4), lambda writer: writer.add_array(*tokens))
    with pytest.raises(AdapterError, match="activated LoRA"):
        engine.set_adapters([AdapterUse(path)])


def test_a_foreign_adapter_of_the_output_head_acts_where_the_base_has_one(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    """Logits = X Wᵀ, so X is known from the plain ones, and the adapter must add X (b a)ᵀ."""
    spec = TinySpec()
    head = np.random.default_rng(3).normal(0, 0.1, tiny_weights(spec)["token_embd.weight"].shape).astype(np.float32)
    base = with_output(tiny_model_path, tmp_path / "untied.gguf", head)
    random = np.random.default_rng(4)
    a, b = (
        random.normal(size=(4, spec.hidden)).astype(np.float32),
        random.normal(size=(len(head), 4)).astype(np.float32),
    )
    path = write_raw_adapter(
        tmp_path / "x.gguf",
        {"output.weight.lora_a": a, "output.weight.lora_b": b},
        lambda writer: writer.add_float32("adapter.lora.alpha", 4.0),
    )
    with LlamaEngine.load(base, EXACT) as engine:
        plain = logits(engine)
        got = logits(engine, AdapterUse(path))
    inputs = np.linalg.lstsq(head.astype(np.float64), plain.T.astype(np.float64), rcond=None)[0].T
    assert np.abs(got - plain - inputs @ (b @ a).T).max() < 1e-2
    assert np.abs(got - plain).max() > 1.0
    with pytest.raises(AdapterError, match=r"changes `output\.weight`, which is no matrix of a block"):
        read_adapter(path)


def with_output(source: Path, target: Path, head: FloatArray) -> Path:
    """A model with an output head of its own."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "general.architecture")):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
