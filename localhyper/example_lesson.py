"""Learning a task's examples: what its adapter, made of the description, says of them, and what that lacks.

The examples are read through the quantized model itself, each round under the adapter that the one before left. Knows
the engine, and of files only the adapter's own, in a folder that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localhyper.attach_steps import AttachSteps
from localhyper.batching import groups
from localhyper.engine import AdapterUse, CaptureSpec, Engine, FloatArray
from localhyper.example_fit import MODULE, FitSettings, fit
from localhyper.example_turns import ExampleTurn, example_turns
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.lora import LoraTarget, LoraWeights, even_ranks, merge, recompress
from localhyper.lora_union import combine
from localhyper.output_head import OutputHead
from localhyper.task_examples import TaskExample

MOST_PLACES = 2048  # tokens of answers that are learnt; the longest examples are left out beyond
READ_TOGETHER = 4096  # tokens of examples whose activations are in memory at once
ROWS_TOGETHER = 128  # rows of logits whose residuals are taken in one go


@dataclass(frozen=True)
class Learnt:
    """What learning brought.

    Attributes:
        weights: The adapter with what the examples taught.
        examples: How many were learnt.
        left_out: How many were not: longer than the window, or more than `MOST_PLACES` tokens of answers in all.
        tokens: Tokens of those learnt, prompts included.
    """

    weights: LoraWeights
    examples: int
    left_out: int
    tokens: int


def learn_examples(
    engine: Engine,
    weights: LoraWeights,
    examples: Sequence[TaskExample],
    steps: AttachSteps,
    settings: FitSettings | None = None,
) -> Learnt:
    """Add to a task's adapter what its examples teach.

    Args:
        engine: The base model; adapters in force are put back at the end.
        weights: The adapter made of the description, all scaling in b.
        examples: At least one.
        steps: Told after each round; stops between examples.
        settings: How.

    Raises:
        ModelError: The base model has no chat template, or no output matrix that can be read.
        Cancelled: Asked to stop.
    """
    turns = example_turns(engine, examples)
    kept = _fitting(turns, min(engine.n_ctx, engine.info.context_length))
    if kept:
        before = engine.adapters
        try:
            with tempfile.TemporaryDirectory(prefix="localhyper-learn-") as folder:
                weights = _Lesson(engine, kept, steps, settings or FitSettings(), Path(folder)).learn(weights)
        finally:
            engine.set_adapters(before)
    return Learnt(weights, len(kept), len(turns) - len(kept), sum(len(turn.ids) for turn in kept))


def _fitting(turns: Sequence[ExampleTurn], window: int) -> list[ExampleTurn]:
    """Those that the window holds and, shortest answers first, `MOST_PLACES` do; in their order."""
    chosen, places = set(), 0
    for number in sorted(range(len(turns)), key=lambda i: len(turns[i].wanted)):
        places += len(turns[number].wanted)
        if places <= MOST_PLACES and len(turns[number].ids) < window:
            chosen.add(number)
    return [turn for number, turn in enumerate(turns) if number in chosen]


class _Lesson:
    """One under way."""

    def __init__(
        self, engine: Engine, turns: Sequence[ExampleTurn], steps: AttachSteps, settings: FitSettings, folder: Path
    ) -> None:
        self._engine, self._turns, self._steps, self._settings = engine, turns, steps, settings
        self._file = folder / "task.gguf"
        self._blocks = settings.blocks(engine.info.block_count)
        self._head = OutputHead.open(engine.info.path)

    def learn(self, weights: LoraWeights) -> LoraWeights:
        """All rounds."""
        rounds, update = self._settings.rounds, None
        with self._steps.timed("learn"):
            turn = self._head.turn(self._settings.floor)
            for number in range(rounds):
                self._steps.report("learn", number, rounds)
                self._put_in_force(_with_update(weights, update))
                inputs = self._inputs()
                target = fit(self._blocks, inputs, self._missing() @ turn, self._settings)
                update = self._added(update, target)
        self._steps.report("learn", rounds, rounds)
        return _with_update(weights, update)

    def _put_in_force(self, weights: LoraWeights) -> None:
        metadata = AdapterMetadata(name="learning", base_fingerprint=self._engine.info.fingerprint)
        write_adapter(self._file, weights, self._engine.info, metadata)
        self._engine.set_adapters([AdapterUse(self._file)])

    def _inputs(self) -> FloatArray:
        """What enters the adapted blocks' `ffn_down` where answers are said, float32 [blocks, n, ffn]."""
        capture, kept = CaptureSpec((), self._blocks), []
        for group in groups(self._turns, lambda turn: len(turn.ids), READ_TOGETHER):
            parts = [turn.ids for turn in group]
            found = self._engine.encode_together(parts, capture, adapted=True, cancel=self._steps.cancel)
            # Copies: a view would keep what prompts have left.
            kept += [one.ffn[:, turn.places].copy() for one, turn in zip(found, group, strict=True)]
        return np.concatenate(kept, axis=1)

    def _missing(self) -> FloatArray:
        """Eᵀ(y - p) there, float32 [n, hidden]."""
        found, waiting = [], []
        for number, turn in enumerate(self._turns, 1):
            self._steps.cancel.check()
            waiting.append((turn.wanted, _likely(self._engine.logits(turn.ids[:-1], turn.prompt - 1))))
            if number == len(self._turns) or sum(len(wanted) for wanted, _ in waiting) >= ROWS_TOGETHER:
                wanted, likely = (np.concatenate(part) for part in zip(*waiting, strict=True))
                found.append(self._head.missing(wanted, likely))
                waiting = []
        return np.concatenate(found)

    def _added(self, update: LoraTarget | None, target: LoraTarget) -> LoraTarget:
        """Both together, at the rank budget of the update."""
        parts = [LoraWeights({MODULE: part}) for part in (update, target) if part is not None]
        return recompress(merge(parts), self._settings.rank).weights.targets[MODULE]


def _likely(logits: FloatArray) -> FloatArray:
    """Probabilities of logits [n, vocab], in their place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _with_update(weights: LoraWeights, update: LoraTarget | None) -> LoraWeights:
    """An adapter and the update of some blocks as one adapter of one rank; zeros fill up where there is less."""
    parts = [weights] if update is None else [weights, LoraWeights({MODULE: update})]
    return even_ranks(combine(parts))
