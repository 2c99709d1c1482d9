"""torch = llama.cpp on the dequantized default model: activations, logits, greedy tokens, with and without LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.engine import AdapterUse, CaptureSpec, ChatMessage, EngineConfig, Sampling  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import BlockLora, TorchBase  # noqa: E402
from localhyper.gguf_adapter import AdapterMetadata, write_adapter  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.lora import LoraTarget, LoraWeights  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.native, pytest.mark.torch, pytest.mark.slow]

BLOCKS = (6, 18, 26)
ACTIVATION_TOLERANCE = 1e-3  # with float32 keys and values; llama.cpp's usual float16 cache costs about as much again
PROMPTS = [
    "What is the capital of France?",
    "Name three colors.",
    "Write one sentence about rivers.",
    "How many days has a week?",
    "What do bees make?",
    "Say hello in Spanish.",
    "Who wrote Hamlet?",
    "What is 2 plus 2?",
    "Give me a word that rhymes with cat.",
    "What is the opposite of hot?",
    "Which planet is the largest?",
    "What is water made of?",
    "Name a famous painter.",
    "Describe the moon in five words.",
    "What language is spoken in Brazil?",
    "Where do penguins live?",
    "What is the first letter of the alphabet?",
    "Tell me a fact about whales.",
    "What is a haiku?",
    "How do plants eat?",
]


@pytest.fixture(scope="module")
def engine(f32_model: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(f32_model, EngineConfig(n_ctx=512, flash_attention=False, kv_type="f32")) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def base(f32_model: Path) -> TorchBase:
    return TorchBase(f32_model)


def make_lora(base: TorchBase) -> LoraWeights:
    """A random rank-8 adapter that moves logits by several units."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((len(BLOCKS), 8, base.shape.ffn)).astype(np.float32) * 0.05
    b = rng.standard_normal((len(BLOCKS), base.shape.hidden, 8)).astype(np.float32) * 0.05
    return LoraWeights({"ffn_down": LoraTarget(BLOCKS, a, b)})


def torch_lora(weights: LoraWeights) -> dict[int, BlockLora]:
    target = weights.targets["ffn_down"]
    pairs = zip(torch.from_numpy(target.a), torch.from_numpy(target.b), strict=True)
    return {block: BlockLora(a[None], b[None]) for block, (a, b) in zip(target.layers, pairs, strict=True)}


def torch_logits(base: TorchBase, ids: list[int], lora: dict[int, BlockLora] | None) -> np.ndarray:
    with torch.no_grad():
        x, _ = base.run(base.embed(torch.tensor([ids])), 0, base.shape.blocks, lora=lora)
        logits: np.ndarray = base.logits(x)[0].numpy()
    return logits


def test_tokenizer_equals_llama_cpp(engine: LlamaEngine, f32_model: Path) -> None:
    tokenizer = load_tokenizer(f32_model)
    texts = [
        *PROMPTS,
        "In 1987, 4829 people paid $3.50 — naïve café… “quoted”\n\n\tTabs  and   spaces ",
        "<|im_start|>user\nHi there<|im_end|>\n",
        "日本語のテキスト и русский текст 🙂",
    ]
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False).ids == engine.tokenize(text, special=True).tolist(), (
            text
        )


def test_activations_are_the_same(engine: LlamaEngine, base: TorchBase) -> None:
    ids = engine.tokenize("The lighthouse keeper wrote the number 4829 on the wall and left for the harbor.")
    got = engine.encode(ids, CaptureSpec((0, 12, 20), BLOCKS))
    with torch.no_grad():
        x = base.embed(torch.from_numpy(ids.astype(np.int64))[None])
        _, want = base.run(x, 0, 30, taps=(0, 12, 20), ffn_blocks=BLOCKS)
    for index, tap in enumerate((0, 12, 20)):
        reference = want.taps[tap][0].numpy()
        assert np.abs(got.hidden[index] - reference).max() <= ACTIVATION_TOLERANCE * np.abs(reference).max()
    for index, block in enumerate(BLOCKS):
        reference = want.ffn[block][0].numpy()
        assert np.abs(got.ffn[index] - reference).max() <= ACTIVATION_TOLERANCE * np.abs(reference).max()


def test_logits_and_greedy_tokens_with_an_adapter(engine: LlamaEngine, base: TorchBase, tmp_path: Path) -> None:
    weights = make_lora(base)
    path = tmp_path / "adapter.gguf"
    metadata = AdapterMetadata(name="parity", base_fingerprint=engine.info.fingerprint, rank=8)
    write_adapter(path, weights, engine.info, metadata, dtype="f32")
    lora = torch_lora(weights)
    sampling = Sampling(temperature=0.0, max_tokens=12)
    moved = 0.0
    for question in PROMPTS:
        messages = [ChatMessage("user", question)]
        ids = engine.tokenize(engine.render(messages), special=True)
        plain = torch_logits(base, ids.tolist(), None)
        adapted = torch_logits(base, ids.tolist(), lora)
        engine.set_adapters([])
        assert np.abs(engine.logits(ids) - plain).max() <= 5e-2
        engine.set_adapters([AdapterUse(path)])
        assert np.abs(engine.logits(ids) - adapted).max() <= 5e-2
        moved = max(moved, float(np.abs(adapted - plain).max()))
        made = [token for piece in engine.generate(messages, sampling) for token in piece.token_ids]
        assert made, question
        follow = torch_logits(base, [*ids.tolist(), *made], lora)
        # Each token made by llama.cpp is torch's arg max after the tokens before it: the two greedy runs are one.
        assert follow.argmax(-1)[len(ids) - 1 : len(ids) - 1 + len(made)].tolist() == made, question
    assert moved > 1.0, "the adapter must matter for this test to mean anything"
