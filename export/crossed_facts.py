"""Invented facts that share names and attributes, as lists and tables of several people or things do.

Among facts that have nothing in common, any word of a question leads to the right one. Of two passwords and two people
it takes both words together, which unlike facts never teach (`tests/benchmarks/talks.py` asks such questions).
"""

from __future__ import annotations

import random

from localhyper.evaluate.facts import (
    DIGIT_ATTRIBUTES,
    NOUNS,
    QUESTIONS,
    STATEMENTS,
    WORD_ATTRIBUTES,
    Fact,
    Split,
    make_name,
    pool,
)

SIZES = ((1, 3), (2, 1), (2, 2), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (4, 1), (4, 2), (6, 1))  # names, attributes
RECORDS = 0.4  # share of documents that have one line a name
# Around a record's attributes, between two of them, between the last two, and what an attribute looks like.
_RECORD_FORMS = (
    ("{name}: {all}.", ", ", ", ", "{attribute} {value}"),
    ("{name} - {all}", "; ", "; ", "{attribute}: {value}"),
    ("{name} has {all}.", ", ", " and ", "the {attribute} {value}"),
)


def make_crossed_facts(rng: random.Random, split: Split, most: int) -> list[Fact]:
    """Each of a few attributes for each of a few names, all values different, at most `most` facts.

    Facts of one record have the same statement.
    """
    count, kinds = rng.choice([size for size in SIZES if size[0] * size[1] <= max(2, most)])
    names = _different(rng, split, count)
    digits = [rng.random() < 0.5 for _ in range(kinds)]
    attributes = [
        attribute
        for wanted, words in ((True, DIGIT_ATTRIBUTES), (False, WORD_ATTRIBUTES))
        for attribute in rng.sample(words, digits.count(wanted))
    ]
    numbers, words = (
        rng.sample(range(1000, 10_000), count * kinds),
        rng.sample(sorted(set(pool(NOUNS, split))), count * kinds),
    )
    form = rng.choice(_RECORD_FORMS) if rng.random() < RECORDS else None
    facts = []
    for place, name in enumerate(names):
        values = [
            str(numbers[place * kinds + kind]) if kind < digits.count(True) else words[place * kinds + kind]
            for kind in range(kinds)
        ]
        facts += _of_one(rng, name, list(zip(attributes, values, strict=True)), form)
    return facts


def _different(rng: random.Random, split: Split, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[make_name(rng, split)] = None
    return list(names)


def _of_one(
    rng: random.Random, name: str, known: list[tuple[str, str]], form: tuple[str, str, str, str] | None
) -> list[Fact]:
    record = _record(name, known, form) if form else ""
    facts = []
    for attribute, value in known:
        words = {"attribute": attribute, "name": name, "value": value}
        statement = record or rng.choice(STATEMENTS).format(**words)
        facts.append(
            Fact(
                statement=statement[0].upper() + statement[1:],
                question=rng.choice(QUESTIONS).format(**words),
                answer="The {attribute} of {name} is {value}.".format(**words),
                value=value,
                attribute=attribute,
                name=name,
            )
        )
    return facts


def _record(name: str, known: list[tuple[str, str]], form: tuple[str, str, str, str]) -> str:
    around, between, before_last, part = form
    parts = [part.format(attribute=attribute, value=value) for attribute, value in known]
    joined = between.join(parts[:-1]) + before_last + parts[-1] if len(parts) > 1 else parts[0]
    return around.format(name=name, all=joined)
