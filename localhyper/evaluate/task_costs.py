"""What an answer costs: floating-point operations by counting tokens and weights, and seconds.

The count is 2 operations for each weight and token that has to be computed (Kaplan et al. 2020, arXiv 2001.08361,
without attention's share, which grows with the prompt), those of the adapters included. Knows no scores.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.bundle import BundleInfo
from localhyper.engine import BaseModelInfo, TokenArray
from localhyper.errors import AdapterError
from localhyper.onnx_wire import outline


@dataclass(frozen=True)
class Spent:
    """Tokens and time of one answer.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        reused_tokens: Of these, what was in the engine's cache from the answer before.
        reply_tokens: Tokens generated, or of choices scored.
        seconds: Wall-clock time, with what was in the cache.
    """

    prompt_tokens: int
    reused_tokens: int
    reply_tokens: int
    seconds: float


@dataclass(frozen=True)
class AdapterSpent:
    """What making one adapter of a description cost.

    Attributes:
        description_tokens: Tokens of the description.
        encode_flops: Reading the description, by the base model's blocks that have to run, or by an embedding model.
        generate_flops: The hypernetwork, at most.
        seconds: From the text to the file.
        learn_flops: Learning the examples, where there are some.
    """

    description_tokens: int
    encode_flops: float
    generate_flops: float
    seconds: float
    learn_flops: float = 0.0

    @property
    def flops(self) -> float:
        """All of it."""
        return self.encode_flops + self.generate_flops + self.learn_flops


def answer_flops(weights: float, spent: Spent, *, in_a_row: bool = False) -> float:
    """Operations of one answer.

    Args:
        weights: Of the base model and the adapters in force.
        spent: Its tokens.
        in_a_row: Whether what the answer before left in the cache is not computed again.
    """
    tokens = spent.prompt_tokens + spent.reply_tokens - (spent.reused_tokens if in_a_row else 0)
    return 2.0 * weights * tokens


def common_beginning(one: TokenArray, two: TokenArray) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(two))
    differing = (one[:length] != two[:length]).nonzero()[0]
    return int(differing[0]) if len(differing) else length


def tree_tokens(sequences: Sequence[TokenArray]) -> int:
    """Tokens to compute for sequences one after the other, each going on from what it shares with the one before."""
    total, before = 0, None
    for ids in sequences:
        total += len(ids) - (common_beginning(before, ids) if before is not None else 0)
        before = ids
    return total


def adapter_weights(path: Path) -> int:
    """Numbers in an adapter's matrices; 0 where the file cannot be read, which is for the engine to say."""
    from localhyper.gguf_adapter import read_adapter_header

    try:
        return sum(entry.elements for entry in read_adapter_header(path).tensors)
    except AdapterError:
        return 0


def made_of_description(
    path: Path,
    seconds: float,
    base: BaseModelInfo,
    bundle: BundleInfo,
    frame_tokens: int,
    embedder: Path | None,
    learning: float = 0.0,
) -> AdapterSpent:
    """What an adapter made by a hypernetwork cost.

    How often a graph uses each weight is not counted: at most once for each token that it reads and for each block and
    module that it writes.

    Args:
        path: The adapter's file.
        seconds: What it took.
        base: The base model.
        bundle: The hypernetwork.
        frame_tokens: Tokens that are read before and after the description.
        embedder: The embedding model's ONNX file, where the hypernetwork reads its vector; None = it reads activations.
        learning: Operations that learning examples took.
    """
    tokens = _description_tokens(path)
    pairs = sum(len(blocks) for blocks in bundle.targets.values())
    if bundle.embedding is None:
        read, share = tokens + frame_tokens, (bundle.capture.last_block + 1) / base.block_count
        encoding = 2.0 * base.parameter_count * share * read
    else:
        read = 1
        encoding = 2.0 * (onnx_weights(embedder) if embedder is not None else 0) * tokens
    return AdapterSpent(tokens, encoding, 2.0 * onnx_weights(bundle.path) * (read + pairs), seconds, learning)


def _description_tokens(path: Path) -> int:
    from localhyper.gguf_adapter import read_metadata

    try:
        return read_metadata(path).source_tokens
    except AdapterError:
        return 0


def onnx_weights(path: Path) -> int:
    """Numbers in an ONNX file's constant tensors; 0 where it cannot be read, which is for others to say."""
    try:
        with path.open("rb") as file:
            return outline(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))).weights
    except (OSError, ValueError):  # WireError is one
        return 0
