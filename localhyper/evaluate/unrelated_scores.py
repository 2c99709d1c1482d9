"""Figures of `eval unrelated`: accuracies, and how far chat moves from what the base says, with 95 % intervals.

Knows cases and numbers: no model, no files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from localhyper.evaluate.intervals import ClusterBootstrap, Estimate

FloatArray = NDArray[np.float64]
Case = TypeVar("Case", "ChoiceCase", "ChatCase")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ChoiceCase:
    """One multiple-choice question in one column.

    Attributes:
        document: Number of the document that is attached in the column `adapter`.
        title: Its title.
        log_likelihoods: Natural log-probability of each choice.
        right: Whether the likeliest choice is the right one (`acc`).
        right_norm: The same after dividing by the choices' lengths in UTF-8 bytes (`acc_norm`).
        asked: Whether `ask` would put the question to the document that is attached.
    """

    set_name: str
    id: str
    document: int
    title: str
    column: str
    log_likelihoods: tuple[float, ...]
    answer: int
    right: bool
    right_norm: bool
    asked: bool = False
    kind: str = "choice"


@dataclass(frozen=True)
class ChatCase:
    """One chat prompt in one column.

    Attributes:
        document: Number of the document that is attached in the column `adapter`.
        title: Its title.
        reply: The greedy reply.
        log_likelihood: Natural log-probability of the reply that the base gives without adapter.
        tokens: Tokens of that reply.
        same: Whether `reply` is that reply.
        rouge_l: ROUGE-L of `reply` against that reply, 0 to 1.
        asked: Whether `ask` would put the prompt to the document that is attached.
    """

    prompt: str
    document: int
    title: str
    column: str
    reply: str
    log_likelihood: float
    tokens: int
    same: bool
    rouge_l: float
    asked: bool = False
    kind: str = "chat"


@dataclass(frozen=True)
class Paired:
    """A figure in both columns, and what the adapter adds to it, paired question by question."""

    none: Estimate
    adapter: Estimate
    difference: Estimate


@dataclass(frozen=True)
class ChoiceScores:
    """Accuracies of a file, or of all questions together.

    Attributes:
        acc: Share of questions where the likeliest choice is right, as `acc` of lm-evaluation-harness.
        acc_norm: The same by log-likelihood per byte, as its `acc_norm` (Gao 2021, "Multiple Choice Normalization in
            LM Evaluation").
    """

    name: str
    questions: int
    acc: Paired
    acc_norm: Paired


@dataclass(frozen=True)
class ChatScores:
    """What the adapter does to chat.

    Attributes:
        token_log_likelihood: Log-likelihood of the base's own replies over the number of their tokens.
        same: Share of replies that the adapter leaves as they were, character by character.
        rouge_l: Mean ROUGE-L of the replies with adapter against those without.
        words: Mean length of the replies in words.
    """

    prompts: int
    token_log_likelihood: Paired
    same: Estimate
    rouge_l: Estimate
    words: Paired


def choice_scores(name: str, cases: Sequence[ChoiceCase | ChatCase], sets: Collection[str], seed: int) -> ChoiceScores:
    """Accuracies over the multiple-choice cases of `sets`."""
    chosen = [case for case in cases if isinstance(case, ChoiceCase) and case.set_name in sets]
    none, adapter = _columns(chosen)
    bootstrap = _bootstrap([case.document for case in none], seed)
    return ChoiceScores(
        name=name,
        questions=len(none),
        acc=_paired(bootstrap, none, adapter, lambda case: float(case.right)),
        acc_norm=_paired(bootstrap, none, adapter, lambda case: float(case.right_norm)),
    )


def chat_scores(cases: Sequence[ChoiceCase | ChatCase], seed: int) -> ChatScores:
    """Figures over the chat cases."""
    none, adapter = _columns([case for case in cases if isinstance(case, ChatCase)])
    bootstrap = _bootstrap([case.document for case in none], seed)
    return ChatScores(
        prompts=len(none),
        token_log_likelihood=_paired(
            bootstrap, none, adapter, lambda case: case.log_likelihood, _values(none, lambda case: float(case.tokens))
        ),
        same=bootstrap.mean(_values(adapter, lambda case: float(case.same))),
        rouge_l=bootstrap.mean(_values(adapter, lambda case: case.rouge_l)),
        words=_paired(bootstrap, none, adapter, lambda case: float(len(_WORD.findall(case.reply)))),
    )


def share_asked(cases: Sequence[ChoiceCase | ChatCase], seed: int) -> Estimate:
    """Share of the questions that `ask` would put to the document that is attached."""
    attached = [case for case in cases if case.column == "adapter"]
    return _bootstrap([case.document for case in attached], seed).mean([float(case.asked) for case in attached])


def _columns(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Cases without and with adapter, in the same order of questions."""
    return [case for case in cases if case.column == "none"], [case for case in cases if case.column == "adapter"]


def _bootstrap(documents: Sequence[int], seed: int) -> ClusterBootstrap:
    """Draws whole documents, as questions that share an adapter are not independent.

    With a single document questions are drawn, and the intervals hold for that document only.
    """
    numbers = {document: number for number, document in enumerate(dict.fromkeys(documents))}
    if len(numbers) < 2:
        return ClusterBootstrap(range(len(documents)), seed)
    return ClusterBootstrap([numbers[document] for document in documents], seed)


def _values(cases: Sequence[Case], value: Callable[[Case], float]) -> FloatArray:
    return np.array([value(case) for case in cases], np.float64)


def _paired(
    bootstrap: ClusterBootstrap,
    none: Sequence[Case],
    adapter: Sequence[Case],
    value: Callable[[Case], float],
    weights: FloatArray | None = None,
) -> Paired:
    """Sum of `value` over sum of `weights` (None = the mean) in both columns, and adapter minus none."""
    before, after = _values(none, value), _values(adapter, value)
    below = np.ones(len(before)) if weights is None else weights
    figures = [bootstrap.ratio(part, below) or Estimate(0.0, 0.0, 0.0) for part in (before, after, after - before)]
    return Paired(*figures)
