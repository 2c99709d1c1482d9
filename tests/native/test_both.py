"""A document's and a task's adapter at once: base plus both updates, their strengths, and no trace after a swap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from localhyper.adapter_merge import MergeSource, merge_adapters
from localhyper.engine import AdapterUse, BaseModelInfo, ChatMessage, EngineConfig, Sampling
from localhyper.gguf_adapter import AdapterMetadata, write_adapter, write_weights
from localhyper.llama_engine import LlamaEngine
from localhyper.lora import LoraTarget, LoraWeights
from tests.tiny_gguf import FloatArray, TinySpec, lora_deltas, reference_forward, tiny_lora, write_tiny_gguf

pytestmark = pytest.mark.native
ONE_THREAD = EngineConfig(n_ctx=512, threads=1, threads_batch=1, kv_type="f32", flash_attention=False)
TASK_MODULES = ("attn_q", "attn_v", "ffn_down")
TEXT = "The tower was built in the year"
TALK = [ChatMessage("user", "some talk that fills the cache")]


def save(path: Path, weights: LoraWeights, info: BaseModelInfo) -> Path:
    write_adapter(path, weights, info, AdapterMetadata(path.stem, base_fingerprint=info.fingerprint), "f32")
    return path


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_logits_are_those_of_the_base_plus_both_updates(tmp_path: Path, architecture: str) -> None:
    spec = TinySpec(architecture)
    document = tiny_lora(spec, seed=1, rank=6)
    task = tiny_lora(spec, seed=2, rank=16, modules=TASK_MODULES, size=0.2)
    wanted = lora_deltas(document, 1.0)
    for name, delta in lora_deltas(task, 0.5).items():
        wanted[name] = wanted[name] + delta if name in wanted else delta
    with LlamaEngine.load(write_tiny_gguf(tmp_path / "m.gguf", spec), ONE_THREAD) as engine:
        uses = [
            AdapterUse(save(tmp_path / "document.gguf", document, engine.info)),
            AdapterUse(save(tmp_path / "task.gguf", task, engine.info), 0.5),
        ]
        ids = engine.tokenize(TEXT)
        engine.set_adapters(uses)
        both = engine.logits(ids)
        engine.set_adapters(uses[:1])
        one = engine.logits(ids)
    reference = reference_forward(spec, ids, wanted).logits
    assert np.abs(both - one).max() > 0.05
    closeness = 1e-3 if architecture == "gemma2" else 2e-4  # llama.cpp looks its gelu up in half precision
    assert np.abs(both - reference).max() <= closeness * np.abs(reference).max()


def random_adapter(info: BaseModelInfo, widths: dict[str, tuple[int, int]], rank: int, seed: int) -> LoraWeights:
    """Random matrices for every second block, of the size that adapters have."""
    random = np.random.default_rng(seed)
    layers = tuple(range(2, info.block_count - 2, 2))
    targets = {}
    for name, (d_in, d_out) in widths.items():
        a = random.normal(0, d_in**-0.5, (len(layers), rank, d_in)).astype(np.float32)
        b = random.normal(0, 0.1, (len(layers), d_out, rank)).astype(np.float32)
        targets[name] = LoraTarget(layers, a, b)
    return LoraWeights(targets)


@pytest.fixture(scope="module")
def engine(default_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(default_model_path, ONE_THREAD) as made:
        yield made


@pytest.fixture(scope="module")
def pair(engine: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A document's adapter on `ffn_down`, a task's on `attn_q`, `attn_v` and `ffn_down`, rank 16."""
    folder, info = tmp_path_factory.mktemp("pair"), engine.info
    kv = info.hidden_size // info.head_count * info.head_count_kv
    down = {"ffn_down": (info.ffn_size, info.hidden_size)}
    attention = {"attn_q": (info.hidden_size, info.hidden_size), "attn_v": (info.hidden_size, kv)}
    document = save(folder / "document.gguf", random_adapter(info, down, 32, 1), info)
    return document, save(folder / "task.gguf", random_adapter(info, {**attention, **down}, 16, 2), info)


def under(engine: LlamaEngine, uses: list[AdapterUse]) -> FloatArray:
    """Logits after some talk under the same adapters."""
    engine.set_adapters(uses)
    list(engine.generate(TALK, Sampling(max_tokens=4)))
    return engine.logits(engine.tokenize("The capital of Italy is Rome, and the sky is blue."))


def test_both_are_the_one_adapter_that_their_sum_is(
    engine: LlamaEngine, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = [MergeSource("document", pair[0], 1.0), MergeSource("task", pair[1], 0.7)]
    merged = merge_adapters(sources, 0, base=engine.info)
    assert merged.full_rank == 48
    metadata = AdapterMetadata("sum", base_fingerprint=engine.info.fingerprint)
    write_weights(tmp_path / "sum.gguf", merged.weights, merged.architecture, metadata, "f32")
    base, one = under(engine, []), under(engine, [AdapterUse(pair[0])])
    both = under(engine, [AdapterUse(pair[0]), AdapterUse(pair[1], 0.7)])
    summed = under(engine, [AdapterUse(tmp_path / "sum.gguf")])
    assert min(np.abs(both - base).max(), np.abs(both - one).max()) > 1.0
    # llama.cpp quantizes the inputs of a quantized base's matrices: roundings of 1e-7 before become steps there.
    assert np.abs(both - summed).mean() < 2e-2 < 0.02 * np.abs(both - one).max()


def test_a_document_then_both_then_the_document_leaves_no_trace(
    engine: LlamaEngine, pair: tuple[Path, Path], default_model_path: Path
) -> None:
    document, task = AdapterUse(pair[0]), AdapterUse(pair[1])
    steps = [[document], [document, task], [document], [task], [document, task], []]
    seen = [under(engine, uses) for uses in steps]
    assert np.array_equal(seen[0], seen[2]) and np.array_equal(seen[1], seen[4])
    with LlamaEngine.load(default_model_path, ONE_THREAD) as fresh:
        assert np.array_equal(seen[4], under(fresh, steps[4]))
    with LlamaEngine.load(default_model_path, ONE_THREAD) as fresh:
        assert np.array_equal(seen[2], under(fresh, steps[2]))
    assert len({tuple(logits[-1, :8].tolist()) for logits in seen}) == 4


def test_a_reply_under_both_is_not_read_from_the_cache_of_one(engine: LlamaEngine, pair: tuple[Path, Path]) -> None:
    document, task = AdapterUse(pair[0]), AdapterUse(pair[1], 0.5)

    def reply(uses: list[AdapterUse]) -> tuple[list[int], int]:
        engine.set_adapters(uses)
        pieces = list(engine.generate(TALK, Sampling(max_tokens=12)))
        assert pieces[-1].stats is not None
        return [token for piece in pieces for token in piece.token_ids], pieces[-1].stats.reused_tokens

    first = reply([document])
    assert first[1] == 0
    assert reply([document, task])[1] == 0
    assert reply([document]) == first
    assert reply([document])[1] > 0, "the same set keeps its cache"
