"""What an evaluation spent on adapters, and how long its documents were in the prompt: one by one, and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localhyper.errors import AdapterError


@dataclass(frozen=True)
class AttachCost:
    """What making one adapter took, and what came out.

    Attributes:
        seconds: From the text to the files.
        size_bytes: Size of the files: the adapter's own where it was made, and those of its chunks.
        rank: Rank of its matrices; None where the file does not say.
        energy_kept: Share of squared norm that recompression kept, 0 to 1; None where the file does not say.
    """

    seconds: float = field(compare=False)  # all else repeats
    size_bytes: int
    rank: int | None
    energy_kept: float | None


@dataclass(frozen=True)
class ContextLengths:
    """Documents in the context column.

    Attributes:
        documents: Documents shown.
        tokens: Mean length of the whole documents, in tokens.
        shortened: Documents cut at the end.
        shortened_from: Mean length of those, in tokens; None when there are none.
        shortened_to: Mean length of what was shown of them, in tokens; None when there are none.
    """

    documents: int
    tokens: float
    shortened: int
    shortened_from: float | None
    shortened_to: float | None


@dataclass(frozen=True)
class AttachMeans:
    """Adapters of a run.

    Attributes:
        adapters: Adapters made.
        seconds: Mean time to make one, from text to files.
        size_bytes: Mean size of its files.
        rank: Mean rank; None where files do not say.
        energy_kept: Mean share of squared norm kept by recompression, 0 to 1; None where files do not say.
    """

    adapters: int
    seconds: float = field(compare=False)  # all else repeats
    size_bytes: float
    rank: float | None
    energy_kept: float | None


def cost_of(path: Path, seconds: float) -> AttachCost:
    """What an adapter that took `seconds` to make came to, its file and its chunks' files."""
    from localhyper.gguf_adapter import read_metadata
    from localhyper.library import chunk_folder

    files = [path, *chunk_folder(path).glob("*")]
    size = sum(file.stat().st_size for file in files if file.exists())
    try:
        metadata = read_metadata(path)
    except AdapterError:  # not made, or not usable: that is for the engine to say
        return AttachCost(seconds, size, None, None)
    return AttachCost(seconds, size, metadata.rank, metadata.energy_kept)


def context_lengths(shown: Sequence[tuple[int, int]]) -> ContextLengths | None:
    """Of (tokens in the prompt, tokens of the whole document) for each document; None of none."""
    if not shown:
        return None
    cut = [(part, whole) for part, whole in shown if part < whole]
    return ContextLengths(
        documents=len(shown),
        tokens=sum(whole for _, whole in shown) / len(shown),
        shortened=len(cut),
        shortened_from=_mean([whole for _, whole in cut]),
        shortened_to=_mean([part for part, _ in cut]),
    )


def attach_means(costs: Sequence[AttachCost]) -> AttachMeans | None:
    """Means over adapters; None of none."""
    if not costs:
        return None
    return AttachMeans(
        adapters=len(costs),
        seconds=round(sum(cost.seconds for cost in costs) / len(costs), 3),
        size_bytes=sum(cost.size_bytes for cost in costs) / len(costs),
        rank=_mean([cost.rank for cost in costs if cost.rank is not None]),
        energy_kept=_mean([cost.energy_kept for cost in costs if cost.energy_kept is not None]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
