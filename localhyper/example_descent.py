"""What examples teach, by gradient descent: LoRA of the upper blocks, AdamW, a few passes over all examples.

The blocks below are frozen and are read once, through the quantized model; above them gradients come from
`upper_blocks`. Knows no engine and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from localhyper.blas_threads import each, one_thread_a_product
from localhyper.engine import FloatArray, TokenArray
from localhyper.errors import HypernetworkError
from localhyper.initial_factors import InitialFactors
from localhyper.lora import LoraTarget, LoraWeights
from localhyper.lora_union import stack_blocks
from localhyper.memory_check import physical_cores
from localhyper.upper_blocks import Factor, Factors, Lesson, Module, UpperBlocks
from localhyper.upper_weights import UpperWeights

FIRST, SECOND, EPSILON = 0.9, 0.98, 1e-8  # of AdamW: how much moments keep, and what the root is added to
PART_TOKENS = 256  # whose gradients are computed in one go, as long as no example is longer


@dataclass(frozen=True)
class DescentSettings:
    """How examples are learnt; chosen on tasks that no suite has (docs/decisions/0034).

    Attributes:
        depth: Share of the base model's blocks that stay as they are.
        modules: What is adapted in the others.
        rank: Of each.
        rate: Learning rate of AdamW, which goes up over `warm` steps and then down to 0.
        steps: Of the descent, where all examples fit into one.
        passes: Over all examples at least, where they don't.
        step_tokens: Most tokens of examples of a step, prompts included; one example may be longer.
        power: An answer of n tokens has the weight n ** power of the loss over its tokens.
    """

    depth: float = 1 / 2
    modules: tuple[str, ...] = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    rank: int = 8
    rate: float = 4e-3
    warm: int = 3
    steps: int = 8
    passes: int = 3
    step_tokens: int = 1024
    power: float = 0.5

    def start(self, count: int) -> int:
        """The first adapted block of a model of so many."""
        return min(count - 1, round(self.depth * count))

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of one of so many steps."""
        return self.rate * min(1.0, (step + 1) / self.warm) * (1 - step / steps)

    def fitting(self, initial: InitialFactors | None, count: int) -> DescentSettings:
        """These for a model of so many blocks, with the blocks, modules and rank of what is begun with, where given."""
        if initial is None:
            return self
        return replace(self, depth=initial.start / count, modules=tuple(initial.weights.targets), rank=initial.rank)


@dataclass(frozen=True)
class Shown:
    """An example as the upper blocks meet it.

    Attributes:
        states: What enters the first of them, float32 [tokens, hidden].
        place: Where the first token of the answer is said.
        wanted: The answer, int [n], said at `place` and the places after it.
    """

    states: FloatArray
    place: int
    wanted: TokenArray


def planned(lengths: Sequence[int], settings: DescentSettings) -> list[list[int]]:
    """Which examples, by their tokens, each step reads; the same every time."""
    random = np.random.default_rng(0)
    shared = list(_filled(range(len(lengths)), lengths, settings.step_tokens))
    if len(shared) == 1:
        return shared * settings.steps
    found: list[list[int]] = []
    passes = 0
    while passes < settings.passes or len(found) < settings.steps:
        found += _filled(random.permutation(len(lengths)).tolist(), lengths, settings.step_tokens)
        passes += 1
    return found


