"""Figures of a benchmark: two series measured in turns, their medians and the ratio. Knows no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """Two things measured alternately, one value of each per round.

    Attributes:
        title: What is compared.
        first: Name of the numerator.
        second: Name of the denominator.
        unit: Unit of both series.
        first_values: One value a round.
        second_values: One value a round.
        goal: The bar, in words; empty when there is none.
    """

    title: str
    first: str
    second: str
    unit: str
    first_values: tuple[float, ...]
    second_values: tuple[float, ...]
    goal: str = ""

    @property
    def ratio(self) -> float:
        """Median over median."""
        return median(self.first_values) / median(self.second_values)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest ratio of a single round."""
        rounds = [one / two for one, two in zip(self.first_values, self.second_values, strict=True)]
        return min(rounds), max(rounds)


@dataclass(frozen=True)
class Timing:
    """One thing measured several times."""

    title: str
    unit: str
    values: tuple[float, ...]
    goal: str = ""


@dataclass(frozen=True)
class SizeRow:
    """A document's adapter files: those of its chunks together, and that of the whole."""

    tokens: int
    chunks: int
    chunk_bytes: int
    rank: int
    size_bytes: int
    energy_kept: float


@dataclass(frozen=True)
class Figures:
    """Everything one run measured.

    Attributes:
        stages: Document tokens to the median seconds of each stage of an attach.
        notes: What was left out and why.
    """

    comparisons: tuple[Comparison, ...]
    timings: tuple[Timing, ...]
    sizes: tuple[SizeRow, ...]
    stages: dict[int, dict[str, float]]
    notes: tuple[str, ...]
