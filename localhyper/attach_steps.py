"""Making an adapter chunk by chunk: progress with the time left, stops between chunks, seconds per stage.

Knows no weights; what is done with a chunk is its caller's.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from localhyper.batching import groups
from localhyper.bundle import BundleInfo
from localhyper.chunking import Chunk
from localhyper.engine import Activations, Engine, TokenArray
from localhyper.progress import CancelToken, Progress, ProgressCallback

ETA_WINDOW = 8
ETA_AFTER = 3
TOGETHER = 256  # tokens of the chunks that are read at once: few enough to stop soon and to keep in memory


@dataclass
class AttachSteps:
    """One adapter under way.

    Attributes:
        title: Of its document.
        progress: Told at every step.
        cancel: Read before every chunk.
        timings: Stage to the seconds spent in it.
    """

    title: str
    progress: ProgressCallback
    cancel: CancelToken
    timings: dict[str, float] = field(default_factory=dict)
    _left: float | None = None

    def report(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done."""
        self.progress(Progress(stage, done, total, self.title, self._left))

    def estimate(self, left: float | None) -> None:
        """What is told of the seconds left from now on; None = nobody knows."""
        self._left = left

    def read(
        self, engine: Engine, info: BundleInfo, chunks: Sequence[Chunk], first: int = 0
    ) -> Iterator[tuple[int, Chunk, Activations]]:
        """Chunks with their places and activations, from place `first` on, which the caller works up.

        Raises:
            ContextError: A chunk is longer than the model's window.
            Cancelled: `cancel` was set.
        """
        eta, place, total = _MovingEta(), first, len(chunks)
        for group in groups(chunks[first:], lambda chunk: len(chunk.token_ids), TOGETHER):
            self._begin(eta, place, total)
            started = time.monotonic()
            with self.timed("encode"):
                found = encode_chunks(engine, info, [chunk.token_ids for chunk in group], self.cancel)
            each = (time.monotonic() - started) / len(group)
            for number, (chunk, activations) in enumerate(zip(group, found, strict=True)):
                if number:
                    self._begin(eta, place, total)
                self.report("generate", place, total)
                started = time.monotonic()
                yield place, chunk, activations
                eta.add(each + time.monotonic() - started)
                place += 1
        self._left = None
        self.report("generate", total, total)

    def _begin(self, eta: _MovingEta, place: int, total: int) -> None:
        """A chunk is next: whoever is told counts them."""
        self._left = eta.seconds(total - place)
        self.report("encode", place, total)
        self.cancel.check()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the time inside towards a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - started


def encode_chunks(
    engine: Engine, info: BundleInfo, chunks: Sequence[TokenArray], cancel: CancelToken
) -> list[Activations]:
    """Activations of the chunks' tokens; those of prefix and suffix round each are dropped unless they are read.

    Raises:
        ContextError: A chunk is longer than the model's window.
        Cancelled: `cancel` was set.
    """
    before = engine.tokenize(info.prefix, special=True) if info.prefix else np.empty(0, np.int32)
    after = engine.tokenize(info.suffix, special=True) if info.suffix else np.empty(0, np.int32)
    wholes = [np.concatenate([before, ids, after]).astype(np.int32) for ids in chunks]
    found = engine.encode_together(wholes, info.capture, cancel=cancel)
    if info.reads_prefix:
        return found
    own = [slice(len(before), len(before) + len(ids)) for ids in chunks]
    return [
        Activations(np.ascontiguousarray(one.hidden[:, inside]), np.ascontiguousarray(one.ffn[:, inside]))
        for one, inside in zip(found, own, strict=True)
    ]


class _MovingEta:
    """Seconds left from the last few chunks; unknown until some are done."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=ETA_WINDOW)
        self._count = 0

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._count += 1

    def seconds(self, left: int) -> float | None:
        if self._count < ETA_AFTER:
            return None
        return left * sum(self._seconds) / len(self._seconds)
