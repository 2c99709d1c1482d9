"""Questions about any text, without anyone having asked them: a sentence with a gap, and what stood there.

What is left out is what a reader would look up: a number, a name, or the last word before a stop. The answer stands in
the document only, so an adapter must bind it to the words around it, in whatever kind of text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NUMBER = re.compile(r"(?<![\w.,])\d[\d.,]*\d(?![\w])|(?<![\w.,])\d(?![\w.,])")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,3}")
LAST = re.compile(r"[A-Za-z][\w'-]{4,}(?=[.!?]?$)")
GAP = "____"
FORMS = (
    "What is missing? {sentence}",
    "Fill the gap: {sentence}",
    "{sentence} What stands in the gap?",
    "Which words belong in the gap? {sentence}",
)
SHORTEST, LONGEST = 6, 40  # words of a sentence with a gap


def cloze(rng: random.Random, sentence: str) -> tuple[str, str] | None:
    """A question that shows a sentence with a gap, and what belongs there; None where nothing is worth asking."""
    if not SHORTEST <= len(sentence.split()) <= LONGEST:
        return None
    found = [match for form in (NUMBER, NAME) for match in form.finditer(sentence)] or list(LAST.finditer(sentence))
    if not found:
        return None
    match = rng.choice(found)
    gapped = f"{sentence[: match.start()]}{GAP}{sentence[match.end() :]}"
    return rng.choice(FORMS).format(sentence=gapped), match.group()


def clozes(rng: random.Random, sentences: Sequence[str]) -> list[tuple[str, str]]:
    """At most one question for each sentence."""
    return [pair for pair in (cloze(rng, sentence) for sentence in sentences) if pair]
