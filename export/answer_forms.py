"""Forms of answers to questions about documents, and descriptions that ask for them: `answer_forms.toml`.

Knows no tokens, no documents and no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from localhyper.export.packaged import packaged_table
from localhyper.export.texts import Pair


@dataclass(frozen=True)
class AnswerForm:
    """One form.

    Attributes:
        name: What reports call it.
        answer: Text with `{value}`, `{json}`, `{sentence}` or `{question}` in it.
        descriptions: How it is asked for in training; none of a form that is kept for tests.
        unseen: How it is asked for in probes and benchmarks.
        case: What becomes of the value's letters.
        weight: How often it is drawn.
        test: Whether it is never trained with.
    """

    name: str
    answer: str
    descriptions: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    case: Literal["", "upper", "lower"] = ""
    weight: float = 1.0
    test: bool = False

    def fits(self, pair: Pair) -> bool:
        """Whether the pair's answer can be put so; one that is the value alone is no sentence."""
        return bool(pair.value) or "{sentence}" not in self.answer

    def put(self, pair: Pair) -> str:
        """The pair's answer in this form."""
        value = pair.value or pair.answer
        if self.case:
            value = value.upper() if self.case == "upper" else value.lower()
        quoted = json.dumps(value, ensure_ascii=False)
        return self.answer.format(value=value, sentence=pair.answer, question=pair.question, json=quoted)


@cache
def other_descriptions() -> tuple[str, ...]:
    """Descriptions in other languages, of other things and of nothing, which training beside documents leaves alone."""
    return tuple(packaged_table("answer_forms.toml")["others"])


@cache
def answer_forms() -> tuple[AnswerForm, ...]:
    """All forms, those for tests among them."""
    rows: list[dict[str, Any]] = packaged_table("answer_forms.toml")["forms"]
    return tuple(
        AnswerForm(**row | {key: tuple(row[key]) for key in ("descriptions", "unseen") if key in row}) for row in rows
    )
