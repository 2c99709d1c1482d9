"""What a task suite asks, whatever the task: items with their messages, and how an answer to each is scored.

An item is answered either by a reply, which is then graded, or by the likeliest of several choices. Knows no model and
no data file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from localhyper.evaluate.metrics import best, rouge_l, same_text


@dataclass(frozen=True)
class Scores:
    """Scores of one answer, 0 to 1; None where the task has no such score.

    Attributes:
        rouge_l: ROUGE-L, the best over the references.
        exact: Whether it is one of the references (`metrics.same_text`).
        accuracy: Whether it is right.
        note: In a few words why not, where there is more to say; else empty.
    """

    rouge_l: float | None = None
    exact: float | None = None
    accuracy: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ReplyItem:
    """Answered by a reply.

    Attributes:
        message: The user's message.
        grade: Scores of a reply.
        wanted: A right reply, for people; empty where there is none to show.
    """

    id: str
    message: str
    grade: Callable[[str], Scores]
    wanted: str = ""


@dataclass(frozen=True)
class ChoiceItem:
    """Answered by the likeliest choice.

    Attributes:
        message: The user's message.
        parts: For each choice what opens the assistant's turn, and what is scored after it.
        lengths: What the log-likelihood of each choice is divided by.
        answer: Number of the right choice.
    """

    id: str
    message: str
    parts: tuple[tuple[str, str], ...]
    lengths: tuple[float, ...]
    answer: int

    def grade(self, log_likelihoods: Sequence[float]) -> Scores:
        """Whether the likeliest choice is the right one; of equals, the first counts."""
        chosen = int(np.argmax(np.array(log_likelihoods) / np.array(self.lengths)))
        return Scores(accuracy=float(chosen == self.answer))


@dataclass(frozen=True)
class Shot:
    """An example from the training rows, as one turn of a conversation."""

    message: str
    reply: str


@dataclass(frozen=True)
class Subject:
    """A task to be measured.

    Attributes:
        group: What kind of task it is; the control takes a description from another group.
        descriptions: Texts that say what is to be done, unseen in training; may be empty.
        shots: Examples for the prompt to choose from; may be empty.
        items: What is asked.
        reply_tokens: Most tokens of a reply.
    """

    name: str
    group: str
    descriptions: tuple[str, ...]
    shots: tuple[Shot, ...]
    items: tuple[ReplyItem | ChoiceItem, ...]
    reply_tokens: int


def grade_text(references: Sequence[str], reply: str) -> Scores:
    """ROUGE-L and exact match of a free reply.

    A reply that is a reference has ROUGE-L 1 in any case: that measure sees ASCII letters and digits only.
    """
    exact = best(same_text, reply, references)
    return Scores(rouge_l=1.0 if exact else best(rouge_l, reply, references), exact=exact)
