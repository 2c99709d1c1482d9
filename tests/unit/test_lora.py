"""Merging and recompression of LoRA weights against dense linear algebra."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localhyper.errors import AdapterError
from localhyper.lora import (
    Accumulator,
    FloatArray,
    LoraTarget,
    LoraWeights,
    Metric,
    Recompressed,
    finish_sum,
    fold,
    merge,
    recompress,
    scale,
    validate,
    working_rank,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
FEW = settings(max_examples=25, deadline=None)


def make(
    seed: int, rank: int, *, d_in: int = 12, d_out: int = 7, layers: tuple[int, ...] = (1, 4), name: str = "ffn_down"
) -> LoraWeights:
    """Random weights of one target."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((len(layers), rank, d_in)).astype(np.float32)
    b = rng.standard_normal((len(layers), d_out, rank)).astype(np.float32)
    return LoraWeights({name: LoraTarget(layers, a, b)})


def make_metric(seed: int, *, d_in: int = 12, k: int = 3, layers: int = 2) -> Metric:
    """A random metric with orthonormal basis columns."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((layers, d_in, k)))[0].astype(np.float32)
    return Metric(basis, (rng.random((layers, k)) * 50).astype(np.float32))


def dense(weights: LoraWeights, name: str = "ffn_down") -> FloatArray:
    """The updates themselves, [layers, d_out, d_in]."""
    target = weights.targets[name]
    return np.asarray(np.matmul(target.b, target.a))


def root(metric: Metric, index: int) -> NDArray[Any]:
    """C^{1/2} of one block, dense."""
    basis, excess = metric.basis[index].astype(np.float64), metric.excess[index].astype(np.float64)
    return np.asarray(np.eye(basis.shape[0]) + (basis * (np.sqrt(1 + excess) - 1)) @ basis.T)


@FEW
@given(seed=SEEDS, ranks=st.lists(st.integers(1, 9), min_size=1, max_size=5), with_bias=st.booleans())
def test_merge_is_the_sum_of_the_updates_with_the_bias_once(seed: int, ranks: list[int], with_bias: bool) -> None:
    parts = [make(seed + index, rank) for index, rank in enumerate(ranks)]
    bias = make(seed + 99, 2) if with_bias else None
    merged = merge(parts, bias)
    want = sum(dense(part) for part in parts) + (dense(bias) if bias else 0)
    assert merged.rank == sum(ranks) + (2 if with_bias else 0)
    np.testing.assert_allclose(dense(merged), want, atol=1e-4)


@FEW
@given(seed=SEEDS, rank=st.integers(1, 20), extra=st.integers(0, 5))
def test_recompression_is_exact_at_the_rank_there_is(seed: int, rank: int, extra: int) -> None:
    weights = make(seed, rank)
    result = recompress(weights, rank + extra, {"ffn_down": make_metric(seed)})
    assert result.energy_kept == 1.0
    np.testing.assert_array_equal(dense(result.weights), dense(weights))


@FEW
@given(seed=SEEDS, rank=st.integers(8, 20))
def test_recompression_is_exact_at_the_rank_the_update_can_have(seed: int, rank: int) -> None:
    weights = make(seed, rank)
    result = recompress(weights, 7, {"ffn_down": make_metric(seed)})
    assert result.weights.rank == 7
    assert result.energy_kept == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(dense(result.weights), dense(weights), atol=2e-4)


@FEW
@given(seed=SEEDS, with_metric=st.booleans())
def test_energy_grows_with_the_rank(seed: int, with_metric: bool) -> None:
    weights = make(seed, 10)
    metrics = {"ffn_down": make_metric(seed)} if with_metric else {}
    kept = [recompress(weights, rank, metrics).energy_kept for rank in range(1, 11)]
    assert all(before <= after + 1e-12 for before, after in itertools.pairwise(kept))
    assert 0 < kept[0] < 1
    assert kept[-1] == 1.0


@FEW
@given(seed=SEEDS, rank=st.integers(1, 6), of=st.sampled_from([5, 7, 15]), d_in=st.sampled_from([5, 12]))
def test_recompression_is_the_best_there_is_in_the_metric(seed: int, rank: int, of: int, d_in: int) -> None:
    weights, metric = make(seed, of, d_in=d_in), make_metric(seed + 1, d_in=d_in)
    result = recompress(weights, rank, {"ffn_down": metric})
    kept = total = 0.0
    for index in range(2):
        c_root = root(metric, index)
        values = np.linalg.svd(dense(weights)[index] @ c_root, compute_uv=False)
        lost = np.linalg.norm((dense(weights)[index] - dense(result.weights)[index]) @ c_root)
        assert lost == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-3, abs=1e-3 * values[0])
        kept, total = kept + float((values[:rank] ** 2).sum()), total + float((values**2).sum())
    assert result.energy_kept == pytest.approx(kept / total, abs=1e-5)


@FEW
@given(seed=SEEDS, order=st.permutations(range(5)), limit=st.sampled_from([2, 8, 100]))
def test_the_order_of_chunks_changes_nothing(seed: int, order: list[int], limit: int) -> None:
    parts = [make(seed + index, 3) for index in range(5)]
    metrics = {"ffn_down": make_metric(seed)}

    def run(sequence: list[LoraWeights]) -> FloatArray:
        accumulator = Accumulator(max(limit, 7), metrics)
        for part in sequence:
            accumulator.add(part)
        return dense(finish_sum(accumulator.total(), None, 7, metrics).weights)

    np.testing.assert_allclose(run([parts[index] for index in order]), run(parts), atol=5e-4)


def steep_and_flat(rank: int = 96) -> LoraWeights:
    """Two blocks of one target: the first block's update lies in few directions, the second's in many."""
    rng = np.random.default_rng(5)
    a, b = (np.linalg.qr(rng.normal(size=(2, 128, rank)))[0].astype(np.float32) for _ in range(2))
    b[0] *= np.geomspace(1, 1e-4, rank, dtype=np.float32)
    return LoraWeights({"ffn_down": LoraTarget((3, 7), np.ascontiguousarray(np.swapaxes(a, 1, 2)), b)})


def test_blocks_share_a_budget_by_what_they_lose() -> None:
    weights = steep_and_flat()
    even, shared = recompress(weights, 64), recompress(weights, 64, shared=True)
    assert shared.weights.targets["ffn_down"].own_ranks == (32, 96)
    assert shared.weights.mean_rank == even.weights.mean_rank == 64

    def lost(result: Recompressed) -> list[float]:
        off = dense(result.weights) - dense(weights)
        return [float((of**2).sum() / (all_**2).sum()) for of, all_ in zip(off, dense(weights), strict=True)]

    assert sum(lost(shared)) < 0.1 * sum(lost(even))
    assert shared.energy_kept > even.energy_kept


def test_blocks_that_fit_a_shared_budget_together_stay_as_they_are() -> None:
    weights = recompress(steep_and_flat(), 64, shared=True).weights
    again = recompress(weights, 64, shared=True)
    assert again.energy_kept == 1.0
    np.testing.assert_array_equal(dense(again.weights), dense(weights))
    assert recompress(weights, 64).energy_kept < 1.0


def test_the_metric_decides_what_is_kept() -> None:
    """A small direction on frequent inputs outlives a large one on rare inputs."""
    a = np.zeros((1, 2, 4), np.float32)
    a[0, 0, 0], a[0, 1, 1] = 1.0, 3.0
    b = np.eye(2, dtype=np.float32)[None]
    weights = LoraWeights({"ffn_down": LoraTarget((0,), a, b)})
    basis = np.zeros((1, 4, 1), np.float32)
    basis[0, 0, 0] = 1.0
    metric = Metric(basis, np.full((1, 1), 99.0, np.float32))
    assert dense(recompress(weights, 1, {"ffn_down": metric}).weights)[0, 0, 0] == pytest.approx(1.0)
    assert dense(recompress(weights, 1, {}).weights)[0, 1, 1] == pytest.approx(3.0)


def test_an_all_zero_adapter_survives() -> None:
    zero = scale(make(0, 5), 0.0)
    for shared in (False, True):
        result = recompress(zero, 2, shared=shared)
        assert result.energy_kept == 1.0
        assert result.weights.rank > 0
        assert not dense(result.weights).any()
    validate(result.weights)


def test_fold_is_lossless_and_adds() -> None:
    for d_in, d_out in ((12, 7), (5, 9)):
        one, two = make(1, 30, d_in=d_in, d_out=d_out), make(2, 4, d_in=d_in, d_out=d_out)
        folded = fold(two, fold(one))
        assert folded.rank == min(d_in, d_out)
        np.testing.assert_allclose(dense(folded), dense(one) + dense(two), atol=1e-4)


def test_the_accumulator_stays_bounded_and_resumes_exactly() -> None:
    parts = [make(seed, 6, d_in=40, d_out=30) for seed in range(12)]
    metrics = {"ffn_down": make_metric(3, d_in=40)}
    whole, first, second = (Accumulator(20, metrics) for _ in range(3))
    for index, part in enumerate(parts):
        whole.add(part)
        (first if index < 5 else second).add(part)
        if index == 4:
            second.restore(first.state)
        state = whole.state
        assert sum(held.rank for held in (state.settled, state.pending) if held) <= 20
    bias = make(50, 2, d_in=40, d_out=30)
    one, two = (finish_sum(ended.total(), bias, 8, metrics) for ended in (whole, second))
    np.testing.assert_array_equal(dense(one.weights), dense(two.weights))
    assert one.energy_kept == two.energy_kept < 1.0
    assert whole.state.kept_share == second.state.kept_share < 1.0


def test_targets_of_different_rank_each_keep_the_budget() -> None:
    both = LoraWeights({**make(1, 3).targets, **make(2, 9, name="attn_v").targets})
    result = recompress(both, 4)
    assert [result.weights.targets[name].rank for name in ("ffn_down", "attn_v")] == [3, 4]
    np.testing.assert_array_equal(dense(result.weights), dense(both))
    assert result.energy_kept < 1.0


def test_scale_acts_per_block() -> None:
    weights = make(3, 2)
    scaled = scale(weights, 2.0, {4: 0.5})
    np.testing.assert_allclose(dense(scaled)[0], dense(weights)[0] * 2, rtol=1e-6)
    np.testing.assert_allclose(dense(scaled)[1], dense(weights)[1], rtol=1e-6)


def test_merge_refuses_parts_that_differ() -> None:
    with pytest.raises(AdapterError, match="nothing to merge"):
        merge([])
    with pytest.raises(AdapterError, match="blocks"):
        merge([make(0, 2), make(0, 2, layers=(1, 5))])
    with pytest.raises(AdapterError, match="targets"):
        merge([make(0, 2), make(0, 2, name="attn_v")])
    with pytest.raises(AdapterError, match="widths"):
        merge([make(0, 2), make(0, 2, d_in=13)])


def test_validate_names_what_is_wrong() -> None:
    good = make(0, 2).targets["ffn_down"]

    def check(layers: tuple[int, ...], a: NDArray[Any], b: NDArray[Any]) -> None:
        validate(LoraWeights({"ffn_down": LoraTarget(layers, a, b)}))

    check(good.layers, good.a, good.b)
    with pytest.raises(AdapterError, match="no target"):
        validate(LoraWeights({}))
    with pytest.raises(AdapterError, match="ascending"):
        check((4, 1), good.a, good.b)
    with pytest.raises(AdapterError, match="float32, got float64"):
        check(good.layers, good.a.astype(np.float64), good.b)
    with pytest.raises(AdapterError, match="shape"):
        check(good.layers, good.a[:1], good.b)
    with pytest.raises(AdapterError, match="rank of `a` is 1"):
        check(good.layers, good.a[:, :1], good.b)
    broken = good.b.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(AdapterError, match="not finite"):
        check(good.layers, good.a, broken)


def test_a_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AdapterError, match="basis"):
        recompress(make(0, 4), 2, {"ffn_down": make_metric(0, d_in=13)})
    metric = make_metric(0)
    with pytest.raises(AdapterError, match="at least 0"):
        recompress(make(0, 4), 2, {"ffn_down": Metric(metric.basis, -metric.excess)})


def test_working_rank_is_lossless_for_small_models() -> None:
    assert working_rank(16, [(1536, 576)]) == 576
    assert working_rank(16, [(14336, 4096)]) == 512
    assert working_rank(256, [(14336, 4096)]) == 1024
