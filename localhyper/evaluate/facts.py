"""Invented facts: "the ATTRIBUTE of NAME is VALUE", for needle tests and for training, from disjoint word pools.

Every pool is split by position: each fourth word belongs to `test`, the rest to `train`, so no name of a test fact
was ever part of a training fact. Knows no model and no tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
KeyKind = Literal["person", "city", "code name"]
KEY_KINDS: tuple[KeyKind, ...] = ("person", "city", "code name")

FIRST_NAMES = """Alice Bruno Clara Dmitri Elena Felix Greta Hassan Ingrid Jonas Karin Leo Mara Nils Olga Pavel Quentin
Rosa Stefan Tilda Umar Vera Walter Xenia Yusuf Zora Amir Bella Cyrus Dora Emil Fiona Gustav Heidi Igor Judith Kofi
Lena Milan Nora Otto Petra Rafael Selma Tomas Ursula Viktor Wanda Anton Birgit""".split()
LAST_NAMES = """Abbott Brandt Castillo Dorsey Ekberg Farrow Gomez Hartley Ivanov Jensen Keller Lindgren Moreau Novak
Okafor Petrov Quinn Rossi Schmidt Tanaka Ueda Vargas Weber Yilmaz Zimmer Archer Bishop Conrad Drake Ellis Fischer
Grant Holm Irving Jarvis Knox Lambert Mercer Nolan Osborne Porter Reyes Sandoval Thorne Upton Vance Whitaker
Young""".split()
CITIES = """Lisbon Nairobi Toronto Osaka Lima Cairo Dublin Oslo Quito Prague Seoul Tunis Vienna Zagreb Athens Boston
Chennai Denver Edinburgh Frankfurt Geneva Havana Istanbul Jakarta Krakow London Madrid Naples Odessa Paris Riga Sydney
Tallinn Utrecht Valencia Warsaw Yokohama Zurich Ankara Berlin Cologne Dakar Florence Glasgow Hamburg Kyoto Lyon
Munich""".split()
ADJECTIVES = """amber bold calm dark early faint golden hollow icy jolly keen lunar misty narrow open pale quiet rusty
silent tall upper violet wild young ancient bright copper distant eager frozen gentle hidden iron jagged kind loud
marble noble oaken proud quick royal silver tidal urban velvet western yellow""".split()
NOUNS = """anchor bridge candle desert engine falcon garden harbor island jacket kettle lantern meadow needle orchard
pillow quarry river saddle temple umbrella valley window barrel castle dragon eagle forest glacier hammer iceberg
jungle kitchen ladder mirror nest ocean palace rabbit shadow tower violin whale basket carpet donkey elbow feather
guitar helmet insect jewel kingdom lemon magnet nickel onion pepper ribbon salmon tiger tunnel wagon walnut zebra
apple button camel dinner finger goose hotel island letter monkey number orange pencil rocket school ticket""".split()
DIGIT_ATTRIBUTES = """access code|secret number|magic number|locker number|PIN code|invoice number|serial number|room
code|account number|flight number|badge number|case number|password|lottery number|vault code|budget code""".replace(
    "\n", " "
).split("|")
WORD_ATTRIBUTES = """password|secret word|code word|nickname|favorite object|hidden treasure|lucky charm|emblem|mascot|
favorite gift|project name|key word|safe word|symbol|magic word|call sign""".replace("\n", "").split("|")
STATEMENTS = (
    "The {attribute} of {name} is {value}.",
    "The {attribute} for {name} is {value}.",
    "{name} has the {attribute} {value}.",
    "Remember that the {attribute} of {name} is {value}.",
    "It was written down that the {attribute} for {name} is {value}.",
)
QUESTIONS = (
    "What is the {attribute} of {name}?",
    "What is the {attribute} for {name}?",
    "Tell me the {attribute} of {name}.",
    "Which {attribute} does {name} have?",
)


@dataclass(frozen=True)
class Fact:
    """One invented fact, a question for it and the value that a right answer holds."""

    statement: str
    question: str
    answer: str
    value: str
    attribute: str
    name: str

    @property
    def kind(self) -> KeyKind:
        """What the fact's name is the name of."""
        return key_kind(self.name)


def pool(words: list[str], split: Split) -> list[str]:
    """The words of `split`: every fourth one is `test`."""
    return [word for index, word in enumerate(words) if (index % 4 == 3) == (split == "test")]


def make_name(rng: random.Random, split: Split) -> str:
    """A person, a city, or a code name of an adjective and a noun."""
    kind = rng.randrange(3)
    if kind == 0:
        return f"{rng.choice(pool(FIRST_NAMES, split))} {rng.choice(pool(LAST_NAMES, split))}"
    if kind == 1:
        return rng.choice(pool(CITIES, split))
    return f"the {rng.choice(pool(ADJECTIVES, split))} {rng.choice(pool(NOUNS, split))}"


def make_fact(rng: random.Random, split: Split, *, digits: bool) -> Fact:
    """A fact with a 4-digit value, or with a word as its value."""
    name = make_name(rng, split)
    attribute = rng.choice(DIGIT_ATTRIBUTES if digits else WORD_ATTRIBUTES)
    value = str(rng.randrange(1000, 10000)) if digits else rng.choice(pool(NOUNS, split))
    words = {"attribute": attribute, "name": name, "value": value}
    statement = rng.choice(STATEMENTS).format(**words)
    return Fact(
        statement=statement[0].upper() + statement[1:],
        question=rng.choice(QUESTIONS).format(**words),
        answer="The {attribute} of {name} is {value}.".format(**words),
        value=value,
        attribute=attribute,
        name=name,
    )


def make_facts(rng: random.Random, split: Split, count: int, *, digits: bool) -> list[Fact]:
    """`count` facts about different names with different values."""
    facts: list[Fact] = []
    while len(facts) < count:
        fact = make_fact(rng, split, digits=digits)
        if all(fact.name != other.name and fact.value != other.value for other in facts):
            facts.append(fact)
    return facts


def key_kind(name: str) -> KeyKind:
    """What a name of `make_name` names: code names have an article, persons two names, cities one."""
    if name.startswith("the "):
        return "code name"
    return "person" if " " in name else "city"


def make_fact_about(rng: random.Random, split: Split, kind: KeyKind, *, digits: bool) -> Fact:
    """A fact whose name is of one kind."""
    while True:
        fact = make_fact(rng, split, digits=digits)
        if fact.kind == kind:
            return fact
