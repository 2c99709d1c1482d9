"""Each part's backward pass against finite differences in double precision, and what its forward pass is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from localhyper.upper_math import attention, cap_logits, gated, rms_norm, rotate

RNG = np.random.default_rng(5)


def normal(*shape: int) -> Any:
    """In double precision, which the parts keep."""
    return RNG.normal(size=shape)


def slope(function: Callable[..., Any], arguments: list[Any], ways: list[Any], along: Any) -> float:
    """How Σ along · f changes when the arguments go these ways."""
    step = 1e-5
    up, down = ([a + sign * step * way for a, way in zip(arguments, ways, strict=True)] for sign in (1, -1))
    return float(((function(*up) - function(*down)) * along).sum() / (2 * step))


def agree(function: Callable[..., Any], *arguments: Any) -> None:
    """The backward pass says the same of random directions."""
    out, backward = function(*arguments)
    along = normal(*out.shape)
    found = backward(along)
    gradients = found if isinstance(found, tuple) else (found,)
    for _ in range(3):
        ways = [normal(*argument.shape) for argument in arguments]
        want = slope(lambda *given: function(*given)[0], list(arguments), ways, along)
        got = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, ways, strict=True))
        assert got == pytest.approx(want, rel=2e-5, abs=1e-7)


def test_norm() -> None:
    weight = normal(12)
    agree(lambda x: rms_norm(x, weight, 1e-5), normal(5, 12))
    agree(lambda x: rms_norm(x, weight, 1e-5), normal(5, 3, 12))
    zeros, backward = rms_norm(0 * normal(2, 12), weight, 1e-5)
    assert not zeros.any() and np.isfinite(backward(normal(2, 12))).all()


@pytest.mark.parametrize("halves", [False, True])
def test_rotation_keeps_lengths_and_distances_and_is_turned_back(halves: bool) -> None:
    heads, frequencies = normal(6, 2, 8), np.array([1.0, 0.5, 0.1, 0.01])
    angles: Any = np.arange(6)[:, None] * frequencies
    turned = rotate(heads, angles, halves=halves)
    np.testing.assert_allclose((turned**2).sum(-1), (heads**2).sum(-1))
    np.testing.assert_allclose(rotate(turned, angles, halves=halves, back=True), heads, atol=1e-12)
    later = rotate(heads, angles + 7 * frequencies, halves=halves)
    np.testing.assert_allclose(later[2, 0] @ later[5, 0], turned[2, 0] @ turned[5, 0])
    assert not np.allclose(turned, rotate(heads, angles, halves=not halves))


@pytest.mark.parametrize(("cap", "window"), [(0.0, 0), (2.0, 0), (0.0, 3), (3.0, 2)])
def test_attention(cap: float, window: int) -> None:
    q, k, v = normal(7, 4, 6), normal(7, 2, 6), normal(7, 2, 6)
    agree(lambda q, k, v: attention(q, k, v, cap, window), q, k, v)


@pytest.mark.parametrize("window", [0, 3])
def test_a_token_sees_itself_and_those_before_within_the_window(window: int) -> None:
    q, k = normal(7, 4, 6), normal(7, 2, 6)
    v: Any = np.zeros((7, 2, 6))
    v[np.arange(7), :, :] = np.arange(7)[:, None, None] == 2  # only token 2 has anything to say
    found, _ = attention(q, k, v, 0.0, window)
    heard = found.any(axis=(1, 2))
    assert heard.tolist() == [False, False, True, True, True, not window, not window]


def test_heads_ask_the_keys_of_their_group() -> None:
    q, k, v = normal(5, 4, 6), normal(5, 2, 6), normal(5, 2, 6)
    found, _ = attention(q, k, v, 0.0, 0)
    alone, _ = attention(q[:, 2:], k[:, 1:], v[:, 1:], 0.0, 0)
    np.testing.assert_allclose(found[:, 2:], alone)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gate(activation: Any) -> None:
    agree(lambda gate, up: gated(gate, up, activation), 2 * normal(5, 8), normal(5, 8))
    far = np.array([[-1e4, 1e4]], np.float32)
    out, backward = gated(far, np.ones_like(far), activation)
    assert np.allclose(out, [[0.0, 1e4]], atol=1e-20) and np.isfinite(backward(np.ones_like(far))[0]).all()


def test_caps() -> None:
    agree(lambda logits: cap_logits(logits, 3.0), 4 * normal(3, 9))
    logits = normal(3, 9)
    assert cap_logits(logits, 0.0)[0] is logits
