"""Examples read once through the quantized model, as gradient descent wants them, and what it makes of them.

What the upper blocks compute in numpy is held to llama.cpp's own logits of the very examples before anything is learnt.
Knows the engine, and of files only the adapter's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from localhyper.attach_steps import AttachSteps
from localhyper.batching import groups
from localhyper.engine import Activations, AdapterUse, CaptureSpec, Engine, FloatArray, TokenArray
from localhyper.example_descent import PART_TOKENS, Descent, DescentSettings, Shown, lesson, planned
from localhyper.example_turns import READ_TOGETHER, ExampleTurn, read_turns
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.initial_factors import InitialFactors
from localhyper.lora import LoraWeights, even_ranks
from localhyper.lora_union import combine
from localhyper.progress import CancelToken
from localhyper.upper_blocks import UpperBlocks
from localhyper.upper_math import log_likelihoods
from localhyper.upper_weights import NotComputedHereError, read_upper

TOLERANCE = 0.5  # nats, on the mean, between log-likelihoods of the answers; rounding in llama.cpp makes 0.03 to 0.16


def learn_by_descent(
    engine: Engine,
    weights: LoraWeights,
    turns: Sequence[ExampleTurn],
    steps: AttachSteps,
    settings: DescentSettings,
    folder: Path,
    initial: InitialFactors | None = None,
) -> LoraWeights:
    """The adapter with what the examples teach.

    Args:
        engine: Its adapters are others afterwards.
        weights: The adapter made of the description.
        turns: The examples.
        steps: Told before every few examples are read and before every step; stops there.
        settings: How; of the blocks, modules and rank of `initial`, where it is given.
        folder: For the adapter's file.
        initial: What is begun with; None = random factors.

    Raises:
        HypernetworkError: `initial` does not fit the base model.
        NotComputedHereError: The base model's gradients can't be computed here.
        Cancelled: Asked to stop.
    """
    start = settings.start(engine.info.block_count)
    count = _Count(steps, len(turns), planned([len(turn.ids) - 1 for turn in turns], settings))
    shown, likely = _read(engine, even_ranks(weights), turns, start, count, folder)
    with steps.timed("learn"):
        upper = UpperBlocks(read_upper(engine.info.path, start).with_adapter(weights))
        _hold(upper, shown, likely)
        descent = Descent(upper, shown, settings, initial)
    for group in descent.plan:
        count.begin(len(group))
        with steps.timed("learn"):
            loss = descent.step(group)
        if not math.isfinite(loss):
            raise NotComputedHereError(f"the loss went to {loss}")
    count.end()
    return even_ranks(combine([weights, descent.weights()]))


class _Count:
    """Says how many readings of examples are done, those through the quantized model first, and how long is left."""

    def __init__(self, steps: AttachSteps, examples: int, plan: Sequence[Sequence[int]]) -> None:
        self.steps, self._examples, self._done = steps, examples, 0
        self._total = examples + sum(map(len, plan))
        self._before = 0.0

    def begin(self, examples: int) -> None:
        """So many are read next."""
        spent = self.steps.timings.get("learn", 0.0)
        if self._done <= self._examples:
            self._before = spent  # the pace of the descent says how long it takes
        done, total = self._done - self._examples, self._total - self._examples
        self.steps.estimate((spent - self._before) / done * (total - done) if done > 0 else None)
        self.steps.report("learn", self._done, self._total)
        self.steps.cancel.check()
        self._done += examples

    def end(self) -> None:
        """All are done."""
        self.steps.estimate(None)
        self.steps.report("learn", self._total, self._total)


def _read(
    engine: Engine, weights: LoraWeights, turns: Sequence[ExampleTurn], start: int, count: _Count, folder: Path
) -> tuple[list[Shown], list[FloatArray]]:
    """The examples as the upper blocks meet them, and log-likelihoods of their answers' tokens.

    Args:
        engine: The base model.
        weights: Are in force meanwhile.
        turns: The examples.
        start: The first upper block.
        count: Is told before every few.
        folder: For the file of `weights`.
    """
    path, info = folder / "task.gguf", engine.info
    write_adapter(path, weights, info, AdapterMetadata(name="learning", base_fingerprint=info.fingerprint))
    shown: list[Shown] = []
    likely: list[FloatArray] = []
    for group in groups(turns, lambda turn: len(turn.ids), READ_TOGETHER):
        count.begin(len(group))  # whoever is told may use the engine meanwhile, under other adapters
        with count.steps.timed("learn"):
            engine.set_adapters([AdapterUse(path)])
            read, said = _read_group(engine, group, CaptureSpec((start,)), count.steps.cancel)
        shown += [
            Shown(one.hidden[0].copy(), turn.prompt - 1, turn.wanted) for one, turn in zip(read, group, strict=True)
        ]
        likely += said
    return shown, likely


def _read_group(
    engine: Engine, group: Sequence[ExampleTurn], capture: CaptureSpec, cancel: CancelToken
) -> tuple[list[Activations], list[FloatArray]]:
    said: list[list[FloatArray]] = [[] for _ in group]

    def take(number: int, wanted: TokenArray, logits: FloatArray) -> None:
        said[number].append(log_likelihoods(logits, wanted))

    read = read_turns(engine, group, capture, take, cancel)
    return read, [np.concatenate(rows) for rows in said]


def _hold(upper: UpperBlocks, shown: Sequence[Shown], likely: Sequence[FloatArray]) -> None:
    """Hold what is computed here to what llama.cpp said of the first examples.

    Raises:
        NotComputedHereError: It says something else.
    """
    first = next(groups(shown, lambda one: len(one.states), PART_TOKENS))
    some = lesson(first, lambda _: 1.0)
    mine, said = log_likelihoods(upper.logits(some), some.wanted), np.concatenate(likely[: len(first)])
    apart = float(np.abs(mine - said).mean())
    if not apart <= TOLERANCE:
        raise NotComputedHereError(f"log-likelihoods are {apart:.2f} nats apart from llama.cpp's")
