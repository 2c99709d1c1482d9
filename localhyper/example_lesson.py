"""Learning a task's examples: which can be, and how, given what this machine and this base model allow.

By gradient descent where gradients of the base model's upper blocks are computed here, else in closed form.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from localhyper.attach_steps import AttachSteps
from localhyper.base_header import module_shapes, read_base_header
from localhyper.engine import Engine
from localhyper.example_descent import PART_TOKENS, DescentSettings, planned
from localhyper.example_fit import FitSettings
from localhyper.example_rounds import Rounds
from localhyper.example_states import learn_by_descent
from localhyper.example_turns import ExampleTurn, example_turns
from localhyper.initial_factors import InitialFactors
from localhyper.lora import LoraWeights
from localhyper.memory_check import physical_cores
from localhyper.task_examples import TaskExample
from localhyper.upper_weights import NotComputedHereError, check_upper

logger = logging.getLogger(__name__)

MOST_PLACES = 2048  # tokens of answers that are learnt; the longest examples are left out beyond
LONGEST = 1024  # tokens of an example whose gradients are computed: attention among them is held for each block


@dataclass(frozen=True)
class LearnSettings:
    """How examples are learnt.

    Attributes:
        descent: By gradients.
        rounds: In closed form.
    """

    descent: DescentSettings = field(default_factory=DescentSettings)
    rounds: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class Learnt:
    """What learning brought.

    Attributes:
        weights: The adapter with what the examples taught.
        examples: How many were learnt.
        left_out: How many were not: longer than the window, or more than `MOST_PLACES` tokens of answers in all.
        tokens: Tokens of those learnt, prompts included.
        no_gradients: Why they were learnt in closed form; empty where they were not.
    """

    weights: LoraWeights
    examples: int
    left_out: int
    tokens: int
    no_gradients: str = ""


def learn_examples(
    engine: Engine,
    weights: LoraWeights,
    examples: Sequence[TaskExample],
    steps: AttachSteps,
    settings: LearnSettings | None = None,
    initial: InitialFactors | None = None,
) -> Learnt:
    """Add to a task's adapter what its examples teach.

    Args:
        engine: The base model; adapters in force are put back at the end.
        weights: The adapter made of the description, all scaling in b.
        examples: At least one.
        steps: Told before every few examples are read; stops while they are.
        settings: How.
        initial: What gradient descent begins with; None = random factors.

    Raises:
        HypernetworkError: `initial` does not fit the base model.
        ModelError: The base model has no chat template, or no output matrix that can be read.
        Cancelled: Asked to stop.
    """
    turns, chosen = example_turns(engine, examples), _chosen(engine, settings, initial)
    kept, why = _fitting(engine, turns), ""
    if kept:
        before = engine.adapters
        try:
            with tempfile.TemporaryDirectory(prefix="localhyper-learn-") as folder:
                weights, why = _learnt(engine, weights, kept, steps, chosen, initial, Path(folder))
        finally:
            engine.set_adapters(before)
    return Learnt(weights, len(kept), len(turns) - len(kept), sum(len(turn.ids) for turn in kept), why)


def _chosen(engine: Engine, settings: LearnSettings | None, initial: InitialFactors | None) -> LearnSettings:
    """The settings for a base model and what is begun with."""
    given = settings or LearnSettings()
    return replace(given, descent=given.descent.fitting(initial, engine.info.block_count))


def _fitting(engine: Engine, turns: Sequence[ExampleTurn]) -> list[ExampleTurn]:
    """Those that the window holds and, shortest answers first, `MOST_PLACES` do; in their order."""
    window, chosen, places = min(engine.n_ctx, engine.info.context_length), set(), 0
    for number in sorted(range(len(turns)), key=lambda i: len(turns[i].wanted)):
        places += len(turns[number].wanted)
        if places <= MOST_PLACES and len(turns[number].ids) < window:
            chosen.add(number)
    return [turn for number, turn in enumerate(turns) if number in chosen]


def _learnt(
    engine: Engine,
    weights: LoraWeights,
    turns: Sequence[ExampleTurn],
    steps: AttachSteps,
    settings: LearnSettings,
    initial: InitialFactors | None,
    folder: Path,
) -> tuple[LoraWeights, str]:
    """The adapter, and why it took no gradients, where it did not."""
    try:
        _check_descent(engine, turns, settings.descent)
        return learn_by_descent(engine, weights, turns, steps, settings.descent, folder, initial), ""
    except NotComputedHereError as error:
        why = str(error)
    logger.info("examples are learnt in closed form, without gradients of `%s`: %s", engine.info.name, why)
    return Rounds(engine, turns, steps, settings.rounds, folder).learn(weights), why


def _check_descent(engine: Engine, turns: Sequence[ExampleTurn], settings: DescentSettings) -> None:
    """Before anything large is read.

    Raises:
        NotComputedHereError: The base model's gradients can't be computed here, or an example is too long for it.
    """
    longest = max(len(turn.ids) for turn in turns)
    if longest > LONGEST:
        raise NotComputedHereError(f"an example has {longest:,} tokens, more than {LONGEST:,}")
    at_once = physical_cores() * max(PART_TOKENS, longest)
    check_upper(engine.info.path, settings.start(engine.info.block_count), at_once, longest)


def learning_operations(
    engine: Engine,
    examples: Sequence[TaskExample],
    settings: LearnSettings | None = None,
    initial: InitialFactors | None = None,
) -> float:
    """Floating-point operations that learning them takes, two for each weight and token of a forward pass.

    A backward pass to the activations takes as many as a forward pass; those to the factors are not counted, which are
    few.

    Raises:
        ModelError: The base model has no chat template.
    """
    chosen, info = _chosen(engine, settings, initial), engine.info
    turns = _fitting(engine, example_turns(engine, examples))
    tokens = sum(len(turn.ids) for turn in turns)
    if not turns:
        return 0.0
    try:
        _check_descent(engine, turns, chosen.descent)
    except NotComputedHereError:
        return 2.0 * info.parameter_count * tokens * chosen.rounds.rounds
    header = read_base_header(info.path)
    blocks = info.block_count - chosen.descent.start(info.block_count)
    upper = blocks * sum(i * o for i, o in module_shapes(info, header.key_length, header.value_length).values())
    plan = [turns[number] for step in planned([len(turn.ids) - 1 for turn in turns], chosen.descent) for number in step]
    read, said = sum(len(turn.ids) for turn in plan), sum(len(turn.wanted) for turn in plan)
    head = info.hidden_size * info.vocab_size
    return 2.0 * info.parameter_count * tokens + 4.0 * (upper * read + head * said)
