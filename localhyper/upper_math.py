"""The parts of a transformer block, each with its backward pass, in numpy: norm, rotary embedding, attention, gate.

A forward function gives what it computes, and a function of the gradient of a loss to that, which gives the gradients
to its arguments. Everything is float32, tokens are rows. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from localhyper.engine import FloatArray, TokenArray

Backward = Callable[[FloatArray], FloatArray]
Activation = Literal["silu", "gelu"]
_GELU, _CUBIC = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)


def rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> tuple[FloatArray, Backward]:
    """Root mean square norm, w · x / sqrt(mean x² + ε), over the last axis."""
    inverse = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    normed = x * inverse

    def backward(gradient: FloatArray) -> FloatArray:
        turned = gradient * weight
        turned -= normed * (turned * normed).mean(axis=-1, keepdims=True)
        turned *= inverse
        return turned

    return normed * weight, backward


def rotate(x: FloatArray, angles: FloatArray, *, halves: bool, back: bool = False) -> FloatArray:
    """Rotary embedding of heads, [tokens, heads, width]; `back` turns the other way, which is its backward pass.

    Args:
        x: Queries or keys.
        angles: [tokens, width / 2].
        halves: Pairs are (i, i + width / 2), as in Gemma and Qwen; else (2 i, 2 i + 1), as in llama.cpp's Llamas.
        back: Minus the angles.
    """
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None] * np.float32(-1 if back else 1)
    out = np.empty_like(x)
    half = x.shape[-1] // 2
    one, two = (slice(half), slice(half, None)) if halves else (slice(0, None, 2), slice(1, None, 2))
    out[..., one] = x[..., one] * cosine - x[..., two] * sine
    out[..., two] = x[..., one] * sine + x[..., two] * cosine
    return out


AttentionBackward = Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


def attention(
    q: FloatArray, k: FloatArray, v: FloatArray, cap: float, window: int
) -> tuple[FloatArray, AttentionBackward]:
    """Causal attention of one sequence.

    Args:
        q: Queries, [tokens, heads, width].
        k: Keys, [tokens, kv_heads, width]; each serves heads / kv_heads queries in a row.
        v: Values, likewise.
        cap: Scores go through cap · tanh(score / cap); 0 = as they are.
        window: Tokens that one sees, itself among them; 0 = all before.

    Returns:
        What queries find, [tokens, heads, width]; the backward pass gives gradients to q, k and v.
    """
    tokens, kv_heads, width = k.shape
    factor = np.float32(width**-0.5)
    queries = _grouped(q, kv_heads)  # [kv_heads, group · tokens, width]
    keys, values = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
    scores = (queries @ keys.transpose(0, 2, 1)).reshape(kv_heads, -1, tokens, tokens)
    scores *= factor
    slope: FloatArray | None = None
    if cap:
        capped = np.tanh(scores / np.float32(cap))
        slope, scores = 1 - np.square(capped), capped * np.float32(cap)
    weights = softmax(scores + _hidden(tokens, window)).reshape(kv_heads, -1, tokens)

    def backward(gradient: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        found = _grouped(gradient, kv_heads)
        to_weights: FloatArray = found @ values.transpose(0, 2, 1)
        to_weights -= (to_weights * weights).sum(axis=-1, keepdims=True)
        to_weights *= weights
        if slope is not None:
            to_weights *= slope.reshape(weights.shape)
        to_weights *= factor
        to_keys: FloatArray = to_weights.transpose(0, 2, 1) @ queries
        to_values: FloatArray = weights.transpose(0, 2, 1) @ found
        return _apart(to_weights @ keys, tokens), to_keys.transpose(1, 0, 2), to_values.transpose(1, 0, 2)

    return _apart(weights @ values, tokens), backward


def _grouped(x: FloatArray, kv_heads: int) -> FloatArray:
    """[tokens, heads, width] to [kv_heads, heads / kv_heads · tokens, width]."""
    tokens, heads, width = x.shape
    return x.transpose(1, 0, 2).reshape(kv_heads, heads // kv_heads * tokens, width)


def _apart(x: FloatArray, tokens: int) -> FloatArray:
    """The other way."""
    return x.reshape(-1, tokens, x.shape[-1]).transpose(1, 0, 2)


def _hidden(tokens: int, window: int) -> FloatArray:
    """What is added to scores: minus infinity where a token (row) does not see another."""
    seen: NDArray[np.bool_] = np.tri(tokens, dtype=np.bool_)
    if window:
        seen &= ~np.tri(tokens, k=-window, dtype=np.bool_)
    return np.where(seen, np.float32(0), np.float32(-np.inf))


def softmax(scores: FloatArray) -> FloatArray:
    """Probabilities along the last axis, in the place of the scores."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


GateBackward = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


def gated(gate: FloatArray, up: FloatArray, activation: Activation) -> tuple[FloatArray, GateBackward]:
    """act(gate) · up, with SiLU or the tanh form of GELU; the backward pass gives gradients to both."""
    acted, slope = _silu(gate) if activation == "silu" else _gelu(gate)

    def backward(gradient: FloatArray) -> tuple[FloatArray, FloatArray]:
        to_gate: FloatArray = gradient * up
        to_gate *= slope
        return to_gate, gradient * acted

    return acted * up, backward


def _silu(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The function and its derivative."""
    share: FloatArray = np.reciprocal(1 + np.exp(-np.maximum(x, -80)))  # e⁸⁸ is infinite in float32
    acted: FloatArray = x * share
    slope: FloatArray = share + acted * (1 - share)
    return acted, slope


def _gelu(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Likewise."""
    turned = np.tanh(_GELU * (x + _CUBIC * x**3))
    inner = _GELU * (1 + 3 * _CUBIC * np.square(x))
    return 0.5 * x * (1 + turned), 0.5 * (1 + turned) + 0.5 * x * (1 - np.square(turned)) * inner


def cap_logits(logits: FloatArray, cap: float) -> tuple[FloatArray, Backward]:
    """Logits through cap · tanh(logits / cap); as they are where `cap` is 0."""
    if not cap:
        return logits, lambda gradient: gradient
    capped = np.tanh(logits / np.float32(cap))
    return capped * np.float32(cap), lambda gradient: gradient * (1 - np.square(capped))


def log_likelihoods(logits: FloatArray, wanted: TokenArray) -> FloatArray:
    """In nats, float32 [n], of tokens [n]; the logits, [n, vocab], become probabilities."""
    logits -= logits.max(axis=1, keepdims=True)
    right = logits[np.arange(len(wanted)), wanted].copy()
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1)
    logits /= sums[:, None]
    found: FloatArray = right - np.log(sums)
    return found
