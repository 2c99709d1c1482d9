"""Invented facts of many kinds for training: the forms of `relations.toml` filled with invented words.

Names are made of syllables, so there are far more of them than a run can see; a checksum says which are held out for
tests. Knows no tokens and no documents; `data` puts the facts into text, `relation_words` has the words and
numbers.
"""

from __future__ import annotations

import random
import string
import zlib
from dataclasses import dataclass
from functools import cache

from localhyper.evaluate.facts import FIRST_NAMES, NOUNS, Fact, Split, pool
from localhyper.export.packaged import packaged_table
from localhyper.export.relation_words import (
    APPLIANCES,
    CLUBS,
    COMPANY_ENDS,
    DISHES,
    NUMBERS,
    SMALL,
    SPECIES,
    STREET_ENDS,
    TEAMS,
    TOWN_ENDS,
    WORDS,
    Draw,
    one_of,
)

ONSETS = "b br d dr f fr g gr h j k kl kr l m n p pr r s sk st t tr v w z".split()
VOWELS = "a a e e i o o u ei au".split()
CODAS = " l n r s m nd rk ld th st".split(" ")
COLOURS = WORDS["colour"]
HARD = 0.3  # share of further facts of the kind of the one before: only their names tell them apart


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        value: Kind of what is asked for.
        statements: How it stands in a document; `{value}` and kinds of names in braces.
        questions: How it is asked for.
        answer: How the answer restates it.
        test: Whether it is held out.
    """

    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    test: bool = False


def _held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % 4 == 3


def _syllables(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


def _invented(rng: random.Random, split: Split, ends: list[str]) -> str:
    """A capitalized word that belongs to the split."""
    while True:
        word = (_syllables(rng, rng.choice((1, 1, 2))) + rng.choice(ends)).capitalize()
        if _held_out(word) == (split == "test"):
            return word


def _person(rng: random.Random, split: Split) -> str:
    first = rng.choice(pool(FIRST_NAMES, split)) if rng.random() < 0.7 else _invented(rng, split, [""])
    return f"{first} {_invented(rng, split, ['', 'a', 'i', 'sen', 'er', 'o'])}"


def _title(rng: random.Random, split: Split) -> str:
    words = rng.choice(COLOURS + SMALL).capitalize(), rng.choice(pool(NOUNS, split)).capitalize()
    return " ".join(words)


def _made(ends: str, *forms: str) -> Draw:
    """An invented word with one of the ends (between bars) in one of the forms."""
    return lambda rng, split: rng.choice(forms).format(_invented(rng, split, ends.split("|")))


def _after(words: list[str], ends: str = "|a|o") -> Draw:
    """An invented name before one of the words."""
    return _made(ends, *(f"{{}} {word}" for word in words))


def _email(rng: random.Random, split: Split) -> str:
    name = _invented(rng, split, ["", "a", "o"]).lower()
    return f"{rng.choice(('info', 'post', 'office', 'service', 'mail'))}@{name}.{rng.choice(('com', 'org', 'net'))}"


SURNAME = "|a|sen|er|berg|ski"
_street = _after(STREET_ENDS, "|er|a")

KINDS: dict[str, Draw] = (
    {kind: one_of(words) for kind, words in WORDS.items()}
    | NUMBERS
    | {
        "person": _person,
        "given": lambda rng, split: _invented(rng, split, ["", "o", "y", "a"]),
        "town": lambda rng, split: _invented(rng, split, TOWN_ENDS),
        "river": lambda rng, split: _invented(rng, split, ["", "a", "e"]),
        "company": lambda rng, split: f"{_invented(rng, split, ['', 'a', 'o'])} {rng.choice(COMPANY_ENDS)}",
        "title": _title,
        "word": lambda rng, split: rng.choice(pool(NOUNS, split)),
        "email": _email,
        "surname": _made(SURNAME, "{}"),
        "doctor": _made(SURNAME, "Dr {}"),
        "teacher": _made(SURNAME, "Mr {}", "Ms {}", "Mrs {}"),
        "monarch": _made("|a|o", "King {} I", "King {} II", "King {} III", "Queen {} I", "Queen {} II", "Prince {} IV"),
        "street": _street,
        "address": lambda rng, split: f"{rng.randrange(1, 180)} {_street(rng, split)}",
        "flat": lambda rng, split: f"flat {rng.randrange(1, 90)} in {_street(rng, split)}",
        "device": _after(APPLIANCES),
        "species": _after(SPECIES, "|a|i"),
        "club": lambda rng, split: f"{_invented(rng, split, TOWN_ENDS)} {rng.choice(CLUBS)}",
        "team": _after(TEAMS, "|".join(TOWN_ENDS)),
        "opponent": _after(TEAMS, "|".join(TOWN_ENDS)),
        "dish": _after(DISHES, "|y|er"),
        "drug": _made("ol|ine|amide|ex|ium|an|in", "{}"),
        "mineral": _made("ite|ium|ine", "{}"),
        "mountain": _made("|a|horn", "Mount {}"),
        "lake": _made("|a|en", "Lake {}"),
        "island": _made("ey|sund|oy|land", "{}"),
        "hotel": _made("|a|hof|ia", "Hotel {}", "Pension {}", "{} Inn", "{} Lodge"),
        "software": _made("ly|base|desk|mail|soft|io", "{}"),
        "language": _made("ish|ian|ese", "{}"),
        "journal": _made("|a|o", "the {} Review", "the {} Journal", "Annals of {}", "{} Letters", "the {} Bulletin"),
        "prize": _made(SURNAME, "the {} Prize", "the {} Medal", "the {} Award", "the Order of {}"),
    }
)


@cache
def relations(split: Split) -> tuple[Relation, ...]:
    """The kinds of facts of a split; those of `test` are never trained on."""
    entries = [
        Relation(
            row["value"], tuple(row["statements"]), tuple(row["questions"]), row["answer"], bool(row.get("test", False))
        )
        for row in packaged_table("relations.toml")["relation"]
    ]
    return tuple(entry for entry in entries if entry.test == (split == "test"))


def places(form: str) -> list[str]:
    """Names of the braces in a form."""
    return [name for _, name, _, _ in string.Formatter().parse(form) if name]


def _fill(rng: random.Random, split: Split, relation: Relation) -> Fact:
    names = {name: KINDS[name](rng, split) for name in sorted(set(places(relation.answer)) - {"value"})}
    value = KINDS[relation.value](rng, split)
    filled = names | {"value": value}
    statement = rng.choice(relation.statements).format(**filled)
    answer = relation.answer.format(**filled)
    return Fact(
        statement=statement[0].upper() + statement[1:],
        question=rng.choice(relation.questions).format(**filled),
        answer=answer,
        value=value,
        attribute=relation.answer,
        name=", ".join(names.values()),
    )


def make_relations(rng: random.Random, split: Split, count: int) -> list[Fact]:
    """`count` facts with different values, no two of which answer the same question."""
    kinds = relations(split)
    facts: list[Fact] = []
    relation = rng.choice(kinds)
    for _ in range(20 * count):
        if len(facts) == count:
            break
        fact = _fill(rng, split, relation)
        if all((fact.attribute, fact.name) != (f.attribute, f.name) and fact.value != f.value for f in facts):
            facts.append(fact)
        if rng.random() > HARD:
            relation = rng.choice(kinds)
    return facts
