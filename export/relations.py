"""Invented facts of many kinds for training: the forms of `relations.toml` filled with invented words.

Names are made of syllables, so there are far more of them than a run can see; a checksum says which are held out for
tests. Knows no tokens and no documents; `data` puts the facts into text.
"""

from __future__ import annotations

import random
import string
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from localhyper.evaluate.facts import FIRST_NAMES, NOUNS, Fact, Split, pool

ONSETS = "b br d dr f fr g gr h j k kl kr l m n p pr r s sk st t tr v w z".split()
VOWELS = "a a e e i o o u ei au".split()
CODAS = " l n r s m nd rk ld th st".split(" ")
TOWN_ENDS = "holm ford vik by stad ton ville berg field mouth haven dale".split()
COMPANY_ENDS = "Works|Brothers|Limited|Foods|Textiles|Shipping|and Sons|Instruments|Paper|Glass".split("|")
ROOMS = """boiler room|wine cellar|server room|music room|reading room|attic|tool shed|map room|cloakroom|sick room|
common room|dark room|garage|pump room|projection room|laundry""".replace("\n", "").split("|")
PLACES = """library|town hall|bakery|museum|swimming pool|post office|mill|theatre|hospital|observatory|market hall|
railway station|guest house|school|brewery|art gallery|pharmacy|boat club|chapel|botanical garden""".replace(
    "\n", ""
).split("|")
ITEMS = """books|lamps|chairs|paintings|bottles|seats|boxes|coins|beds|tools|letters|photographs|bicycles|
clocks""".replace("\n", "").split("|")
ROLES = """mayor|head cook|librarian|caretaker|treasurer|night nurse|conductor|head teacher|chief engineer|gardener|
coach|secretary|landlord|editor|stage manager|supervisor""".replace("\n", "").split("|")
JOBS = """baker|surgeon|carpenter|translator|plumber|photographer|pilot|beekeeper|tailor|geologist|piano tuner|
locksmith|vet|diver|notary|glassblower""".replace("\n", "").split("|")
VEHICLES = """ferry|fire engine|research ship|sailing boat|cargo train|rescue helicopter|airship|ice breaker|
hospital ship|mail van|snow plough|submarine""".replace("\n", "").split("|")
ANIMALS = """grey cat|old dog|parrot|white horse|goat|school hamster|tortoise|donkey|goose|pony|guard dog|
raven""".replace("\n", "").split("|")
OBJECTS = """coffee machine|spare key|first aid kit|ladder|projector|green suitcase|lawn mower|printer|fire bell|
sewing machine|rowing boat|piano|tent|wheelbarrow|delivery van|generator""".replace("\n", "").split("|")
TICKETS = """day ticket|season ticket|guided tour|haircut|bowl of soup|parking permit|swimming lesson|
library card|bus ticket|cup of tea""".replace("\n", "").split("|")
EVENTS = """summer fair|chess tournament|spring concert|flower show|boat race|evening course|film festival|
staff meeting|book fair|marathon|training camp|harvest festival|annual meeting""".replace("\n", "").split("|")
PAPERS = """rental agreement|insurance policy|supply contract|work permit|peace treaty|employment contract|warranty|
loan agreement|building permit|fishing licence""".replace("\n", "").split("|")
PRODUCTS = """blue cheese|woollen socks|garden chairs|plum cake|violins|olive oil|rye bread|candles|fishing nets|
honey|leather gloves|kites|smoked trout|pencils|toy trains|mustard|silk scarves|walnuts""".replace("\n", "").split("|")
SPOTS = """behind the stove|under the stairs|in the top drawer|beside the fuse box|on the upper shelf|in the hall
cupboard|next to the sink|below the window|in the cellar|behind the curtain|under the work bench""".replace(
    "\n", " "
).split("|")
COLOURS = "red blue green yellow white black brown orange purple grey silver pink".split()
REASONS = """heavy rain|a power cut|a strike|the flu|a lack of money|a broken pipe|thick fog|a bomb scare|high winds|
a missing permit|snow on the tracks""".replace("\n", "").split("|")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SMALL = "two three four five six seven eight nine ten twelve fourteen".split()
HARD = 0.3  # share of further facts of the kind of the one before: only their names tell them apart

