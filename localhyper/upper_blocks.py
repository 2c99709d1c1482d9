"""The upper blocks of a base model with LoRA on their modules: logits, and how a loss changes with the factors.

Forward and backward pass in numpy, over several sequences at once, whose tokens lie one after the other. What enters
the first of these blocks is given, so that the blocks below need not be run. Held to llama.cpp and to PyTorch's
gradients (tests/parity/test_upper_blocks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localhyper.engine import FloatArray, TokenArray
from localhyper.upper_math import Backward, attention, cap_logits, gated, log_likelihoods, rms_norm, rotate
from localhyper.upper_weights import UpperWeights

Module = tuple[int, str]  # a block, and the GGUF name of one of its matrices


@dataclass(frozen=True)
class Factor:
    """LoRA of one module, or the gradient to it.

    Attributes:
        a: float32 [rank, inputs].
        b: float32 [outputs, rank]; the update is b · a.
    """

    a: FloatArray
    b: FloatArray


Factors = Mapping[Module, Factor]
NO_FACTORS: Factors = {}


@dataclass(frozen=True)
class Lesson:
    """Some sequences, and what is to be said in them.

    Attributes:
        states: What enters the first block, float32 [tokens, hidden], one sequence after the other.
        lengths: Tokens of each sequence.
        places: Where something is to be said, int [n], counted over all tokens.
        wanted: What, int [n].
        shares: Weight of each in the loss, float32 [n].
    """

    states: FloatArray
    lengths: tuple[int, ...]
    places: TokenArray
    wanted: TokenArray
    shares: FloatArray


class UpperBlocks:
    """Blocks that can be run under any factors; nothing of a run stays."""

    def __init__(self, weights: UpperWeights) -> None:
        """`weights` are not changed."""
        self.weights = weights

    def logits(self, lesson: Lesson, factors: Factors = NO_FACTORS) -> FloatArray:
        """Logits at the places of a lesson, float32 [n, vocab]."""
        return self._forward(lesson, factors, {})[0]

    def gradients(self, lesson: Lesson, factors: Factors) -> tuple[float, dict[Module, Factor]]:
        """Loss, Σ shares · cross-entropy in nats, and its gradients to all factors."""
        found: dict[Module, Factor] = {}
        logits, backward = self._forward(lesson, factors, found)
        loss, gradient = _cross_entropy(logits, lesson.wanted, lesson.shares)
        backward(gradient)
        return loss, found

    def _forward(self, lesson: Lesson, factors: Factors, found: dict[Module, Factor]) -> tuple[FloatArray, Backward]:
        shape = self.weights.shape
        angles = np.concatenate([np.arange(length) for length in lesson.lengths])[:, None] * shape.frequencies
        ends = np.cumsum(lesson.lengths).tolist()
        run = _Run(self.weights, factors, found, angles.astype(np.float32), [0, *ends])
        x, steps = lesson.states, []
        for block in range(shape.start, shape.end):
            x, attended = run.attend(block, x)
            steps.append(attended)
            if block == shape.end - 1:  # from here on no token sees another
                x, chosen = _chosen(x, lesson.places)
                steps.append(chosen)
            x, fed = run.feed(block, x)
            steps.append(fed)
        logits, said = self._say(x)

        def backward(gradient: FloatArray) -> FloatArray:
            gradient = said(gradient)
            while steps:
                gradient = steps.pop()(gradient)
            return gradient

        return logits, backward

    def _say(self, x: FloatArray) -> tuple[FloatArray, Backward]:
        """Logits of the stream that leaves the last block."""
        weights, shape = self.weights, self.weights.shape
        normed, norm_back = rms_norm(x, weights.output_norm, shape.epsilon)
        logits, cap_back = cap_logits(normed @ weights.output.T, shape.logits_cap)
        return logits, lambda gradient: norm_back(cap_back(gradient) @ weights.output)


@dataclass(frozen=True)
class _Run:
    """One run of the blocks: under which factors, and where gradients to them are put."""

    weights: UpperWeights
    factors: Factors
    found: dict[Module, Factor]
    angles: FloatArray
    bounds: Sequence[int]

    def attend(self, block: int, x: FloatArray) -> tuple[FloatArray, Backward]:
        """The stream and what attention adds to it."""
        normed, norm_back = self._norm(block, "attn_norm", x)
        q, q_back = self._heads(block, "attn_q", normed)
        k, k_back = self._heads(block, "attn_k", normed)
        v, v_back = self._linear(block, "attn_v", normed)
        mixed, mix_back = self._mix(block, q, k, v)
        out, out_back = self._linear(block, "attn_output", mixed)
        added, post_back = self._norm(block, "post_attention_norm", out)

        def backward(gradient: FloatArray) -> FloatArray:
            to_q, to_k, to_v = mix_back(out_back(post_back(gradient)))
            return gradient + norm_back(q_back(to_q) + k_back(to_k) + v_back(to_v))

        return x + added, backward

    def feed(self, block: int, x: FloatArray) -> tuple[FloatArray, Backward]:
        """The stream and what the MLP adds to it."""
        normed, norm_back = self._norm(block, "ffn_norm", x)
        gate, gate_back = self._linear(block, "ffn_gate", normed)
        up, up_back = self._linear(block, "ffn_up", normed)
        inner, inner_back = gated(gate, up, self.weights.shape.family.activation)
        down, down_back = self._linear(block, "ffn_down", inner)
        added, post_back = self._norm(block, "post_ffw_norm", down)

        def backward(gradient: FloatArray) -> FloatArray:
            to_gate, to_up = inner_back(down_back(post_back(gradient)))
            return gradient + norm_back(gate_back(to_gate) + up_back(to_up))

        return x + added, backward

    def _norm(self, block: int, name: str, x: FloatArray) -> tuple[FloatArray, Backward]:
        """A norm; nothing where the family has no such one."""
        weight = self.weights.norms.get((block, name))
        return (x, _same) if weight is None else rms_norm(x, weight, self.weights.shape.epsilon)

    def _linear(self, block: int, name: str, x: FloatArray) -> tuple[FloatArray, Backward]:
        """W x and what LoRA adds to it."""
        weight, factor = self.weights.matrices[block, name], self.factors.get((block, name))
        out = x @ weight.T
        if factor is None:
            return out, lambda gradient: gradient @ weight
        low = x @ factor.a.T
        out += low @ factor.b.T

        def backward(gradient: FloatArray) -> FloatArray:
            turned = gradient @ factor.b
            self.found[block, name] = Factor(_float32(turned.T @ x), _float32(gradient.T @ low))
            back: FloatArray = gradient @ weight
            back += turned @ factor.a
            return back

        return out, backward

    def _heads(self, block: int, name: str, x: FloatArray) -> tuple[FloatArray, Backward]:
        """Queries or keys [tokens, heads, width], normed where the family does so, and rotated."""
        shape = self.weights.shape
        flat, flat_back = self._linear(block, name, x)
        heads, norm_back = self._norm(block, f"{name}_norm", flat.reshape(len(flat), -1, shape.width))
        turn: Callable[..., FloatArray] = partial(rotate, angles=self.angles, halves=shape.family.halves)

        def backward(gradient: FloatArray) -> FloatArray:
            return flat_back(norm_back(turn(gradient, back=True)).reshape(flat.shape))

        return turn(heads), backward

    def _mix(
        self, block: int, q: FloatArray, k: FloatArray, v: FloatArray
    ) -> tuple[FloatArray, Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]]:
        """Attention, each sequence for itself: what is found, [tokens, heads · width]."""
        shape = self.weights.shape
        values = v.reshape(len(v), shape.kv_heads, shape.width)
        spans = [slice(start, end) for start, end in zip(self.bounds, self.bounds[1:], strict=False)]
        cap, window = shape.attention_cap, shape.window_of(block)
        parts = [attention(q[span], k[span], values[span], cap, window) for span in spans]
        mixed = np.concatenate([part for part, _ in parts]).reshape(len(q), -1)

        def backward(gradient: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            apart = gradient.reshape(q.shape)
            back = [part(apart[span]) for span, (_, part) in zip(spans, parts, strict=True)]
            to_q, to_k, to_v = (np.concatenate(of_all) for of_all in zip(*back, strict=True))
            return to_q, to_k, to_v.reshape(v.shape)

        return mixed, backward


def _chosen(x: FloatArray, places: TokenArray) -> tuple[FloatArray, Backward]:
    """Some rows, each of them once."""

    def backward(gradient: FloatArray) -> FloatArray:
        spread = np.zeros_like(x)
        spread[places] = gradient
        return spread

    return x[places], backward


def _float32(array: NDArray[Any]) -> FloatArray:
    """As it is, which type checkers can't tell."""
    return array.astype(np.float32, copy=False)


def _same(gradient: FloatArray) -> FloatArray:
    return gradient


def _cross_entropy(logits: FloatArray, wanted: TokenArray, shares: FloatArray) -> tuple[float, FloatArray]:
    """The loss and its gradient to the logits, which are used up."""
    loss = -float((log_likelihoods(logits, wanted) * shares).sum())
    logits[np.arange(len(wanted)), wanted] -= 1
    logits *= shares[:, None]
    return loss, logits
