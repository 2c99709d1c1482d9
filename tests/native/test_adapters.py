"""Adapters on the chat context: right numbers, nothing stale after a swap, nothing taken when a file is bad."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localhyper.engine import AdapterUse, ChatMessage, EngineConfig, Sampling
from localhyper.errors import AdapterError
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.llama_adapters import MAX_UNUSED
from localhyper.llama_engine import LlamaEngine
from localhyper.lora import LoraWeights
from tests.tiny_gguf import FloatArray, TinySpec, lora_deltas, reference_forward, tiny_lora, write_tiny_gguf

pytestmark = pytest.mark.native
ONE_THREAD = EngineConfig(n_ctx=512, threads=1, threads_batch=1)
TEXT = "The tower was built in the year"
ALL_MODULES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(tiny_model_path, ONE_THREAD) as made:
        yield made


def save(engine: LlamaEngine, path: Path, weights: LoraWeights) -> Path:
    write_adapter(
        path, weights, engine.info, AdapterMetadata(path.stem, base_fingerprint=engine.info.fingerprint), "f32"
    )
    return path


@pytest.fixture
def one(engine: LlamaEngine, tmp_path: Path) -> Path:
    return save(engine, tmp_path / "one.gguf", tiny_lora(seed=1))


@pytest.fixture
def two(engine: LlamaEngine, tmp_path: Path) -> Path:
    return save(engine, tmp_path / "two.gguf", tiny_lora(seed=2, rank=7))


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_an_adapter_adds_exactly_b_times_a(tmp_path: Path, architecture: str, scale: float) -> None:
    spec = TinySpec(architecture)
    weights = tiny_lora(spec, modules=ALL_MODULES, size=0.3)
    with LlamaEngine.load(write_tiny_gguf(tmp_path / "m.gguf", spec), ONE_THREAD) as engine:
        path = save(engine, tmp_path / "a.gguf", weights)
        ids = engine.tokenize(TEXT)
        plain = engine.logits(ids)
        engine.set_adapters([AdapterUse(path, scale)])
        got = engine.logits(ids)
    wanted = reference_forward(spec, ids, lora_deltas(weights, scale)).logits
    assert np.abs(got - plain).max() > 0.1
    assert np.abs(got - wanted).max() <= 5e-3 * np.abs(wanted).max()


def test_two_adapters_add_up(engine: LlamaEngine, one: Path, two: Path) -> None:
    ids = engine.tokenize(TEXT)
    engine.set_adapters([AdapterUse(one, 0.5), AdapterUse(two, 2.0)])
    deltas = lora_deltas(tiny_lora(seed=1), 0.5)
    for name, delta in lora_deltas(tiny_lora(seed=2, rank=7), 2.0).items():
        deltas[name] = deltas[name] + delta
    wanted = reference_forward(TinySpec(), ids, deltas).logits
    assert np.abs(engine.logits(ids) - wanted).max() <= 5e-3 * np.abs(wanted).max()
    assert engine.adapters == (AdapterUse(one, 0.5), AdapterUse(two, 2.0))


FRESH = """
import sys
from pathlib import Path
import numpy as np
from localhyper.engine import AdapterUse, EngineConfig
from localhyper.llama_engine import LlamaEngine
model, out, *adapters = map(Path, sys.argv[1:])
with LlamaEngine.load(model, EngineConfig(n_ctx=512, threads=1, threads_batch=1)) as engine:
    engine.set_adapters([AdapterUse(path) for path in adapters])
    np.save(out, engine.logits(engine.tokenize("The tower was built in the year")))
