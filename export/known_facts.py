"""Questions that the base model answers rightly without a document: `known_facts.toml`.

Knows no tokens and no torch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from localhyper.export.packaged import packaged_table
from localhyper.export.texts import Pair


@cache
def known_facts() -> tuple[Pair, ...]:
    """All of them, each answered in a sentence."""
    rows: list[dict[str, Any]] = packaged_table("known_facts.toml")["facts"]
    return tuple(
        Pair(row["question"].format(subject), _sentence(row["sentence"], subject, value), value)
        for row in rows
        for subject, value in row["values"].items()
    )


def _sentence(template: str, subject: str, value: str) -> str:
    text = template.format(subject, value=value)
    return text[0].upper() + text[1:]
