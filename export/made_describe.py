"""Descriptions of made tasks, out of the wordings of `made_tasks.toml`. Knows nothing of what the tasks do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from localhyper.export.packaged import packaged_table

# Ways to dress an answer up; how each is asked for stands under its name in `made_tasks.toml`.
DRESS: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "quotes": '"{}"'.format,
    "label": "Answer: {}".format,
    "exclamation": "{}!".format,
    "brackets": "[{}]".format,
    "bold": "**{}**".format,
    "arrow": "-> {}".format,
    "json": '{{"answer": "{}"}}'.format,
    "twice": "{0} {0}".format,
    "hash": "#{}".format,
    "paragraph": "<p>{}</p>".format,
    "sentence": "It is {}.".format,
}


@dataclass(frozen=True)
class Wording:
    """How a family is asked for.

    Attributes:
        answer: What it answers with.
        phrasings: What is asked.
        kept: Phrasings that are never trained with.
    """

    answer: str
    phrasings: Sequence[str]
    kept: Sequence[str]


@dataclass(frozen=True)
class Wrap:
    """A way to dress an answer up.

    Attributes:
        dress: What becomes of the answer.
        phrasings: How that is asked for.
        kept: A phrasing that is never trained with.
    """

    dress: Callable[[str], str]
    phrasings: Sequence[str]
    kept: str


@dataclass(frozen=True)
class Styles:
    """Sentences that phrasings are put into.

    Attributes:
        short: For a command.
        long: The same, with what the input is.
        whole_short: For a phrasing that is a question or a sentence.
        whole_long: The same, with what the input is.
        ends: What else may be said.
    """

    short: Sequence[str]
    long: Sequence[str]
    whole_short: Sequence[str]
    whole_long: Sequence[str]
    ends: Sequence[str]


@cache
def _tables() -> dict[str, Any]:
    return packaged_table("made_tasks.toml")


@cache
def wordings() -> Mapping[str, Wording]:
    """The wordings of each family."""
    return {name: Wording(**table) for name, table in _tables()["family"].items()}


@cache
def wraps() -> Sequence[Wrap]:
    """The ways to dress an answer up."""
    return [Wrap(dress, **_tables()["wrap"][name]) for name, dress in DRESS.items()]


@cache
def styles() -> Styles:
    """The sentences that phrasings are put into."""
    return Styles(**_tables()["styles"])


class Describer:
    """Descriptions of one task.

    Args:
        rng: What they are drawn with.
        wording: Those of its family.
        fill: What stands for the names in braces.
        also: Phrasings for it alone.
        noun: What its input is.
        wrap: How its answer is dressed up.
    """

    def __init__(
        self,
        rng: random.Random,
        wording: Wording,
        fill: Mapping[str, str],
        also: Sequence[str],
        noun: str,
        wrap: Wrap | None,
    ) -> None:
        self.rng, self.wrap = rng, wrap
        self.fill = {**fill, "noun": noun}
        self.fill["answer"] = "the answer" if wrap else wording.answer.format_map(self.fill)
        self.phrasings = [*self._filled(wording.phrasings), *also]
        self.kept = self._filled(wording.kept)

    def _filled(self, texts: Sequence[str]) -> list[str]:
        return [text.format_map(self.fill) for text in texts]

    def make(self) -> tuple[str, list[str], list[str]]:
        """The definition, other descriptions, and those never to train with."""
        count = self.rng.randint(10, 15)
        found = {self._styled(text, long=False): None for text in self.phrasings}  # a dict: a set has no order
        while len(found) <= count:
            phrasing = self.rng.choice(self.phrasings)
            found[self._styled(phrasing, long=self.rng.choice((False, True, True)))] = None
        texts = list(found)
        self.rng.shuffle(texts)
        definition = max(texts, key=len)
        return definition, [text for text in texts if text != definition], self._kept()

    def _kept(self) -> list[str]:
        kept = [_capital(text) for text in self.kept]
        return [f"{_finished(text)} {self.wrap.kept}" for text in kept] if self.wrap else kept

    def _styled(self, phrasing: str, long: bool) -> str:
        """A phrasing as a sentence, followed by what the wrap asks for."""
        whole = phrasing.endswith("?") or phrasing[0].isupper()
        if whole:
            style = self.rng.choice(styles().whole_long if long else styles().whole_short)
        else:
            style = self.rng.choice(styles().long if long else styles().short)
        command = _finished(phrasing) if whole and "{end}" in style else phrasing
        end = self.rng.choice(styles().ends).format_map(self.fill)
        text = style.format_map(self.fill | {"c": command, "C": _capital(command), "end": end}).strip()
        text = _single_stops(text)
        return f"{_finished(text)} {self.rng.choice(self.wrap.phrasings)}" if self.wrap else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _finished(text: str) -> str:
    text = text.rstrip(" :")
    return text if text.endswith((".", "?", "!")) else text + "."


def _single_stops(text: str) -> str:
    """Without a full stop after another mark; three dots stay."""
    return re.sub(r"(?<=[?!])\.|(?<!\.)\.(?=\.(?!\.))", "", text)
