"""Figures of the needle suite: shares of right replies over all cases, by depth, by kind of key and by value.

Knows numbers only; `needle` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localhyper.evaluate.costs import AttachCost
from localhyper.evaluate.facts import KEY_KINDS, KeyKind
from localhyper.evaluate.haystack import FIFTHS, fifth_of
from localhyper.evaluate.intervals import Estimate, wilson


@dataclass(frozen=True)
class NeedleCase:
    """One question in one column.

    Attributes:
        depth: Where the fact stands among the sentences, 0.0 (first) to 1.0 (last).
        tokens: Length of the document.
        kind: What the fact is about: a person, a city or a code name.
        values: `digits` or `words`.
        attach: What the adapter in force took; None without one. In `shuffled` that is another document's.
    """

    case: int
    column: str
    depth: float
    tokens: int
    question: str
    value: str
    reply: str
    found: bool
    kind: KeyKind
    values: str
    attach: AttachCost | None


@dataclass(frozen=True)
class Part:
    """Share of right replies among some of the cases; None where there are no such cases."""

    name: str
    cases: int
    exact: Estimate | None


@dataclass(frozen=True)
class NeedleScores:
    """Shares of replies that hold the value, with Wilson's intervals.

    Attributes:
        exact: Over all cases.
        by_depth: By fifths of the depth, from the start of the document; None where no case fell.
        by_depth_cases: Cases of each fifth.
        by_kind: By what the fact is about.
        by_value: By what its value is.
    """

    name: str
    exact: Estimate
    by_depth: tuple[Estimate | None, ...]
    by_depth_cases: tuple[int, ...]
    by_kind: tuple[Part, ...]
    by_value: tuple[Part, ...]


def needle_scores(name: str, cases: Sequence[NeedleCase]) -> NeedleScores:
    """Figures of the cases in column `name`."""
    rows = [case for case in cases if case.column == name]
    fifths = [_part(str(fifth), [case for case in rows if fifth_of(case.depth) == fifth]) for fifth in range(FIFTHS)]
    return NeedleScores(
        name=name,
        exact=wilson(sum(case.found for case in rows), len(rows)),
        by_depth=tuple(part.exact for part in fifths),
        by_depth_cases=tuple(part.cases for part in fifths),
        by_kind=tuple(_part(kind, [case for case in rows if case.kind == kind]) for kind in KEY_KINDS),
        by_value=tuple(_part(word, [case for case in rows if case.values == word]) for word in ("digits", "words")),
    )


def _part(name: str, cases: Sequence[NeedleCase]) -> Part:
    return Part(name, len(cases), wilson(sum(case.found for case in cases), len(cases)) if cases else None)
