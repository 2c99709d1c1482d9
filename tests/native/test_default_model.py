"""The default base model: the same tokens as stock llama-cpp-python, with and without an exported adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localhyper.engine import AdapterUse, BaseModelInfo, CaptureSpec, ChatMessage, EngineConfig, Sampling
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.llama_engine import LlamaEngine
from localhyper.llama_native import repacks_for_amx
from localhyper.lora import LoraTarget, LoraWeights

pytestmark = pytest.mark.native
# As stock `Llama` runs by default, so that tokens can be compared one by one.
AS_STOCK = EngineConfig(n_ctx=512, threads=1, threads_batch=1, flash_attention=False)
QUESTIONS = ("What is the capital of Italy?", "Name three colours.", "Why is the sky blue?")
GREEDY = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def engine(default_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(default_model_path, AS_STOCK) as made:
        yield made


@pytest.fixture(autouse=True)
def without_adapters(engine: LlamaEngine) -> None:
    engine.set_adapters([])


@pytest.fixture(scope="module")
def adapter(engine: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "a.gguf"
    metadata = AdapterMetadata("a", base_fingerprint=engine.info.fingerprint, rank=8)
    write_adapter(path, random_adapter(engine.info), engine.info, metadata)
    return path


def random_adapter(info: BaseModelInfo) -> LoraWeights:
    """Strong enough to change what is said, weak enough to leave more than noise."""
    random = np.random.default_rng(0)
    layers = tuple(range(4, 28, 2))
    a = random.normal(0, info.ffn_size**-0.5, (len(layers), 8, info.ffn_size)).astype(np.float32)
    b = random.normal(0, 0.3, (len(layers), info.hidden_size, 8)).astype(np.float32)
    return LoraWeights({"ffn_down": LoraTarget(layers, a, b)})


def ours(engine: LlamaEngine, question: str) -> list[int]:
    pieces = engine.generate([ChatMessage("user", question)], GREEDY)
    return [token for piece in pieces for token in piece.token_ids]


@contextmanager
def engines_own_kernels() -> Iterator[None]:
    """Stock's class has no way to say that weights are not to be repacked, which AMX's broken kernels would read."""
    from llama_cpp import llama_cpp as bindings

    usual = bindings.llama_model_default_params

    def as_in_the_engine() -> Any:
        params = usual()
        params.use_extra_bufts = not repacks_for_amx(bindings)
        return params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bindings, "llama_model_default_params", as_in_the_engine)
        yield


def stock_tokens(engine: LlamaEngine, model: Path, lora: Path | None) -> list[list[int]]:
    import llama_cpp

    options: dict[str, Any] = {"lora_path": str(lora)} if lora else {}
    with engines_own_kernels():
        stock: Any = llama_cpp.Llama(str(model), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False, **options)
    replies = []
    for question in QUESTIONS:
        stock.reset()
        reply: list[int] = []
        for token in stock.generate([int(t) for t in engine.prompt_ids([ChatMessage("user", question)])], temp=0.0):
            if len(reply) == GREEDY.max_tokens or token in (stock.token_eos(), 2):
                break
            reply.append(token)
        replies.append(reply)
    stock.close()
    return replies


def fresh_replies(engine: LlamaEngine) -> list[list[int]]:
    """Each from an empty cache, as stock's are."""
    replies = []
    for question in QUESTIONS:
        engine.logits(np.zeros(1, np.int32))
        replies.append(ours(engine, question))
    return replies


def test_the_base_speaks_as_in_stock_llama(engine: LlamaEngine, default_model_path: Path) -> None:
    assert fresh_replies(engine) == stock_tokens(engine, default_model_path, None)


def test_an_exported_adapter_speaks_as_in_stock_llama(
    engine: LlamaEngine, default_model_path: Path, adapter: Path
) -> None:
    plain = fresh_replies(engine)
    engine.set_adapters([AdapterUse(adapter)])
    adapted = fresh_replies(engine)
    assert adapted != plain
    assert adapted == stock_tokens(engine, default_model_path, adapter)


def test_swaps_leave_no_trace(engine: LlamaEngine, adapter: Path) -> None:
    ids = engine.tokenize("The capital of Italy is Rome, and the sky is blue.")
    base = engine.logits(ids)
    engine.set_adapters([AdapterUse(adapter)])
    adapted = engine.logits(ids)
    engine.set_adapters([AdapterUse(adapter, 0.0)])
    assert np.array_equal(engine.logits(ids), base)
    engine.set_adapters([AdapterUse(adapter)])
    assert np.array_equal(engine.logits(ids), adapted)
    engine.set_adapters([])
    assert np.array_equal(engine.logits(ids), base)
    assert not np.allclose(adapted, base, atol=0.1)


def test_an_adapter_in_the_chat_does_not_touch_the_encoder(engine: LlamaEngine, adapter: Path) -> None:
    ids = engine.tokenize("The capital of Italy is Rome, and the sky is blue.")
    capture = CaptureSpec(taps=(0, 12), ffn_blocks=(6, 26))
    before = engine.encode(ids, capture)
    engine.set_adapters([AdapterUse(adapter)])
    after = engine.encode(ids, capture)
    assert np.array_equal(before.hidden, after.hidden)
    assert np.array_equal(before.ffn, after.ffn)
    assert before.ffn.shape == (2, len(ids), engine.info.ffn_size)


def test_characters_of_several_tokens_are_never_shown_in_halves(engine: LlamaEngine) -> None:
    request = "Repeat exactly: \U0001f600 \U0001f680 日本語 ελληνικά"
    pieces = list(engine.generate([ChatMessage("user", request)], Sampling(max_tokens=40)))
    ids = [token for piece in pieces for token in piece.token_ids]
    assert "".join(piece.text for piece in pieces) == engine.detokenize(ids)
    whole = engine.detokenize(engine.tokenize(request))
    assert whole == request


def test_a_likely_continuation_scores_above_an_unlikely_one(engine: LlamaEngine) -> None:
    prompt = engine.render([ChatMessage("user", "What is the capital of Italy?")])
    right = engine.score(prompt, "The capital of Italy is Rome.")
    wrong = engine.score(prompt, "The capital of Italy is Tokyo.")
    assert right.sum() > wrong.sum() + 2
    assert (right <= 0).all()


def test_the_default_template_has_its_own_system_message(engine: LlamaEngine) -> None:
    rendered = engine.render([ChatMessage("user", "x")])
    assert rendered.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert "SmolLM" not in engine.render([ChatMessage("system", "S"), ChatMessage("user", "x")])


def test_the_window_is_the_models_own(default_model_path: Path) -> None:
    with LlamaEngine.load(default_model_path, replace(AS_STOCK, n_ctx=0)) as engine:
        assert engine.n_ctx == 8192
