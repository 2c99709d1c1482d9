"""Overviews of invented documents for training: what they say, and what is asked about them."""

from __future__ import annotations

import random

from localhyper.export.overview_texts import make_overview
from localhyper.export.packaged import packaged_table
from localhyper.export.texts import Example, Pair

PAIR = (Pair("Who?", "Ines"),)
READING = [
    Example(
        "reading",
        f"In {1900 + i} the miller Ines Vega sold {i} barrels to Otto Brandt.",
        PAIR,
        "set.jsonl/Mills of Aldea",
    )
    for i in range(12)
] + [Example("reading", f"A kettle sang {i} times for the cook of Corvo.", PAIR, "other.jsonl") for i in range(12)]


def test_what_is_asked_is_answered_by_the_overview() -> None:
    table = packaged_table("about.toml")
    for seed in range(60):
        made = make_overview(random.Random(seed), READING)
        assert made is not None and made.kind == "overviews"
        answers = {pair.question: pair.answer for pair in made.pairs}
        subject = answers[table["subject"][0]]
        assert {answers[question] for question in table["subject"]} == {subject}
        assert made.text.count(f'"{subject}"') == 3
        points = {answers[question] for question in table["points"] if question in answers}
        assert len(points) <= 1 and all(point in made.text for point in points)


def test_titles_are_the_articles_own_or_names_from_anywhere_or_none() -> None:
    made = [make_overview(random.Random(seed), READING) for seed in range(300)]
    subjects = [one.pairs[0].answer for one in made if one is not None]
    begun = sum(subject.startswith(("In 19", "A kettle")) for subject in subjects)
    own = sum(subject == "Mills of Aldea" for subject in subjects)
    named = sum(subject in ("Ines Vega", "Otto Brandt", "Corvo") for subject in subjects)
    assert begun + own + named == len(subjects) == 300
    assert 50 < begun < 150 and 20 < own < 90 and named > 100


def test_a_text_without_letters_has_no_overview() -> None:
    assert make_overview(random.Random(0), [Example("reading", "1 + 2 = 3.", PAIR, "sums.jsonl")]) is None
