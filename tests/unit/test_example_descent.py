"""Gradient descent over examples: what a step reads, that it learns, that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from localhyper.example_descent import Descent, DescentSettings, Shown, lesson, planned
from localhyper.lora import validate
from localhyper.upper_blocks import Factor, UpperBlocks
from localhyper.upper_weights import read_upper
from tests.tiny_gguf import TinySpec, reference_forward, write_tiny_gguf

SPEC = TinySpec(blocks=3)
SETTINGS = DescentSettings(rank=4, rate=2e-2, steps=30)


@pytest.fixture(scope="module")
def upper(tmp_path_factory: pytest.TempPathFactory) -> UpperBlocks:
    return UpperBlocks(read_upper(write_tiny_gguf(tmp_path_factory.mktemp("u") / "t.gguf", SPEC), 1))


def shown(count: int = 5) -> list[Shown]:
    """Sequences of different lengths, each of which is to end in the same three tokens."""
    random, made = np.random.default_rng(3), []
    for number in range(count):
        ids = np.concatenate([random.integers(10, 200, 6 + number), [50, 60, 70]]).astype(np.int32)
        made.append(Shown(reference_forward(SPEC, ids[:-1]).taps[1], 5 + number, ids[-3:]))
    return made


def test_it_learns_what_the_examples_say(upper: UpperBlocks) -> None:
    descent = Descent(upper, shown(), SETTINGS)
    assert descent.plan == [[0, 1, 2, 3, 4]] * 30
    losses = [descent.step(group) for group in descent.plan]
    assert losses[-1] < 0.2 * losses[0]
    weights = validate(descent.weights())
    assert set(weights.targets) == set(SETTINGS.modules) and weights.rank == 4
    assert all(target.layers == (1, 2) for target in weights.targets.values())
    whole = lesson(shown(), lambda _: 1.0)
    assert (upper.logits(whole, descent.factors).argmax(axis=1) == whole.wanted).mean() > 0.9
    assert (upper.logits(whole).argmax(axis=1) == whole.wanted).mean() < 0.2


def test_it_is_the_same_every_time_and_begins_with_nothing(upper: UpperBlocks) -> None:
    one, two = (Descent(upper, shown(), SETTINGS) for _ in range(2))
    assert not any(factor.b.any() for factor in one.factors.values())
    for descent in (one, two):
        for group in descent.plan[:2]:
            descent.step(group)
    for module, factor in one.factors.items():
        assert np.array_equal(factor.a, two.factors[module].a) and np.array_equal(factor.b, two.factors[module].b)


def test_gradients_are_those_of_the_mean_however_examples_are_shared_out(
    upper: UpperBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is the mean over examples, an answer of n tokens weighed by the root of n."""
    found = []
    for cores in (1, 3, 8):
        monkeypatch.setattr("localhyper.example_descent.physical_cores", lambda cores=cores: cores)
        descent = Descent(upper, shown(), SETTINGS)
        loss = descent.step([0, 2, 3])
        found.append((loss, descent.factors[2, "attn_q"].a))
    for loss, a in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        np.testing.assert_allclose(a, found[0][1], atol=1e-4)
    uneven = shown()
    uneven[1] = Shown(uneven[1].states, uneven[1].place + 2, uneven[1].wanted[2:])  # one token of answer
    whole = lesson([uneven[0], uneven[1]], lambda n: n**-0.5 / (3**0.5 + 1))
    logits = upper.logits(whole).astype(np.float64)
    nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), whole.wanted]
    got = Descent(upper, uneven, SETTINGS).step([0, 1])
    assert got == pytest.approx((nats[:3].sum() / 3**0.5 + nats[3]) / (3**0.5 + 1), rel=1e-5)


def test_gradients_to_all_factors_are_those_of_finite_differences(upper: UpperBlocks) -> None:
    whole, random = lesson(shown(3), lambda _: 0.1), np.random.default_rng(4)

    def factor(module: tuple[int, str]) -> Factor:
        outputs, inputs = upper.weights.matrices[module].shape
        a, b = random.normal(size=(3, inputs)), random.normal(size=(outputs, 3))
        return Factor((a / inputs**0.5).astype(np.float32), (0.3 * b).astype(np.float32))

    factors = {module: factor(module) for module in upper.weights.matrices}
    _, gradients = upper.gradients(whole, factors)
    assert set(gradients) == set(factors) and len(factors) == 14
    for module in factors:
        for part in ("a", "b"):
            gradient = getattr(gradients[module], part)
            way = gradient / np.linalg.norm(gradient)
            loss = []
            for step in (0.02, -0.02):
                moved = {"a": factors[module].a, "b": factors[module].b}
                moved[part] = moved[part] + step * way
                loss.append(upper.gradients(whole, {**factors, module: Factor(**moved)})[0])
            assert (loss[0] - loss[1]) / 0.04 == pytest.approx(np.linalg.norm(gradient), rel=0.03), (module, part)


def test_many_examples_are_read_a_few_a_step_in_another_order_each_pass() -> None:
    lengths = [40] * 50
    settings = DescentSettings(step_tokens=400, steps=8, passes=3)
    plan = planned(lengths, settings)
    assert len(plan) == 15 and all(len(group) == 10 for group in plan)
    for one in range(3):
        assert sorted(number for group in plan[5 * one : 5 * one + 5] for number in group) == list(range(50))
    assert plan[0] != plan[5] and plan == planned(lengths, settings)
    few = planned([300, 300, 900], settings)
    assert len(few) >= 8 and {number for group in few for number in group} == {0, 1, 2}
    assert planned([900], settings) == [[0]] * 8


def test_adam_is_the_published_one() -> None:
    """Two steps of one number, by hand: m / (1 - β₁ᵗ) over the root of v / (1 - β₂ᵗ), the rate up and down again."""
    from localhyper.example_descent import _AdamW

    optimizer = _AdamW(DescentSettings(rate=0.1, warm=2), 4)
    module = (0, "attn_q")
    one = np.ones((1, 1), np.float32)
    factors = {module: Factor(one, one)}
    for gradient in (3.0, -1.0):
        factors = optimizer.step(factors, {module: Factor(gradient * one, 0 * one)})
    first = 1 - 0.1 * 0.5 * 1.0
    mean, spread = (0.9 * 0.3 - 0.1) / (1 - 0.81), (0.98 * 0.02 * 9 + 0.02) / (1 - 0.98**2)
    assert float(factors[module].a[0, 0]) == pytest.approx(first - 0.1 * 0.75 * mean / spread**0.5, rel=1e-5)
    assert float(factors[module].b[0, 0]) == 1.0


@pytest.mark.parametrize(("count", "start"), [(30, 15), (16, 8), (2, 1), (1, 0), (3, 2)])
def test_the_lower_blocks_stay_as_they_are(count: int, start: int) -> None:
    assert DescentSettings().start(count) == start