def _filled(order: Iterable[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    group: list[int] = []
    for number in order:
        if group and sum(lengths[one] for one in (*group, number)) > most:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


class Descent:
    """Some examples being learnt.

    Attributes:
        plan: The examples of each step, to be done in this order.
        factors: What has been learnt.
    """

    def __init__(
        self,
        upper: UpperBlocks,
        shown: Sequence[Shown],
        settings: DescentSettings,
        initial: InitialFactors | None = None,
    ) -> None:
        """`upper` has the adapter of the description in its weights; without `initial` it begins with `fresh` factors.

        Raises:
            HypernetworkError: `initial` does not fit the base model, or the settings.
        """
        self._upper, self._shown, self._settings = upper, shown, settings
        self.plan = planned([len(one.states) for one in shown], settings)
        self.factors = fresh(upper.weights, settings) if initial is None else learnt_before(upper.weights, initial)
        self._optimizer = _AdamW(settings, len(self.plan))

    def step(self, group: Sequence[int]) -> float:
        """Learn from some examples; the loss before, in nats a token, answers weighed by their lengths' power."""
        with one_thread_a_product():
            loss, gradients = _gradients(
                self._upper, [self._shown[number] for number in group], self.factors, self._settings
            )
        self.factors = self._optimizer.step(self.factors, gradients)
        return loss

    def weights(self) -> LoraWeights:
        """What is to be added to the adapter of the description, all scaling in b."""

        def target(name: str) -> LoraTarget:
            of_name = {block: one for (block, module), one in self.factors.items() if module == name}
            return stack_blocks(name, {block: (one.a, one.b) for block, one in of_name.items()})

        return LoraWeights({name: target(name) for name in self._settings.modules})


def fresh(weights: UpperWeights, settings: DescentSettings) -> dict[Module, Factor]:
    """Factors to begin with: a at random, the same every time, b = 0."""
    random = np.random.default_rng(0)

    def factor(module: Module) -> Factor:
        outputs, inputs = weights.matrices[module].shape
        a = random.standard_normal((settings.rank, inputs), dtype=np.float32) / np.float32(inputs**0.5)
        return Factor(a, np.zeros((outputs, settings.rank), np.float32))

    blocks = range(weights.shape.start, weights.shape.end)
    return {(block, name): factor((block, name)) for block in blocks for name in settings.modules}


def learnt_before(weights: UpperWeights, initial: InitialFactors) -> dict[Module, Factor]:
    """Factors to begin with that were learnt over other tasks.

    Raises:
        HypernetworkError: They are of other blocks than the upper ones, or of other sizes.
    """
    found: dict[Module, Factor] = {}
    for name, target in initial.weights.targets.items():
        for block, a, b in zip(target.layers, target.a, target.b, strict=True):
            matrix = weights.matrices.get((block, name))
            if matrix is None or matrix.shape != (len(b), a.shape[1]):
                there = "there is none" if matrix is None else f"the base model has {list(matrix.shape)}"
                raise HypernetworkError(
                    f"factors to begin with of `{name}` in block {block} are for [{len(b)}, {a.shape[1]}], {there}",
                    "use the hypernetwork with the base model that it was made for",
                )
            found[block, name] = Factor(a, b)
    return found


def lesson(shown: Sequence[Shown], share: Callable[[int], float]) -> Lesson:
    """Examples as one lesson; `share` gives the weight of each token of an answer of so many."""
    lengths = tuple(len(one.states) for one in shown)
    starts = np.cumsum([0, *lengths[:-1]])
    places = [start + one.place + np.arange(len(one.wanted)) for start, one in zip(starts, shown, strict=True)]
    shares = [np.full(len(one.wanted), share(len(one.wanted)), np.float32) for one in shown]
    return Lesson(
        np.concatenate([one.states for one in shown]),
        lengths,
        np.concatenate(places),
        np.concatenate([one.wanted for one in shown]),
        np.concatenate(shares),
    )


def _gradients(
    upper: UpperBlocks, shown: Sequence[Shown], factors: Factors, settings: DescentSettings
) -> tuple[float, dict[Module, Factor]]:
    """The mean loss over some examples, and its gradients, several parts of them at once."""
    weights = [len(one.wanted) ** (settings.power - 1) for one in shown]
    whole = sum(weight * len(one.wanted) for weight, one in zip(weights, shown, strict=True))
    parts = [lesson(part, lambda n: n ** (settings.power - 1) / whole) for part in _balanced(shown)]
    losses, found = zip(*each(lambda part: upper.gradients(part, factors), parts), strict=True)
    return sum(losses), {module: _sum([one[module] for one in found]) for module in factors}


def _sum(parts: Sequence[Factor]) -> Factor:
    a: FloatArray = np.sum([part.a for part in parts], axis=0)
    return Factor(a, np.sum([part.b for part in parts], axis=0))


def _balanced(shown: Sequence[Shown]) -> list[list[Shown]]:
    """Parts of about as many tokens each, at least one a core, and not so many that what a pass holds is large."""
    few = -(-sum(len(one.states) for one in shown) // PART_TOKENS)
    parts: list[list[Shown]] = [[] for _ in range(min(max(physical_cores(), few), len(shown)))]
    for one in sorted(shown, key=lambda one: -len(one.states)):
        min(parts, key=lambda part: sum(len(other.states) for other in part)).append(one)
    return parts


class _AdamW:
    """Adam (Kingma and Ba 2015) over factors, without decay of weights: the few steps leave them small."""

    def __init__(self, settings: DescentSettings, steps: int) -> None:
        self._settings, self._steps, self._done = settings, steps, 0
        self._moments: dict[tuple[Module, str], tuple[FloatArray, FloatArray]] = {}

    def step(self, factors: Factors, gradients: Factors) -> dict[Module, Factor]:
        """The factors after a step."""
        rate = self._settings.rate_at(self._done, self._steps)
        self._done += 1
        return {
            module: Factor(
                factor.a - rate * self._direction((module, "a"), gradients[module].a),
                factor.b - rate * self._direction((module, "b"), gradients[module].b),
            )
            for module, factor in factors.items()
        }

    def _direction(self, key: tuple[Module, str], gradient: FloatArray) -> FloatArray:
        before = self._moments.get(key, (np.zeros_like(gradient), np.zeros_like(gradient)))
        first: FloatArray = _mixed(before[0], gradient, FIRST)
        second = _mixed(before[1], np.square(gradient), SECOND)
        self._moments[key] = first, second
        mean, spread = first / (1 - FIRST**self._done), second / (1 - SECOND**self._done)
        direction: FloatArray = (mean / (np.sqrt(spread) + EPSILON)).astype(np.float32)
        return direction


def _mixed(old: FloatArray, new: FloatArray, kept: float) -> FloatArray:
    """A moving mean: so much of the old is kept."""
    mixed: FloatArray = (old * np.float32(kept) + new * np.float32(1 - kept)).astype(np.float32, copy=False)
    return mixed
