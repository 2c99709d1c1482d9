"""Figures of the reading suite: from questions in columns to means, differences and ratios with their intervals.

Knows numbers only; `squad` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from localhyper.evaluate.intervals import ClusterBootstrap, Estimate

FloatArray = NDArray[np.float64]
CONTRASTS = (("adapter", "none"), ("adapter", "shuffled"))


@dataclass(frozen=True)
class SquadCase:
    """One question in one column.

    Attributes:
        log_likelihood: Natural log-probability of the first answer's tokens after the prompt, end of turn not counted.
        answer_tokens: Number of those tokens.
        reply: The greedy reply; None without generation.
        f1: Best F1 over the accepted answers; None without generation.
        exact: 1.0 for an exact match with one of them, else 0.0; None without generation.
        contained: 1.0 if one of them is in the reply, else 0.0; None without generation.
        rouge_l: Best ROUGE-L over the accepted answers; None without generation.
    """

    document: str
    question: str
    answers: tuple[str, ...]
    column: str
    log_likelihood: float
    answer_tokens: int
    reply: str | None = None
    f1: float | None = None
    exact: float | None = None
    contained: float | None = None
    rouge_l: float | None = None


@dataclass(frozen=True)
class SquadScores:
    """Figures of a column, or of one column minus another.

    Attributes:
        answer_log_likelihood: Mean over questions of the first answer's log-likelihood.
        token_log_likelihood: Log-likelihood of all first answers over the number of their tokens.
        f1: Mean F1, 0 to 1; None without generation.
        exact: Share of exact matches; None without generation.
        contained: Share of replies with an answer in them; None without generation.
        rouge_l: Mean ROUGE-L, 0 to 1; None without generation.
    """

    name: str
    answer_log_likelihood: Estimate
    token_log_likelihood: Estimate
    f1: Estimate | None
    exact: Estimate | None
    contained: Estimate | None
    rouge_l: Estimate | None


class SquadFigures:
    """Figures over the cases of a run; all share the draws of one bootstrap, so differences and ratios are paired.

    Args:
        cases: Every question in every column; each column has the same questions in the same order.
        clusters: Number of each question's document, in that order.
        columns: The columns measured.
        generated: Whether there are replies to score.
        seed: Seed of the bootstrap.
    """

    def __init__(
        self, cases: Sequence[SquadCase], clusters: Sequence[int], columns: Sequence[str], generated: bool, seed: int
    ) -> None:
        self._bootstrap, self._generated = ClusterBootstrap(clusters, seed), generated
        self._columns = {name: _column(cases, name) for name in columns}
        self._nothing = _Column(*([np.zeros(len(clusters))] * 6))

    def columns(self) -> tuple[SquadScores, ...]:
        """Each column's own figures."""
        return tuple(self._scores(name, column, self._nothing) for name, column in self._columns.items())

    def differences(self) -> tuple[SquadScores, ...]:
        """One column minus another, as `CONTRASTS` has them, where both were measured."""
        pairs = [pair for pair in CONTRASTS if all(name in self._columns for name in pair)]
        return tuple(self._scores(f"{one} - {two}", self._columns[one], self._columns[two]) for one, two in pairs)

    def ratio(self, score: Literal["f1", "rouge_l"], below: str) -> Estimate | None:
        """Mean score with the adapter over that of another column; None where it cannot be given."""
        if not self._generated or "adapter" not in self._columns or below not in self._columns:
            return None
        one, two = self._columns["adapter"], self._columns[below]
        return self._bootstrap.ratio(getattr(one, score), getattr(two, score))

    def _scores(self, name: str, one: _Column, minus: _Column) -> SquadScores:
        """Figures of `one` minus those of another; the answers, and so their tokens, are the same in both."""
        mean, likelihood = self._bootstrap.mean, one.likelihood - minus.likelihood
        return SquadScores(
            name=name,
            answer_log_likelihood=mean(likelihood),
            token_log_likelihood=self._bootstrap.ratio(likelihood, one.tokens) or Estimate(0.0, 0.0, 0.0),
            f1=mean(one.f1 - minus.f1) if self._generated else None,
            exact=mean(one.exact - minus.exact) if self._generated else None,
            contained=mean(one.contained - minus.contained) if self._generated else None,
            rouge_l=mean(one.rouge_l - minus.rouge_l) if self._generated else None,
        )


@dataclass(frozen=True)
class _Column:
    """Arrays over the questions, float64 [questions], in one order for all columns."""

    likelihood: FloatArray
    tokens: FloatArray
    f1: FloatArray
    exact: FloatArray
    contained: FloatArray
    rouge_l: FloatArray


def _column(cases: Sequence[SquadCase], name: str) -> _Column:
    rows = [case for case in cases if case.column == name]

    def values(attribute: str) -> FloatArray:
        return np.array([getattr(case, attribute) or 0.0 for case in rows], np.float64)

    names = ("log_likelihood", "answer_tokens", "f1", "exact", "contained", "rouge_l")
    return _Column(*(values(name) for name in names))
