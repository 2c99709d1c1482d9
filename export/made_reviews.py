"""Made tasks on what customers say: pleased or not. The labels are never positive and negative."""

from __future__ import annotations

import random

from localhyper.export.made_family import Family, Source, either
from localhyper.export.made_lexicon import REVIEWS


def _draw_review(rng: random.Random) -> tuple[str, bool]:
    """A comment, and whether the customer is pleased."""
    aspect = REVIEWS["aspects"][rng.choice(list(REVIEWS["aspects"]))]
    comments = aspect["pleased"] + aspect["displeased"]
    number, opening = rng.randrange(len(comments)), rng.choice(REVIEWS["openings"])
    return f"{opening} {comments[number]}{rng.choice(REVIEWS['closings'])}", number < len(aspect["pleased"])


REVIEW = Source("review", "a customer's comment", _draw_review, lambda item: str(item[0]))
LABELS = [
    ("good", "bad"),
    ("yes", "no"),
    ("+", "-"),
    ("1", "0"),
    ("A", "B"),
    ("thumbs up", "thumbs down"),
    ("like", "dislike"),
    ("happy", "unhappy"),
    ("recommend", "avoid"),
    ("5", "1"),
    ("praise", "complaint"),
    (":)", ":("),
]

FAMILIES = [Family("review", REVIEW, either(lambda item: bool(item[1]), LABELS), wraps=2)]
