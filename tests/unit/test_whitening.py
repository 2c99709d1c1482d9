"""Whitening a sum by the document's own inputs: its limits, its scale, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from localhyper.blas_threads import one_thread_a_product
from localhyper.errors import AdapterError
from localhyper.lora import FloatArray, LoraTarget, LoraWeights, Metric, recompress
from localhyper.whitening import SMALL_BLOCK, InputMoment, add_inputs, invert_positive, whiten

LAYERS, D_IN, D_OUT = (2, 5), 24, 10
NAME = "ffn_down"


def metric(rng: np.random.Generator, *, floor: bool = True) -> Metric:
    basis = np.stack([np.linalg.qr(rng.standard_normal((D_IN, 4)))[0] for _ in LAYERS]).astype(np.float32)
    excess = (rng.random((len(LAYERS), 4)) * 30).astype(np.float32)
    return Metric(basis, excess, np.array([0.5, 2.0], np.float32) if floor else None)


def weights(rng: np.random.Generator, rank: int = 6) -> LoraWeights:
    a = rng.standard_normal((len(LAYERS), rank, D_IN)).astype(np.float32)
    return LoraWeights(
        {NAME: LoraTarget(LAYERS, a, rng.standard_normal((len(LAYERS), D_OUT, rank)).astype(np.float32))}
    )


def inputs(rng: np.random.Generator, tokens: int) -> FloatArray:
    return rng.standard_normal((len(LAYERS), tokens, D_IN)).astype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("tokens", [9, 60])
def test_layers_side_by_side_give_what_they_give_one_by_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    given, c = weights(rng), {NAME: metric(rng)}
    parts = [inputs(rng, tokens), inputs(rng, tokens)]

    def made() -> LoraTarget:
        moment = None
        for part in parts:
            moment = add_inputs(moment, part.copy())
        assert moment is not None
        turned = whiten(given, {NAME: moment}, c, 50.0)
        return recompress(turned.weights, 3, turned.metrics).weights.targets[NAME]

    monkeypatch.setattr("localhyper.blas_threads.physical_cores", lambda: 4)
    alone = made()
    with one_thread_a_product():
        together = made()
    np.testing.assert_array_equal(together.a, alone.a)
    np.testing.assert_array_equal(together.b, alone.b)


def test_a_metric_gives_its_moment_and_the_inverse_of_it(rng: np.random.Generator) -> None:
    one = metric(rng)
    for layer in range(len(LAYERS)):
        np.testing.assert_allclose(one.over(layer, one.moment(layer)), np.eye(D_IN), atol=1e-4)
        rows = rng.standard_normal((3, D_IN)).astype(np.float32)
        np.testing.assert_allclose(one.times(layer, rows), rows @ one.moment(layer), rtol=1e-3, atol=1e-4)
        second = rows.T @ rows
        wanted = np.trace(np.linalg.solve(one.moment(layer).astype(np.float64), second))
        assert one.spread(layer, second) == pytest.approx(wanted, rel=1e-3)
        assert one.floor is not None
        np.testing.assert_allclose(
            one.gram(layer, rows) * one.floor[layer], rows @ one.moment(layer) @ rows.T, rtol=1e-4
        )


def test_moments_add_up_over_chunks(rng: np.random.Generator) -> None:
    parts = [inputs(rng, count) for count in (7, 5, 9, 4)]
    moment, seen = None, 0
    for number, part in enumerate(parts):
        moment, seen = add_inputs(moment, part), seen + part.shape[1]
        assert moment.tokens == seen and moment.shape == (len(LAYERS), D_IN)
        assert (moment.second is None) is (seen <= 20) and (moment.rows is None) is (seen > 20)
        whole = np.concatenate(parts[: number + 1], axis=1)
        if moment.second is not None:
            np.testing.assert_allclose(moment.second, np.matmul(whole.transpose(0, 2, 1), whole), rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(moment.rows, whole)


@pytest.mark.parametrize("tokens", [1, 16, 40])
def test_inputs_and_their_moment_turn_alike_and_as_the_formula_says(rng: np.random.Generator, tokens: int) -> None:
    one, rows, given, weight = metric(rng), inputs(rng, tokens), weights(rng), 5.0
    second = np.matmul(rows.transpose(0, 2, 1), rows)
    by_rows = whiten(given, {NAME: InputMoment(tokens, rows=rows)}, {NAME: one}, weight)
    by_moment = whiten(given, {NAME: InputMoment(tokens, second=second)}, {NAME: one}, weight)
    for layer, a in enumerate(given.targets[NAME].a):
        generic, own = one.moment(layer).astype(np.float64), second[layer].astype(np.float64)
        inverse = np.linalg.inv(weight * generic + own)
        wanted = np.trace(own @ np.linalg.inv(generic)) / np.trace(own @ inverse) * (a @ generic @ inverse)
        probe = rng.standard_normal((3, D_IN)).astype(np.float32)
        mixed = probe @ (weight * generic + own) @ probe.T / (weight + tokens)
        for turned in (by_rows, by_moment):
            np.testing.assert_allclose(turned.weights.targets[NAME].a[layer], wanted, rtol=2e-3, atol=2e-4)
            np.testing.assert_allclose(turned.metrics[NAME].gram(layer, probe), mixed, rtol=1e-4, atol=1e-4)


def test_a_large_weight_leaves_the_sum_as_it_is(rng: np.random.Generator) -> None:
    given, one = weights(rng), metric(rng)
    turned = whiten(given, {NAME: add_inputs(None, inputs(rng, 9))}, {NAME: one}, 1e7)
    np.testing.assert_allclose(turned.weights.targets[NAME].a, given.targets[NAME].a, rtol=2e-3, atol=2e-3)


def test_one_association_answers_its_own_input_as_before_and_others_of_the_document_less(
    rng: np.random.Generator,
) -> None:
    one, rows = metric(rng), inputs(rng, 1)
    # Another input that the key of the first answers too: what they share is what whitening takes out.
    others = rows + 0.5 * inputs(rng, 12)
    spread = [one.over(i, rows[i]) for i in range(len(LAYERS))]
    keys = np.stack([spread[i] / (spread[i] @ rows[i].T) for i in range(len(LAYERS))])
    given = LoraWeights(
        {NAME: LoraTarget(LAYERS, keys.astype(np.float32), np.ones((len(LAYERS), D_OUT, 1), np.float32))}
    )
    moment = add_inputs(add_inputs(None, rows), others)
    turned = whiten(given, {NAME: moment}, {NAME: one}, 1.0).weights.targets[NAME].a
    for layer in range(len(LAYERS)):
        before = np.abs(others[layer] @ keys[layer].T).mean() / (rows[layer] @ keys[layer].T).item()
        after = np.abs(others[layer] @ turned[layer].T).mean() / (rows[layer] @ turned[layer].T).item()
        assert after < 0.6 * before


def test_the_mean_answer_to_the_documents_inputs_is_kept(rng: np.random.Generator) -> None:
    one, rows = metric(rng), inputs(rng, 40)
    spread = np.stack([one.over(i, rows[i]) for i in range(len(LAYERS))])
    given = LoraWeights({NAME: LoraTarget(LAYERS, spread, np.zeros((len(LAYERS), D_OUT, 40), np.float32))})
    turned = whiten(given, {NAME: add_inputs(None, rows)}, {NAME: one}, 3.0).weights.targets[NAME].a
    for layer in range(len(LAYERS)):
        own = [(spread[layer] * rows[layer]).sum(), (turned[layer] * rows[layer]).sum()]
        assert own[1] == pytest.approx(own[0], rel=1e-3)


def test_recompression_in_the_documents_moment_keeps_what_acts_on_its_inputs(rng: np.random.Generator) -> None:
    one = metric(rng)
    rows = inputs(rng, 200) * np.linspace(2, 0.01, D_IN).astype(np.float32)
    turned = whiten(weights(rng, 10), {NAME: add_inputs(None, rows)}, {NAME: one}, 1.0)

    def lost(kept: LoraWeights) -> float:
        change = [
            turned.weights.targets[NAME].b[i] @ turned.weights.targets[NAME].a[i]
            - kept.targets[NAME].b[i] @ kept.targets[NAME].a[i]
            for i in range(len(LAYERS))
        ]
        return float(sum(np.square(rows[i] @ change[i].T).sum() for i in range(len(LAYERS))))

    inside, plain = recompress(turned.weights, 3, turned.metrics), recompress(turned.weights, 3)
    assert lost(inside.weights) < lost(plain.weights)
    assert 0 < inside.energy_kept < 1


@pytest.mark.parametrize("size", [1, SMALL_BLOCK, SMALL_BLOCK + 1, 3 * SMALL_BLOCK + 7])
def test_the_inverse_of_a_moment_is_exact_to_more_than_a_file_holds(rng: np.random.Generator, size: int) -> None:
    scales = np.geomspace(1, 30, size)
    rows = rng.standard_normal((2 * size + 5, size)) * scales
    moment = (rows.T @ rows + np.eye(size)).astype(np.float32)
    wanted = np.linalg.inv(moment.astype(np.float64))
    np.testing.assert_allclose(invert_positive(moment), wanted, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("what", ["no floor", "no metric", "unknown target", "other width"])
def test_what_does_not_fit_is_refused(rng: np.random.Generator, what: str) -> None:
    moments = {NAME: add_inputs(None, inputs(rng, 3))}
    metrics = {NAME: metric(rng, floor=what != "no floor")}
    if what == "no metric":
        metrics = {}
    if what == "unknown target":
        moments = {"attn_q": moments[NAME]}
    if what == "other width":
        moments = {NAME: InputMoment(3, second=np.zeros((2, 3, 3), np.float32))}
    with pytest.raises(AdapterError, match=r"ffn_down|attn_q"):
        whiten(weights(rng), moments, metrics, 1.0)
