"""Every supported family in llama.cpp = transformers: activations at every tap, logits, adapters on every module.

Gradients of the upper blocks in numpy = transformers, too.

Tiny random models with what the real ones of their family have: grouped queries, heads wider than hidden size / heads,
a stretched rotary embedding, tied or untied output, windows shorter than the prompt. The prompt spans several batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
transformers = pytest.importorskip("transformers", reason="transformers is in the [dev] extra")

from localhyper.base_header import module_shapes, read_base_header  # noqa: E402
from localhyper.engine import AdapterUse, CaptureSpec, EngineConfig  # noqa: E402
from localhyper.gguf_adapter import AdapterMetadata, permute_for_base, write_adapter  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.lora import LoraTarget, LoraWeights  # noqa: E402
from localhyper.peft_folder import MODULES  # noqa: E402
from localhyper.upper_blocks import Factor, Lesson, UpperBlocks  # noqa: E402
from localhyper.upper_weights import read_upper  # noqa: E402
from tests.parity.gguf_base import (  # noqa: E402
    FIXTURES,
    FloatArray,
    pairs_of_halves,
    write_gguf_model,
    write_reference_base,
)

pytestmark = [pytest.mark.parity, pytest.mark.torch, pytest.mark.native]

EXACT = EngineConfig(n_ctx=1024, threads=1, threads_batch=2, flash_attention=False, kv_type="f32")
BLOCKS, TOKENS = 3, 700
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "attn_implementation": "eager",
}  # fmt: skip
STRETCHED = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2": ("Llama", {"tie_word_embeddings": True}),
    "llama-3.1": ("Llama", {"tie_word_embeddings": False, "rope_parameters": STRETCHED}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 24, "tie_word_embeddings": False}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 96}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, LlamaEngine]]:
    """A model in transformers and in llama.cpp."""
    name, own = FAMILIES[request.param]
    torch.manual_seed(sum(map(ord, request.param)))
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**SIZES, **own)).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():  # as they start, norms are all one and nothing else is large
            value.copy_(torch.randn_like(value) * 0.1 + (1.0 if "norm" in key else 0.0))
    path = write_gguf_model(tmp_path_factory.mktemp("family") / f"{request.param}.gguf", model)
    with LlamaEngine.load(path, EXACT) as engine:
        yield model, engine


def prompt(tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 320, tokens).astype(np.int32)


def run(model: Any, ids: np.ndarray) -> tuple[FloatArray, list[FloatArray], list[FloatArray]]:
    """Logits, what enters each block and leaves the last, and what enters each `down_proj`."""
    taps: list[FloatArray] = []
    inner: list[FloatArray] = []
    layers = model.model.layers
    hooks = [
        layer.register_forward_pre_hook(lambda _m, args: taps.append(args[0][0].numpy().copy())) for layer in layers
    ]
    hooks += [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: inner.append(args[0][0].numpy().copy()))
        for layer in layers
    ]
    hooks.append(layers[-1].register_forward_hook(lambda _m, _a, out: taps.append(_first(out)[0].numpy().copy())))
    with torch.no_grad():
        logits: FloatArray = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float().numpy()
    for hook in hooks:
        hook.remove()
    return logits, taps, inner


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def relative(got: FloatArray, want: FloatArray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_activations_at_every_tap_are_those_of_transformers(pair: tuple[Any, LlamaEngine]) -> None:
    model, engine = pair
    ids = prompt()
    _, taps, inner = run(model, ids)
    found = engine.encode(ids, CaptureSpec(tuple(range(BLOCKS + 1)), tuple(range(BLOCKS))))
    errors = [relative(found.hidden[place], taps[place]) for place in range(BLOCKS + 1)]
    errors += [relative(found.ffn[place], inner[place]) for place in range(BLOCKS)]
    assert len(errors) == 2 * BLOCKS + 1 and max(errors) <= 1e-3, errors


def test_logits_are_those_of_transformers(pair: tuple[Any, LlamaEngine]) -> None:
    model, engine = pair
    engine.set_adapters([])
    ids = prompt(300)  # longer than Gemma's window here
    want, *_ = run(model, ids)
    assert relative(engine.logits(ids), want) <= 2e-3


def test_what_is_read_together_is_what_transformers_reads_alone(pair: tuple[Any, LlamaEngine]) -> None:
    """Activations and logits of one pass; what they begin with is longer than half of Gemma's window here."""
    model, engine = pair
    engine.set_adapters([])
    ids = prompt(230)
    parts = [ids, np.concatenate([ids[:140], ids[60:160]]), ids[:141]]
    rows: dict[int, list[FloatArray]] = {}
    capture = CaptureSpec((BLOCKS // 2,), (0, BLOCKS - 2))
    firsts = [len(part) - 5 for part in parts[:2]] + [140]
    found = engine.read_together(
        parts, capture, firsts, lambda number, _, some: rows.setdefault(number, []).append(some)
    )
    for number, (part, got) in enumerate(zip(parts, found, strict=True)):
        want, taps, inner = run(model, part)
        assert relative(got.hidden[0], taps[BLOCKS // 2]) <= 1e-3
        assert max(relative(got.ffn[place], inner[block]) for place, block in enumerate(capture.ffn_blocks)) <= 1e-3
        assert relative(np.concatenate(rows[number]), want[firsts[number] :]) <= 2e-3


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_an_adapter_on_every_module_adds_b_times_a(pair: tuple[Any, LlamaEngine], scale: float, tmp_path: Path) -> None:
    model, engine = pair
    header = read_base_header(engine.info.path)
    random, rank = np.random.default_rng(7), 5
    targets, changed = {}, {}
    for module, (inputs, outputs) in module_shapes(engine.info, header.key_length, header.value_length).items():
        a = random.standard_normal((BLOCKS, rank, inputs)).astype(np.float32) / inputs**0.5
        b = random.standard_normal((BLOCKS, outputs, rank)).astype(np.float32) * 0.1
        for block in range(BLOCKS):
            changed[f"model.layers.{block}.{MODULES[module]}.weight"] = scale * b[block] @ a[block]
        heads = {"attn_q": engine.info.head_count, "attn_k": engine.info.head_count_kv}.get(module)
        rows = b if heads is None else permute_for_base(b, heads, engine.info.architecture)
        targets[module] = LoraTarget(tuple(range(BLOCKS)), a, rows)
    assert set(targets) == set(MODULES)
    path = tmp_path / "all.gguf"
    write_adapter(path, LoraWeights(targets), engine.info, AdapterMetadata(name="all"), "f32")
    ids = prompt(300)
    before, *_ = run(model, ids)
    want = _with_added(model, changed, ids)
    engine.set_adapters([AdapterUse(path, scale)])
    assert relative(before, want) > 0.05  # it does something
    assert relative(engine.logits(ids), want) <= 2e-3


def _with_added(model: Any, changed: dict[str, FloatArray], ids: np.ndarray) -> FloatArray:
    """Logits with these added to the weights, which are as before afterwards."""
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach().clone() for name in changed}
    with torch.no_grad():
        for name, delta in changed.items():
            weights[name] += torch.from_numpy(delta)
        logits, *_ = run(model, ids)
        for name, value in kept.items():
            weights[name].copy_(value)
    return logits


def test_gradients_of_the_upper_blocks_are_those_of_transformers(pair: tuple[Any, LlamaEngine]) -> None:
    """Of LoRA on every module, by the gradients to the weights; two sequences, one longer than Gemma's window here."""
    model, engine = pair
    header, random, start, rank = read_base_header(engine.info.path), np.random.default_rng(9), 1, 5
    sequences, first = [prompt(130), prompt(40)[::-1].copy()], [100, 30]
    wanted = [np.append(ids[at + 1 :], 7) for ids, at in zip(sequences, first, strict=True)]
    taps = [run(model, ids)[1] for ids in sequences]
    places = np.concatenate([np.arange(100, 130), 130 + np.arange(30, 40)])
    lesson = Lesson(
        np.concatenate([of_one[start] for of_one in taps]), (130, 40), places, np.concatenate(wanted), shares(places)
    )
    factors, changed = {}, {}
    for module, (inputs, outputs) in module_shapes(engine.info, header.key_length, header.value_length).items():
        for block in range(start, BLOCKS):
            a = random.standard_normal((rank, inputs)).astype(np.float32) / inputs**0.5
            b = random.standard_normal((outputs, rank)).astype(np.float32) * 0.1
            factors[block, module] = Factor(a, b)
            changed[block, module] = np.argsort(rows_of(engine, module, outputs)), b @ a
    upper = UpperBlocks(read_upper(engine.info.path, start))
    with _upper_changed(model, changed):
        model.zero_grad()
        said = [model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0] for ids in sequences]
        logits = torch.cat([rows[at:] for rows, at in zip(said, first, strict=True)])
        assert relative(upper.logits(lesson, factors), logits.detach().numpy()) <= 2e-3
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(lesson.wanted).long(), reduction="none")
        (losses * torch.from_numpy(lesson.shares)).sum().backward()
        loss, found = upper.gradients(lesson, factors)
        assert loss == pytest.approx(float((losses.detach().numpy() * lesson.shares).sum()), rel=1e-4)
        assert set(found) == set(factors)
        for (block, module), factor in factors.items():
            weight = dict(model.named_parameters())[f"model.layers.{block}.{MODULES[module]}.weight"]
            dense = weight.grad.numpy()[rows_of(engine, module, len(factor.b))]
            assert relative(found[block, module].a, factor.b.T @ dense) <= 2e-3, (block, module)
            assert relative(found[block, module].b, dense @ factor.a.T) <= 2e-3, (block, module)


def shares(places: np.ndarray) -> FloatArray:
    return (np.linspace(0.5, 1.5, len(places)) / len(places)).astype(np.float32)


def rows_of(engine: LlamaEngine, module: str, rows: int) -> np.ndarray:
    """Where transformers has each row that llama.cpp has."""
    if engine.info.architecture != "llama" or module not in ("attn_q", "attn_k"):
        return np.arange(rows)
    return pairs_of_halves(rows, read_base_header(engine.info.path).key_length)


@contextlib.contextmanager
def _upper_changed(model: Any, changed: dict[tuple[int, str], tuple[np.ndarray, FloatArray]]) -> Iterator[None]:
    """With updates, whose rows are put in order, in the weights."""
    weights = dict(model.named_parameters())
    kept = {}
    with torch.no_grad():
        for (block, module), (order, delta) in changed.items():
            weight = weights[f"model.layers.{block}.{MODULES[module]}.weight"]
            kept[weight] = weight.detach().clone()
            weight += torch.from_numpy(delta[order])
    yield
    with torch.no_grad():
        for weight, value in kept.items():
            weight.copy_(value)
    model.zero_grad()


@pytest.mark.parametrize(("base", "run_name"), [("base_llama", "llama_sft_vq"), ("base_mistral", "mistral_sft")])
def test_reference_bases_give_their_golden_logits(base: str, run_name: str, tmp_path: Path) -> None:
    with np.load(FIXTURES / "t2l" / run_name / "golden_0.npz") as golden:
        ids, want = golden["prompt_ids"][0].astype(np.int32), golden["logits_base"][0]
    with LlamaEngine.load(write_reference_base(base, tmp_path / "base.gguf"), EXACT) as engine:
        assert np.abs(engine.logits(ids) - want).max() <= 1e-4
