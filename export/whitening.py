"""Whitening keys by the document's own inputs: what makes the sum of many chunks readable.

Token keys are whitened by C, the second moment of generic inputs. A document writes hundreds or thousands of
associations, and what its own inputs have in common beyond C adds up in phase. So once all chunks are known, every key
is whitened anew by C and S = Σ m mᵀ over the document's T tokens:

    a' = s a C (λ C + S)⁻¹,   s = tr(S C⁻¹) / tr(S (λ C + S)⁻¹)

λ is a number of tokens that C counts for. This is MEMIT's closed form (Meng et al. 2022, arXiv 2210.07229, equation 14:
λ C + K Kᵀ inverted) seen from the keys. s makes the answer to the document's own inputs, on the mean over its tokens,
what it was before; it goes from λ for an empty document to λ + T for an endless one. Without it the update of one chunk
answers its own tokens with little more than half of what was learnt.

`localhyper.whitening` does the same in numpy where adapters are made; here the tokens of each document come in by the
Woodbury identity, so that a batch of documents that share a surround needs one large inverse, not one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Common:
    """What all documents of a batch have in common, per block; no gradient.

    Attributes:
        weight: λ.
        moment: C, float32 [blocks, ffn, ffn].
        inverse: (λ C + S)⁻¹, S of the chunks that surround all documents, float32 [blocks, ffn, ffn].
        turn: C (λ C + S)⁻¹, [blocks, ffn, ffn], in the base model's precision, to which it rounds the keys anyway; None
            where S is 0, and so this is 1 / λ.
        spread: tr(S C⁻¹), float32 [blocks].
    """

    weight: float
    moment: Tensor
    inverse: Tensor
    turn: Tensor | None
    spread: Tensor


@dataclass(frozen=True)
class Whitened:
    """LoRA matrices after whitening.

    Attributes:
        a: Per block, [documents, rank + tokens, ffn].
        b: Per block, [documents, hidden, rank + tokens].
        shared: Per block, what the surround writes, [hidden, ffn], or None.
    """

    a: Sequence[Tensor]
    b: Sequence[Tensor]
    shared: Sequence[Tensor | None]


def inverse_of(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive definite matrices; by Cholesky: MKL's LU fails on some processors."""
    lower: Tensor = torch.linalg.cholesky(matrix)
    if matrix.device.type == "cpu":
        return torch.cholesky_inverse(lower)
    # There, cholesky_inverse takes the matrices of a batch one after the other.
    identity = torch.eye(matrix.shape[-1], device=matrix.device).expand_as(matrix)
    inner: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return inner.mT @ inner


@torch.no_grad()
def alone(moment: Tensor, weight: float) -> Common:
    """Of documents that no chunks surround.

    Args:
        moment: C, float32 [blocks, ffn, ffn].
        weight: λ, in tokens.
    """
    return Common(weight, moment, inverse_of(moment) / weight, None, moment.new_zeros(len(moment)))


@torch.no_grad()
def surrounded(given: Common, second: Tensor, dtype: torch.dtype = torch.float32) -> Common:
    """Of documents that chunks with this S surround, from what `alone` made; `dtype` is that of `Common.turn`."""
    inverse = inverse_of(given.weight * given.moment + second)
    spread = (second * given.inverse).sum((1, 2)) * given.weight
    return Common(given.weight, given.moment, inverse, (given.moment @ inverse).to(dtype), spread)


def whiten(
    a: Tensor, b: Tensor, inputs: Tensor, spread: Tensor, given: Common, shared: Tensor | None = None
) -> Whitened:
    """Whiten what documents, and chunks that surround all of them, write.

    Args:
        a: [documents, blocks, rank, ffn].
        b: [documents, blocks, hidden, rank].
        inputs: The documents' own `ffn_down` inputs, zeros for padding, [documents, blocks, tokens, ffn].
        spread: Σ mᵀ C⁻¹ m over them, [documents, blocks].
        given: Of all but these inputs.
        shared: [blocks, hidden, ffn], or None.
    """
    out_a, out_b, out_shared = [], [], []
    with torch.no_grad():
        # Block by block, all documents at once: else the matrices would be copied for each document.
        products = zip(inputs.unbind(1), given.inverse, strict=True)
        rights = torch.stack([F.linear(own.contiguous(), inverse.T) for own, inverse in products], 1)
        gram = rights @ inputs.transpose(2, 3)
        inverses = inverse_of(gram + torch.eye(gram.shape[-1], device=gram.device))
    # unbind, not an index: the gradient of each index would be a whole tensor of zeros.
    for i, (left, values, own, right, solved) in enumerate(
        zip(a.unbind(1), b.unbind(1), inputs.unbind(1), rights.unbind(1), inverses.unbind(1), strict=True)
    ):
        with torch.no_grad():
            scale = ((given.spread[i] + spread[:, i]) / _trace(given, i, right, solved))[:, None, None]
        turned = _turn(left, given, i)
        overlap = torch.bmm(values, torch.bmm(turned, own.transpose(1, 2)))
        if shared is not None:
            rest = _turn(shared[i], given, i)
            overlap = overlap + rest @ own.transpose(1, 2)
            # One factor for all: the surround is much longer than any of the documents it surrounds.
            out_shared.append(rest * scale.mean())
        out_a.append(torch.cat((turned * scale, right * scale), 1))
        out_b.append(torch.cat((values, -torch.bmm(overlap, solved)), 2))
    return Whitened(out_a, out_b, out_shared or [None] * len(out_a))


def _trace(given: Common, block: int, right: Tensor, solved: Tensor) -> Tensor:
    """tr(S (λ C + S)⁻¹) = ffn - λ tr(C (λ C + S)⁻¹) with the documents' own inputs in S, [documents]."""
    if given.turn is None:
        tokens = solved.shape[-1]
        return tokens - solved.diagonal(dim1=1, dim2=2).sum(-1)
    moment = given.moment[block]
    without = (moment * given.inverse[block]).sum()
    own = (solved * torch.bmm(right @ moment, right.transpose(1, 2))).sum((1, 2))
    return moment.shape[-1] - given.weight * (without - own)


def _turn(left: Tensor, given: Common, block: int) -> Tensor:
    """`left` times C (λ C + S)⁻¹."""
    if given.turn is None:
        return left / given.weight
    return (left.to(given.turn.dtype) @ given.turn[block]).float()
