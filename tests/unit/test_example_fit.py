"""The closed form of a round: what it answers to the inputs it was made of, to others, and to none at all."""

from __future__ import annotations

import numpy as np
import pytest

from localhyper.example_fit import FitSettings, fit
from localhyper.lora import LoraWeights, validate

RNG = np.random.default_rng(3)
SETTINGS = FitSettings(gain=2.0, ridge=1.0)


def update(inputs: np.ndarray, values: np.ndarray, settings: FitSettings = SETTINGS) -> np.ndarray:
    """ΔW of the one block."""
    target = fit((5,), inputs[None].astype(np.float32), values.astype(np.float32), settings)
    validate(LoraWeights({"ffn_down": target}))
    assert target.layers == (5,)
    return np.asarray(target.b[0] @ target.a[0])


def test_it_is_the_ridge_regression_of_the_values_on_the_inputs() -> None:
    inputs, values = RNG.normal(size=(7, 40)), RNG.normal(size=(7, 12))
    lengths = np.linalg.norm(inputs, axis=1)
    keys = inputs / lengths[:, None]
    # The primal form: (KᵀK + λI)⁻¹ KᵀV, a matrix as wide as the inputs.
    wanted = 2.0 * np.linalg.solve(keys.T @ keys + np.eye(40), keys.T @ values).T / lengths.mean()
    np.testing.assert_allclose(update(inputs, values), wanted, rtol=1e-4, atol=1e-6)


def test_inputs_that_have_nothing_in_common_get_their_own_values() -> None:
    inputs, values = 3.0 * np.eye(4, 40), RNG.normal(size=(4, 12))
    made = update(inputs, values)
    np.testing.assert_allclose(made @ inputs.T, values.T, atol=1e-5)  # g / (1 + λ) = 1
    assert np.abs(made @ np.eye(40)[:, 10:]).max() == 0, "an input that has nothing of theirs gets nothing"


def test_many_like_examples_say_what_they_agree_on_and_no_more_than_one_does_by_far() -> None:
    direction, value = RNG.normal(size=40), RNG.normal(size=12)
    one = update(direction[None], value[None]) @ direction
    many = update(np.tile(direction, (50, 1)), np.tile(value, (50, 1))) @ direction
    assert np.allclose(one, value, atol=1e-5) and np.linalg.norm(many) < 2 * np.linalg.norm(value) + 1e-5
    torn = update(np.tile(direction, (2, 1)), np.stack([value, -value])) @ direction
    assert np.abs(torn).max() < 1e-5, "two that contradict each other say nothing"


def test_inputs_of_zeros_and_twins_do_no_harm() -> None:
    inputs = np.zeros((3, 40))
    assert not update(inputs, RNG.normal(size=(3, 12))).any()
    twins = np.tile(RNG.normal(size=40) * 1e4, (400, 1))
    assert np.isfinite(update(twins, RNG.normal(size=(400, 12)))).all()


@pytest.mark.parametrize(("count", "blocks"), [(30, (22, 26, 28)), (2, (1,)), (1, (0,)), (16, (12, 14, 15))])
def test_blocks_lie_late_and_each_is_named_once(count: int, blocks: tuple[int, ...]) -> None:
    assert FitSettings().blocks(count) == blocks
