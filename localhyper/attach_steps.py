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

from localhyper.bundle import BundleInfo
from localhyper.chunking import Chunk
from localhyper.engine import Activations, Engine, TokenArray
from localhyper.progress import CancelToken, Progress, ProgressCallback

ETA_WINDOW = 8
ETA_AFTER = 3


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

    def over(self, chunks: Sequence[Chunk], first: int = 0) -> Iterator[tuple[int, Chunk]]:
        """Chunks with their places, from place `first` on, each of which the caller reads and works up.

        Raises:
            Cancelled: `cancel` was set.
        """
        eta, total = _MovingEta(), len(chunks)
        for place in range(first, total):
            self.cancel.check()
            self._left = eta.seconds(total - place)
            self.report("encode", place, total)
            started = time.monotonic()
            yield place, chunks[place]
            eta.add(time.monotonic() - started)
        self._left = None
        self.report("generate", total, total)

    def encode(self, engine: Engine, info: BundleInfo, chunk: Chunk) -> Activations:
        """`encode_chunk`, timed."""
        with self.timed("encode"):
            return encode_chunk(engine, info, chunk.token_ids, self.cancel)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the time inside towards a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - started


def encode_chunk(engine: Engine, info: BundleInfo, ids: TokenArray, cancel: CancelToken) -> Activations:
    """Activations of a chunk's tokens; those of prefix and suffix round it are dropped unless they are read.

    Raises:
        ContextError: The chunk is longer than the model's window.
        Cancelled: `cancel` was set.
    """
    before = engine.tokenize(info.prefix, special=True) if info.prefix else np.empty(0, np.int32)
    after = engine.tokenize(info.suffix, special=True) if info.suffix else np.empty(0, np.int32)
    whole = engine.encode(np.concatenate([before, ids, after]).astype(np.int32), info.capture, cancel=cancel)
    if info.reads_prefix:
        return whole
    inside = slice(len(before), len(before) + len(ids))
    return Activations(np.ascontiguousarray(whole.hidden[:, inside]), np.ascontiguousarray(whole.ffn[:, inside]))


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
