"""Overviews in training: what documents say of themselves as a whole, asked in general.

An overview is written by the code that writes it when a document is attached (`localhyper.overview`), of contexts that
follow each other. Reading sets have few titles, so most of these are names out of other contexts: an answer must come
from the overview, not from what the text is about.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from localhyper.evaluate.columns import make_document
from localhyper.export.packaged import packaged_table
from localhyper.export.texts import Example, Pair
from localhyper.overview import NAME, headings_of, listed, names_of, overview, subject_of

UNTITLED = 0.3  # share of documents that go by what they begin with
OWN_TITLE = 0.3  # share of those of an article that have its title
MOST_CONTEXTS = 12
TRIES = 20
_TABLE = packaged_table("about.toml")


def make_overview(rng: random.Random, reading: Sequence[Example]) -> Example | None:
    """The overview of a document made of contexts, with general questions; None where no document has one."""
    for _ in range(TRIES):
        first = rng.randrange(len(reading))
        article = reading[first].article
        members = [one for one in reading[first : first + rng.randint(1, MOST_CONTEXTS)] if one.article == article]
        document = make_document(_title(rng, article, reading), "\n\n".join(one.text for one in members))
        text, subject = overview(document), subject_of(document)
        if text:
            pairs = [Pair(question, subject) for question in _TABLE["subject"]]
            if points := headings_of(document.text, subject) or names_of(document.text, subject):
                pairs += [Pair(question, listed(points)) for question in _TABLE["points"]]
            return Example("overviews", text, tuple(pairs))
    return None


def _title(rng: random.Random, article: str, reading: Sequence[Example]) -> str:
    """Nothing, the article's own title, or a name of another context."""
    if rng.random() < UNTITLED:
        return ""
    _, _, own = article.partition("/")
    if own and rng.random() < OWN_TITLE:
        return own
    names = NAME.findall(rng.choice(reading).text)
    return rng.choice(names) if names else own
