"""Captured activations against an independent numpy forward of the same weights, and every state that could leak."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper.engine import CaptureSpec, ChatMessage, EngineConfig, Sampling
from localhyper.errors import Cancelled, ContextError, ModelError
from localhyper.llama_engine import LlamaEngine
from localhyper.progress import CancelToken
from tests.tiny_gguf import FloatArray, TinySpec, reference_forward, write_tiny_gguf

pytestmark = pytest.mark.native
# Flash attention adds up values in 16 bits: good enough to run with, too coarse to compare with.
EXACT = EngineConfig(n_ctx=512, threads=1, threads_batch=1, flash_attention=False)
TEXT = "In the beginning the engine read a chunk of text, and then another one. "
EVERYTHING = CaptureSpec(taps=(0, 1, 2), ffn_blocks=(0, 1))


def close_to(got: FloatArray, wanted: FloatArray) -> None:
    """Within 2e-3 of the largest value: llama.cpp keeps keys and values in 16 bits, numpy in 64."""
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 2e-3 * np.abs(wanted).max()


@pytest.fixture(params=["llama", "qwen3", "gemma2"])
def spec(request: pytest.FixtureRequest) -> TinySpec:
    return TinySpec(architecture=str(request.param))


@pytest.fixture
def engine(spec: TinySpec, tmp_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(write_tiny_gguf(tmp_path / "m.gguf", spec), EXACT) as made:
        yield made


def test_every_tap_and_ffn_input_is_what_numpy_computes(engine: LlamaEngine, spec: TinySpec) -> None:
    ids = engine.tokenize(TEXT)
    reference = reference_forward(spec, ids)
    got = engine.encode(ids, EVERYTHING)
    assert got.hidden.dtype == got.ffn.dtype == np.float32
    close_to(got.hidden[0], reference.taps[0])
    assert np.abs(got.hidden[0] - reference.taps[0]).max() < 1e-5  # embeddings pass through no attention
    for tap in (1, 2):
        close_to(got.hidden[tap], reference.taps[tap])
    for block in (0, 1):
        close_to(got.ffn[block], reference.ffn[block])


def test_early_exit_and_order_change_nothing(engine: LlamaEngine, spec: TinySpec) -> None:
    ids = engine.tokenize(TEXT)
    everything = engine.encode(ids, EVERYTHING)
    part = engine.encode(ids, CaptureSpec(taps=(1, 0, 1), ffn_blocks=(0,)))
    assert part.hidden.shape == (3, len(ids), spec.hidden)
    for row, tap in enumerate((1, 0, 1)):
        close_to(part.hidden[row], everything.hidden[tap])
    close_to(part.ffn[0], everything.ffn[0])


def test_more_tokens_than_one_batch_are_all_captured(engine: LlamaEngine, spec: TinySpec) -> None:
    ids = np.concatenate([engine.tokenize(TEXT)] * 20)[:700]
    assert len(ids) == 700
    got = engine.encode(ids, CaptureSpec(taps=(1,), ffn_blocks=(0,)))
    reference = reference_forward(spec, ids)
    close_to(got.hidden[0], reference.taps[1])
    close_to(got.ffn[0], reference.ffn[0])
    close_to(engine.encode(ids, CaptureSpec(taps=(2,))).hidden[0], reference.taps[2])


@pytest.mark.parametrize("capture", [EVERYTHING, CaptureSpec(taps=(0, 1), ffn_blocks=(0,))])
def test_sequences_read_together_do_not_see_each_other(
    engine: LlamaEngine, spec: TinySpec, capture: CaptureSpec
) -> None:
    """Short ones, more than fit into a batch, an empty one, and one longer than a batch among them."""
    ids = np.concatenate([engine.tokenize(TEXT)] * 20)
    lengths = (5, 30, 0, 17, 700, 1, *range(20, 60, 3), *[2] * 40, 64)
    parts = [ids[7 * place :][:length] for place, length in enumerate(lengths)]
    found = engine.encode_together(parts, capture)
    assert len(found) == len(parts)
    for part, got in zip(parts, found, strict=True):
        alone = engine.encode(part, capture)
        assert got.hidden.flags.c_contiguous and got.ffn.flags.c_contiguous
        for wanted, array in ((alone.hidden, got.hidden), (alone.ffn, got.ffn)):
            assert array.shape == wanted.shape
            assert np.abs(array - wanted).max(initial=0) <= 1e-3 * np.abs(wanted).max(initial=0)
    reference = reference_forward(spec, parts[3])
    close_to(found[3].hidden[1], reference.taps[capture.taps[1]])
    assert engine.encode_together([], capture) == []


def test_what_sequences_begin_with_is_read_once(engine: LlamaEngine, spec: TinySpec) -> None:
    """As chunks behind one prefix; one of them is all prefix but for its last token, one is a copy."""
    ids = np.concatenate([engine.tokenize(TEXT)] * 3)
    begun, other = ids[:6], ids[::-1]
    parts = [np.concatenate([begun, other[:n]]) for n in (9, 1, 20)] + [ids[:30], ids[:30], begun]
    for some in (parts, parts[:3], parts[3:5], [ids[:1], ids[:1]]):
        for part, got in zip(some, engine.encode_together(some, EVERYTHING), strict=True):
            reference = reference_forward(spec, part)
            for tap in range(spec.blocks + 1):
                close_to(got.hidden[tap], reference.taps[tap])
            for block in range(spec.blocks):
                close_to(got.ffn[block], reference.ffn[block])


def test_a_stop_among_sequences_leaves_the_engine_usable(engine: LlamaEngine) -> None:
    parts = [engine.tokenize(TEXT), engine.tokenize("Another one.")]
    before = engine.encode_together(parts, EVERYTHING)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        engine.encode_together(parts, EVERYTHING, cancel=cancel)
    with pytest.raises(ModelError, match="vocabulary"):
        engine.encode_together([parts[0], np.array([100000], np.int32)], EVERYTHING)
    again = engine.encode_together(parts, EVERYTHING)
    assert all(np.array_equal(one.hidden, other.hidden) for one, other in zip(before, again, strict=True))


def test_flash_attention_stays_within_one_percent(tmp_path: Path, spec: TinySpec) -> None:
    with LlamaEngine.load(write_tiny_gguf(tmp_path / "m.gguf", spec), replace(EXACT, flash_attention=True)) as engine:
        ids = np.concatenate([engine.tokenize(TEXT)] * 20)[:700]
        got = engine.encode(ids, EVERYTHING).hidden
    wanted = reference_forward(spec, ids).taps
    assert np.abs(got - wanted).max() <= 1e-2 * np.abs(wanted).max()


def test_encode_a_b_a_is_identical(engine: LlamaEngine) -> None:
    a, b = engine.tokenize(TEXT), engine.tokenize("Something else, and shorter.")
    capture = CaptureSpec(taps=(0, 1), ffn_blocks=(0, 1))
    first = engine.encode(a, capture)
    engine.encode(b, capture)
    engine.encode(b, CaptureSpec(taps=(1,)))
    again = engine.encode(a, capture)
    assert np.array_equal(first.hidden, again.hidden)
    assert np.array_equal(first.ffn, again.ffn)


def test_chat_and_encode_do_not_disturb_each_other(engine: LlamaEngine) -> None:
    ids = engine.tokenize(TEXT)
    messages = [ChatMessage("user", "hello")]
    before = engine.encode(ids, EVERYTHING)
    reply = [piece.text for piece in engine.generate(messages, Sampling(max_tokens=8))]
    assert np.array_equal(engine.encode(ids, EVERYTHING).hidden, before.hidden)
    assert [piece.text for piece in engine.generate(messages, Sampling(max_tokens=8))] == reply


def test_nothing_asked_or_no_tokens_gives_empty_arrays(engine: LlamaEngine, spec: TinySpec) -> None:
    nothing = engine.encode(engine.tokenize("abc"), CaptureSpec(taps=()))
    assert nothing.hidden.shape == (0, 3, spec.hidden)
    empty = engine.encode(np.empty(0, np.int32), CaptureSpec(taps=(0, 1), ffn_blocks=(1,)))
    assert empty.hidden.shape == (2, 0, spec.hidden)
    assert empty.ffn.shape == (1, 0, spec.ffn)


def test_cancelling_raises_and_the_next_call_is_right(engine: LlamaEngine) -> None:
    ids = engine.tokenize(TEXT)
    before = engine.encode(ids, EVERYTHING)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        engine.encode(ids, EVERYTHING, cancel=cancel)
    assert np.array_equal(engine.encode(ids, EVERYTHING).hidden, before.hidden)


class _Striking(CancelToken):
    """Does something when asked for the tenth time, deep inside the graph."""

    def __init__(self, strike: Callable[[], None]) -> None:
        super().__init__()
        self.strike, self.asked = strike, 0

    @property
    def cancelled(self) -> bool:
        self.asked += 1
        if self.asked == 10:
            self.strike()
        return False


def test_ctrl_c_inside_the_graph_comes_out_and_leaves_the_engine_usable(engine: LlamaEngine) -> None:
    ids = engine.tokenize(TEXT)
    before = engine.encode(ids, EVERYTHING)
    token = _Striking(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        engine.encode(ids, EVERYTHING, cancel=token)
    assert token.asked == 10  # nothing went on after it
    assert np.array_equal(engine.encode(ids, EVERYTHING).hidden, before.hidden)


def test_an_exception_inside_the_graph_comes_out_and_leaves_the_engine_usable(engine: LlamaEngine) -> None:
    def fail() -> None:
        raise MemoryError("scripted")

    ids = engine.tokenize(TEXT)
    before = engine.encode(ids, EVERYTHING)
    with pytest.raises(MemoryError, match="scripted"):
        engine.encode(ids, EVERYTHING, cancel=_Striking(fail))
    assert np.array_equal(engine.encode(ids, EVERYTHING).hidden, before.hidden)


def test_wrong_taps_tokens_and_lengths_are_refused(engine: LlamaEngine, spec: TinySpec) -> None:
    ids = engine.tokenize("abc")
    for capture in (CaptureSpec(taps=(3,)), CaptureSpec(taps=(-1,)), CaptureSpec(taps=(), ffn_blocks=(2,))):
        with pytest.raises(ModelError, match="has 2 blocks"):
            engine.encode(ids, capture)
    with pytest.raises(ModelError, match="vocabulary"):
        engine.encode(np.array([0, 100000], np.int32), EVERYTHING)
    with pytest.raises(ModelError, match="vocabulary"):
        engine.encode(np.array([-1], np.int32), EVERYTHING)
    with pytest.raises(ContextError, match="1025 tokens"):
        engine.encode(np.zeros(spec.context + 1, np.int32), EVERYTHING)