"""


def in_fresh_process(model: Path, out: Path, *adapters: Path) -> FloatArray:
    command = [sys.executable, "-c", FRESH, str(model), str(out), *map(str, adapters)]
    subprocess.run(command, check=True)
    loaded: FloatArray = np.load(out)
    return loaded


def test_swaps_give_bit_for_bit_what_a_fresh_process_gives(
    engine: LlamaEngine, tiny_model_path: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    ids = engine.tokenize(TEXT)
    seen = {}
    for step, path in enumerate((one, two, one, None, two)):
        engine.set_adapters([AdapterUse(path)] if path else [])
        list(engine.generate([ChatMessage("user", "some talk that fills the cache")], Sampling(max_tokens=4)))
        seen[step] = engine.logits(ids)
    assert np.array_equal(seen[0], seen[2])
    assert np.array_equal(seen[1], seen[4])
    assert np.array_equal(seen[0], in_fresh_process(tiny_model_path, tmp_path / "1.npy", one))
    assert np.array_equal(seen[1], in_fresh_process(tiny_model_path, tmp_path / "2.npy", two))
    assert np.array_equal(seen[3], in_fresh_process(tiny_model_path, tmp_path / "0.npy"))
    assert not np.allclose(seen[0], seen[1])


def test_no_reply_is_read_from_another_adapters_cache(engine: LlamaEngine, one: Path, two: Path) -> None:
    messages = [ChatMessage("user", "tell me about the tower and the sea and the year it was built")]

    def ids_under(uses: list[AdapterUse]) -> tuple[list[int], int]:
        engine.set_adapters(uses)
        pieces = list(engine.generate(messages, Sampling(max_tokens=12)))
        assert pieces[-1].stats is not None
        return [token for piece in pieces for token in piece.token_ids], pieces[-1].stats.reused_tokens

    first, _ = ids_under([AdapterUse(one)])
    other, reused = ids_under([AdapterUse(two)])
    assert reused == 0
    assert ids_under([AdapterUse(one)]) == (first, 0)
    rescaled, reused = ids_under([AdapterUse(one, 0.25)])
    assert reused == 0
    assert len({tuple(first), tuple(other), tuple(rescaled)}) == 3
    again, reused = ids_under([AdapterUse(one, 0.25)])
    assert again == rescaled
    assert reused > 0  # the same set is no change: the cache stays


def test_zero_adapter_and_scale_zero_equal_the_base_bit_for_bit(engine: LlamaEngine, one: Path, tmp_path: Path) -> None:
    ids = engine.tokenize(TEXT)
    base = engine.logits(ids)
    engine.set_adapters([AdapterUse(one, 0.0)])
    assert np.array_equal(engine.logits(ids), base)
    engine.set_adapters([AdapterUse(save(engine, tmp_path / "zero.gguf", tiny_lora(size=0.0)))])
    assert np.array_equal(engine.logits(ids), base)


def test_a_refused_set_leaves_the_old_one_in_force(engine: LlamaEngine, one: Path, two: Path, tmp_path: Path) -> None:
    ids = engine.tokenize(TEXT)
    engine.set_adapters([AdapterUse(one)])
    before = engine.logits(ids)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(two.read_bytes()[:-100])
    for uses in (
        [AdapterUse(two), AdapterUse(broken)],
        [AdapterUse(tmp_path / "missing.gguf")],
        [AdapterUse(two, float("nan"))],
        [AdapterUse(two, -1e6)],
        [AdapterUse(two), AdapterUse(two, 0.5)],
    ):
        with pytest.raises(AdapterError):
            engine.set_adapters(uses)
        assert engine.adapters == (AdapterUse(one),)
        assert np.array_equal(engine.logits(ids), before)


def test_a_deleted_file_stays_in_force_and_an_overwritten_one_is_loaded_anew(
    engine: LlamaEngine, one: Path, two: Path
) -> None:
    ids = engine.tokenize(TEXT)
    engine.set_adapters([AdapterUse(two)])
    under_two = engine.logits(ids)
    engine.set_adapters([AdapterUse(one)])
    under_one = engine.logits(ids)
    save(engine, one, tiny_lora(seed=2, rank=7))
    assert np.array_equal(engine.logits(ids), under_one)
    engine.set_adapters([AdapterUse(one)])
    assert np.array_equal(engine.logits(ids), under_two)
    one.unlink()
    assert np.array_equal(engine.logits(ids), under_two)


def test_unused_adapters_are_freed_and_can_come_back(engine: LlamaEngine, one: Path, tmp_path: Path) -> None:
    ids = engine.tokenize(TEXT)
    engine.set_adapters([AdapterUse(one)])
    first = engine.logits(ids)
    for number in range(MAX_UNUSED + 4):
        path = save(engine, tmp_path / f"n{number}.gguf", tiny_lora(seed=10 + number))
        engine.set_adapters([AdapterUse(path)])
        engine.logits(ids[:2])
    engine.set_adapters([AdapterUse(one)])
    assert np.array_equal(engine.logits(ids), first)


def test_an_adapter_set_before_the_first_reply_acts_on_it(
    tiny_model_path: Path, engine: LlamaEngine, one: Path
) -> None:
    ids = engine.tokenize(TEXT)
    engine.set_adapters([AdapterUse(one)])
    wanted = engine.logits(ids)
    with LlamaEngine.load(tiny_model_path, ONE_THREAD) as other:
        base = other.logits(ids)
        other.set_adapters([AdapterUse(one)])
        assert np.array_equal(other.logits(ids), wanted)
        other.set_adapters([])
        assert np.array_equal(other.logits(ids), base)