Draw = Callable[[random.Random, Split], str]


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


def _number(rng: random.Random, split: Split) -> str:
    digits = rng.choice((3, 4, 4, 4, 5))
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _count(rng: random.Random, split: Split) -> str:
    number = int(10 ** rng.uniform(1, 4.5))
    return f"{number:,}" if number > 9999 or rng.random() < 0.2 else str(number)


def _price(rng: random.Random, split: Split) -> str:
    unit = rng.choice((" euros", " dollars", " crowns", " francs"))
    return f"{rng.randrange(2, 990)}{unit}" if rng.random() < 0.6 else f"${rng.randrange(2, 90)}.{rng.randrange(10)}0"


def _time(rng: random.Random, split: Split) -> str:
    minute = rng.choice((0, 15, 20, 30, 40, 45, 50))
    return f"{rng.randrange(1, 24)}:{minute:02d}" if rng.random() < 0.6 else f"{rng.randrange(1, 12)} o'clock"


def _date(rng: random.Random, split: Split) -> str:
    day, month = rng.randrange(1, 29), rng.choice(MONTHS)
    return f"{day} {month}" if rng.random() < 0.5 else f"{month} {day}"


def _measure(rng: random.Random, split: Split) -> str:
    return f"{rng.randrange(2, 400)} {rng.choice(('metres', 'miles', 'feet', 'kilometres'))}"


def _model(rng: random.Random, split: Split) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=2))
    return f"{letters}-{rng.randrange(10, 1000)}"


def _one_of(words: list[str]) -> Draw:
    return lambda rng, split: rng.choice(words)


KINDS: dict[str, Draw] = {
    "person": _person,
    "given": lambda rng, split: _invented(rng, split, ["", "o", "y", "a"]),
    "town": lambda rng, split: _invented(rng, split, TOWN_ENDS),
    "river": lambda rng, split: _invented(rng, split, ["", "a", "e"]),
    "company": lambda rng, split: f"{_invented(rng, split, ['', 'a', 'o'])} {rng.choice(COMPANY_ENDS)}",
    "title": _title,
    "word": lambda rng, split: rng.choice(pool(NOUNS, split)),
    "number": _number,
    "count": _count,
    "year": lambda rng, split: str(rng.randrange(1650, 2026)),
    "age": lambda rng, split: str(rng.randrange(6, 100)),
    "price": _price,
    "time": _time,
    "date": _date,
    "day": _one_of(DAYS),
    "duration": lambda rng, split: f"{rng.choice(SMALL)} {rng.choice(('days', 'weeks', 'months', 'hours', 'years'))}",
    "measure": _measure,
    "model": _model,
    "colour": _one_of(COLOURS),
    "spot": _one_of(SPOTS),
    "reason": _one_of(REASONS),
    "product": _one_of(PRODUCTS),
    "job": _one_of(JOBS),
    "room": _one_of(ROOMS),
    "place": _one_of(PLACES),
    "items": _one_of(ITEMS),
    "role": _one_of(ROLES),
    "vehicle": _one_of(VEHICLES),
    "animal": _one_of(ANIMALS),
    "object": _one_of(OBJECTS),
    "ticket": _one_of(TICKETS),
    "event": _one_of(EVENTS),
    "paper": _one_of(PAPERS),
}


@cache
def relations(split: Split) -> tuple[Relation, ...]:
    """The kinds of facts of a split; those of `test` are never trained on."""
    text = resources.files("localhyper.export").joinpath("relations.toml").read_text(encoding="utf-8")
    entries = [
        Relation(
            row["value"], tuple(row["statements"]), tuple(row["questions"]), row["answer"], bool(row.get("test", False))
        )
        for row in tomllib.loads(text)["relation"]
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
