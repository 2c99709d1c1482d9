"""The sum of many associations: held to its formula, in any order and any parts, in bounded memory, resumed exactly."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localhyper.association_sum import MOST_STRENGTH, STRENGTH_EXPONENT, AssociationSum
from localhyper.errors import AdapterError
from localhyper.lora import FloatArray, LoraTarget, LoraWeights, merge

D_IN, D_OUT, LAYERS = 12, 7, (3, 9)
FEW = settings(max_examples=40, deadline=None)


def make(seed: int, rank: int, name: str = "ffn_down") -> LoraWeights:
    """Associations whose sizes differ by a factor of a hundred, in another order in each block."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, rank, D_IN)) * np.exp(rng.uniform(-2.3, 2.3, size=(2, rank, 1)))
    return LoraWeights({name: LoraTarget(LAYERS, a.astype(np.float32), rng.normal(size=(2, D_OUT, rank)).astype("f4"))})


def dense(weights: LoraWeights) -> FloatArray:
    target = weights.targets["ffn_down"]
    update: FloatArray = target.b @ target.a
    return update


def wanted(weights: LoraWeights, most: int) -> FloatArray:
    """The formula, association by association."""
    target = weights.targets["ffn_down"]
    total = np.zeros((2, D_OUT, D_IN))
    for layer in range(2):
        size = [np.linalg.norm(target.a[layer, i]) * np.linalg.norm(target.b[layer, :, i]) for i in range(target.rank)]
        least = sorted(size)[-most]
        for i in range(target.rank):
            total[layer] += min(1, size[i] / least) * np.outer(target.b[layer, :, i], target.a[layer, i])
    strength = min(MOST_STRENGTH, (target.rank / most) ** STRENGTH_EXPONENT)
    return np.asarray(strength * total, np.float32)


def summed(parts: list[LoraWeights], most: int, waiting: int) -> AssociationSum:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localhyper.association_sum.WAITING", waiting)
        total = AssociationSum(16, strongest=most)
        for part in parts:
            total.add(part)
    return total


@FEW
@given(
    seed=st.integers(0, 1000),
    ranks=st.lists(st.integers(1, 9), min_size=4, max_size=8),
    most=st.integers(1, 4),
    waiting=st.sampled_from([0, 5, 100]),
    order=st.randoms(),
)
def test_the_weaker_count_by_their_size_in_any_order(
    seed: int, ranks: list[int], most: int, waiting: int, order: random.Random
) -> None:
    parts = [make(seed + number, rank) for number, rank in enumerate(ranks)]
    expected = wanted(merge(parts), most) if sum(ranks) > most else dense(merge(parts))
    order.shuffle(parts)
    got = dense(summed(parts, most, waiting).total())
    np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


def test_a_short_document_is_summed_as_it_is() -> None:
    parts = [make(1, 5), make(2, 3)]
    for most in (8, 100, 0):
        np.testing.assert_array_equal(dense(summed(parts, most, 4).total()), dense(merge(parts)))


def test_a_sum_that_is_stopped_goes_on_to_the_same_bits() -> None:
    parts = [make(seed, 6) for seed in range(12)]
    whole = summed(parts, 8, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localhyper.association_sum.WAITING", 10)
        for cut in range(1, 12):
            first, second = summed(parts[:cut], 8, 10), AssociationSum(16, strongest=8)
            second.restore(first.state)
            for part in parts[cut:]:
                second.add(part)
            np.testing.assert_array_equal(dense(second.total()), dense(whole.total()))


def test_memory_stays_bounded() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localhyper.association_sum.WAITING", 10)
        total = AssociationSum(16, strongest=8)
        for seed in range(40):
            total.add(make(seed, 6))
            state = total.state
            held = [state.strongest, state.weaker.settled, state.weaker.pending]
            assert sum(one.rank for one in held if one) <= 8 + 10 + 16
    assert state.added == 240


def test_associations_of_nothing_stay_nothing() -> None:
    nothing = LoraWeights({"ffn_down": LoraTarget((3,), np.zeros((1, 6, 4), "f4"), np.zeros((1, 3, 6), "f4"))})
    assert not dense(summed([nothing, nothing], 4, 0).total()).any()
    with pytest.raises(AdapterError, match="nothing to merge"):
        AssociationSum(16, strongest=4).total()
