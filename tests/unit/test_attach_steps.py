"""Chunks that are read several at a time: which ones together, what is told and timed, and where a run stops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from localhyper.attach_steps import TOGETHER, AttachSteps
from localhyper.batching import groups
from localhyper.chunking import Chunk
from localhyper.engine import Activations, CaptureSpec, TokenArray
from localhyper.errors import Cancelled
from localhyper.hypernet import OnnxHypernetwork
from localhyper.progress import CancelToken, Progress
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import write


class Together(ScriptedEngine):
    """Remembers which sequences it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        """As ever."""
        self.batches.append(len(parts))
        return super().encode_together(parts, capture, cancel=cancel)


def chunks_of(*lengths: int) -> list[Chunk]:
    """Chunks with so many tokens."""
    return [Chunk(i, np.arange(1, n + 1, dtype=np.int32), "", 0, 0) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    ("lengths", "together"),
    [
        ((), []),
        ((300,), [1]),
        ((10, 20, 30), [3]),
        ((64, 64, 64, 64, 1), [4, 1]),
        ((200, 57, 256, 257, 0, 1), [1, 1, 1, 1, 2]),
        ((1, 300, 1), [1, 1, 1]),
    ],
)
def test_as_many_chunks_are_read_together_as_fit(lengths: tuple[int, ...], together: list[int]) -> None:
    chunks = chunks_of(*lengths)
    made = list(groups(chunks, lambda chunk: len(chunk.token_ids), TOGETHER))
    assert [len(group) for group in made] == together
    assert [chunk for group in made for chunk in group] == chunks
    pairs = list(groups(chunks, lambda chunk: len(chunk.token_ids), TOGETHER, 2))
    assert [chunk for group in pairs for chunk in group] == chunks and max(map(len, pairs), default=0) <= 2
    assert len(pairs) >= len(made)


def test_they_come_in_order_each_with_its_own_activations(tmp_path: Path) -> None:
    info = OnnxHypernetwork.load(write(tmp_path / "h.onnx"), threads=1).info
    chunks, engine, told = chunks_of(100, 90, 80, 70), Together(), list[Progress]()
    steps = AttachSteps("T", told.append, CancelToken())
    found = list(steps.read(engine, info, chunks, 1))
    assert [place for place, _, _ in found] == [1, 2, 3] and engine.batches == [3]
    for place, chunk, activations in found:
        assert chunk is chunks[place] and activations.ffn.shape[1] == len(chunk.token_ids)
        alone = ScriptedEngine().encode(chunk.token_ids, info.capture)
        np.testing.assert_array_equal(activations.ffn, alone.ffn)
    wanted = [(stage, place) for place in (1, 2, 3) for stage in ("encode", "generate")]
    assert [(one.stage, one.done) for one in told] == [*wanted, ("generate", 4)]
    assert steps.timings["encode"] > 0


def test_a_stop_while_they_are_worked_up_comes_before_the_next_one(tmp_path: Path) -> None:
    info = OnnxHypernetwork.load(write(tmp_path / "h.onnx"), threads=1).info
    cancel, done = CancelToken(), []
    steps = AttachSteps("T", lambda _: None, cancel)
    with pytest.raises(Cancelled):
        for place, _, _ in steps.read(Together(), info, chunks_of(5, 5, 5)):
            done.append(place)
            cancel.cancel()
    assert done == [0]
