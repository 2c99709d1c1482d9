"""Sequences through the clean context, several in a native call: their activations, and logits where those are wanted.

What all sequences of a call begin with is read once and belongs to all of them. Knows contexts and the capture of
activations, neither models' files nor adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from localhyper.batching import groups
from localhyper.engine import Activations, CaptureSpec, FloatArray, TakeRows, TokenArray
from localhyper.errors import ModelError
from localhyper.llama_capture import GraphCapture
from localhyper.llama_native import NativeContext
from localhyper.progress import CancelToken


@dataclass(frozen=True)
class _Part:
    """A sequence: its number among all, its tokens, and from which position on its logits are wanted."""

    number: int
    ids: TokenArray
    first: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Reader:
    """What sequences are read with.

    Attributes:
        context: Its cache is empty before and after.
        capture: Reads activations out of its graphs.
        spec: Which.
        all_rows: Whether rows of all tokens must be wanted: the last block computes no others.
        cancel: Stops between nodes of a graph.
    """

    context: NativeContext
    capture: GraphCapture
    spec: CaptureSpec
    all_rows: bool
    cancel: CancelToken

    def read(
        self, sequences: Sequence[TokenArray], firsts: Sequence[int] | None = None, take: TakeRows | None = None
    ) -> list[Activations]:
        """Activations of each, and its logits from position `firsts` on, which `take` is given in their order.

        Raises:
            ModelError: llama.cpp failed, or computes no such activations.
            Cancelled: `cancel` was set.
        """
        begin = [len(ids) for ids in sequences] if firsts is None else firsts
        parts = [_Part(*of_one) for of_one in zip(range(len(sequences)), sequences, begin, strict=True)]
        found: list[Activations] = []
        for group in groups(parts, self._room_of, self.context.batch, self.context.sequences):
            found += self._read_group(group, take)
        return found

    def _room_of(self, part: _Part) -> int:
        """Tokens of a call that a sequence takes, its rows of logits counted as so many of them."""
        rows = len(part) if self.all_rows else len(part) - part.first
        return max(len(part), -(-rows * self.context.batch // self.context.outputs))

    def _read_group(self, group: Sequence[_Part], take: TakeRows | None) -> list[Activations]:
        """Several sequences of at most a call in all, or one of any length."""
        context, shared = self.context, _shared(group)
        ends = shared + np.cumsum([len(part) - shared for part in group])

        def stop() -> bool:
            return context.interrupted or self.cancel.cancelled

        self.capture.begin(self.spec, int(ends[-1]), stop, to_end=take is not None)
        try:
            if ends[-1] and (take is not None or self.spec.taps or self.spec.ffn_blocks):
                if len(group) > 1:
                    self._read_together(group, shared, take)
                else:
                    self._read_alone(group[0], take)
            both = self.capture.result()
            if len(group) == 1:
                return [both]
            hidden, ffn = (_split(array, shared, ends.tolist()) for array in (both.hidden, both.ffn))
            return [Activations(*of_one) for of_one in zip(hidden, ffn, strict=True)]
        finally:
            self.capture.release()
            context.clear()

    def _read_together(self, group: Sequence[_Part], shared: int, take: TakeRows | None) -> None:
        wanted = [part.first <= np.arange(shared, len(part)) for part in group]
        rows = [self._rows(flags) for flags in (np.zeros(shared, np.bool_), *wanted)]
        flags = _one_at_least(np.concatenate(rows))
        self.capture.expect(0, len(flags))
        self._run(partial(self.context.decode_together, [part.ids for part in group], flags, shared))
        if take is not None:
            logits, place = self.context.logits(int(flags.sum())), int(rows[0].sum())
            for part, asked, kept in zip(group, wanted, rows[1:], strict=True):
                of_part = logits[place : place + int(kept.sum())]
                place += len(of_part)
                _hand_over(take, part, shared, of_part[asked[kept]])

    def _read_alone(self, part: _Part, take: TakeRows | None) -> None:
        for start, end in self._steps(part):
            asked = part.first <= np.arange(start, end)
            kept = _one_at_least(self._rows(asked))
            self.capture.expect(start, end - start)
            self._run(partial(self.context.decode, part.ids[start:end], start, kept))
            if take is not None:
                _hand_over(take, part, start, self.context.logits(int(kept.sum()))[asked[kept]])

    def _steps(self, part: _Part) -> Iterator[tuple[int, int]]:
        """Stretches of at most a batch with at most as many rows as a call may have."""
        first = 0 if self.all_rows else part.first
        start = 0
        while start < len(part):
            end = min(len(part), start + self.context.batch, max(start, first) + self.context.outputs)
            yield start, end
            start = end

    def _rows(self, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.ones_like(asked) if self.all_rows else asked

    def _run(self, decode: Callable[[], int]) -> None:
        with self.context.abort_when(lambda: self.cancel.cancelled):  # between two captured nodes only this can stop it
            status = decode()
        self.cancel.check()
        self.capture.finish_batch()
        if status != 0:
            raise ModelError(f"llama.cpp failed with status {status} while encoding", "the log file says why")


def _shared(group: Sequence[_Part]) -> int:
    """How many tokens all begin with; each keeps one of its own, and those with logits are nobody's but its own."""
    if len(group) < 2:
        return 0
    most = max(0, min(min(len(part) - 1, part.first) for part in group))
    begun = np.stack([part.ids[:most] for part in group])
    return int((begun == begun[0]).all(axis=0).cumprod().sum())


def _one_at_least(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of which tokens logits are computed: llama.cpp insists on one."""
    flags = wanted.copy()
    flags[-1:] |= not wanted.any()
    return flags


def _hand_over(take: TakeRows, part: _Part, start: int, rows: FloatArray) -> None:
    if len(rows):
        take(part.number, max(start, part.first), rows)


def _split(array: FloatArray, shared: int, ends: Sequence[int]) -> list[FloatArray]:
    """What was captured of each sequence, [rows, tokens, width], from what was captured of all."""
    begun = array[:, :shared]
    starts = [shared, *ends[:-1]]
    return [np.concatenate((begun, array[:, start:end]), axis=1) for start, end in zip(starts, ends, strict=True)]
