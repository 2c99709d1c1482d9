"""Learning examples in closed form, round after round, for base models whose gradients are not computed here.

The examples are read through the quantized model itself, each round under the adapter that the one before left. Knows
the engine, and of files only the adapter's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from localhyper.attach_steps import AttachSteps
from localhyper.batching import groups
from localhyper.engine import AdapterUse, CaptureSpec, Engine, FloatArray, TokenArray
from localhyper.example_fit import MODULE, FitSettings, fit
from localhyper.example_turns import READ_TOGETHER, ExampleTurn, read_turns
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.lora import LoraTarget, LoraWeights, even_ranks, merge, recompress
from localhyper.lora_union import combine
from localhyper.output_head import OutputHead
from localhyper.upper_math import softmax

ROWS_TOGETHER = 128  # rows of logits whose residuals are taken in one go


class Rounds:
    """Some examples being learnt."""

    def __init__(
        self, engine: Engine, turns: Sequence[ExampleTurn], steps: AttachSteps, settings: FitSettings, folder: Path
    ) -> None:
        """`folder` is for the adapter of a round.

        Raises:
            ModelError: The base model has no output matrix that can be read.
        """
        self._engine, self._turns, self._steps, self._settings = engine, turns, steps, settings
        self._file = folder / "task.gguf"
        self._blocks = settings.blocks(engine.info.block_count)
        self._head = OutputHead.open(engine.info.path)
        self._done = 0

    def learn(self, weights: LoraWeights) -> LoraWeights:
        """The adapter of the description with what all rounds taught.

        Raises:
            Cancelled: Asked to stop.
        """
        update = None
        with self._steps.timed("learn"):
            turn = self._head.turn(self._settings.floor)
        for _ in range(self._settings.rounds):
            with self._steps.timed("learn"):
                metadata = AdapterMetadata(name="learning", base_fingerprint=self._engine.info.fingerprint)
                write_adapter(self._file, _with_update(weights, update), self._engine.info, metadata)
            inputs, missing = self._read()
            with self._steps.timed("learn"):
                update = self._added(update, fit(self._blocks, inputs, missing @ turn, self._settings))
        self._report()
        return _with_update(weights, update)

    def _read(self) -> tuple[FloatArray, FloatArray]:
        """What enters the adapted blocks' `ffn_down` where answers are said, and what the predictions there lack.

        Returns:
            Inputs, float32 [blocks, n, ffn], and Eᵀ(y - p), float32 [n, hidden].
        """
        kept: list[FloatArray] = []
        lacking = _Lacking(self._head)
        for group in groups(self._turns, lambda turn: len(turn.ids), READ_TOGETHER):
            self._report()  # whoever is told may use the engine meanwhile, under other adapters
            with self._steps.timed("learn"):
                self._engine.set_adapters([AdapterUse(self._file)])
                kept += self._read_group(group, lacking)
            self._done += len(group)
        return np.concatenate(kept, axis=1), lacking.all()

    def _read_group(self, group: Sequence[ExampleTurn], lacking: _Lacking) -> list[FloatArray]:
        """The inputs of each of some examples."""

        def take(_: int, wanted: TokenArray, logits: FloatArray) -> None:
            lacking.add(wanted, logits)

        found = read_turns(self._engine, group, CaptureSpec((), self._blocks), take, self._steps.cancel)
        # Copies: a view would keep what prompts have left.
        return [one.ffn[:, turn.places].copy() for one, turn in zip(found, group, strict=True)]

    def _report(self) -> None:
        """So many of the readings of examples are done."""
        total, spent = self._settings.rounds * len(self._turns), self._steps.timings.get("learn", 0.0)
        self._steps.estimate(spent / self._done * (total - self._done) if 0 < self._done < total else None)
        self._steps.report("learn", self._done, total)

    def _added(self, update: LoraTarget | None, target: LoraTarget) -> LoraTarget:
        """Both together, at the rank budget of the update."""
        parts = [LoraWeights({MODULE: part}) for part in (update, target) if part is not None]
        return recompress(merge(parts), self._settings.rank).weights.targets[MODULE]


class _Lacking:
    """What predictions lack, row by row; some are taken together, for the output matrix is large."""

    def __init__(self, head: OutputHead) -> None:
        self._head = head
        self._found: list[FloatArray] = []
        self._waiting: list[tuple[TokenArray, FloatArray]] = []

    def add(self, wanted: TokenArray, logits: FloatArray) -> None:
        """Rows of logits [n, vocab], which are used up, and the tokens [n] that were right."""
        self._waiting.append((wanted, softmax(logits)))
        if sum(len(tokens) for tokens, _ in self._waiting) >= ROWS_TOGETHER:
            self._settle()

    def all(self) -> FloatArray:
        """Of all rows, float32 [n, hidden]."""
        if self._waiting:
            self._settle()
        return np.concatenate(self._found)

    def _settle(self) -> None:
        wanted, likely = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._found.append(self._head.missing(wanted, likely))
        self._waiting = []


def _with_update(weights: LoraWeights, update: LoraTarget | None) -> LoraWeights:
    """An adapter and the update of some blocks as one adapter of one rank; zeros fill up where there is less."""
    parts = [weights] if update is None else [weights, LoraWeights({MODULE: update})]
    return even_ranks(combine(parts))
