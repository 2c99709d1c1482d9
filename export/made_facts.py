"""Made tasks on what is commonly known: kinds of things, countries, animals, jobs, forms of words, translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localhyper.export.made_family import Family, Task, Work, entry_of, first_of_entry, task
from localhyper.export.made_lexicon import (
    ADJECTIVES,
    CLASSES,
    COMPARATIVES,
    COUNTRIES,
    FACTS,
    KINDS,
    SUPERLATIVES,
    TRANSLATIONS,
)


def _sorted_into(groups: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Each thing with its group."""
    return [(thing, group) for group, things in groups.items() for thing in things]


def _either_kind(one: str, other: str) -> Task:
    return task(lambda item: item[1] if item[1] in (one, other) else None, a=one, b=other)


def _is_kind(kind: str, other: str, yes: str, no: str) -> Task:
    """Asks for one kind, of things of that kind and one other."""
    answers = {kind: yes, other: no}
    return task(lambda item: answers.get(item[1]), kind=kind, a=yes, b=no)


def _of_country(what: str) -> Work:
    return lambda country: COUNTRIES[country][what]


def _about_country(text: str) -> Work:
    return lambda country: text.format(country=country, **COUNTRIES[country])


def _into(language: str) -> Work:
    return lambda english: TRANSLATIONS[english][language]


def _from(language: str) -> Work:
    return lambda item: item[1] if item[2] == language else None


THING = first_of_entry("thing", "the name of a thing", _sorted_into(KINDS))
ANIMAL = first_of_entry("animal", "the name of an animal", _sorted_into(CLASSES))
COUNTRY = entry_of("country", "the name of a country", list(COUNTRIES))
ADJECTIVE = entry_of("adjective", "an adjective", ADJECTIVES)
ENGLISH = entry_of("english", "an English word", list(TRANSLATIONS))
FOREIGN = first_of_entry(
    "foreign",
    "a foreign word",
    [(word, english, language) for english, found in TRANSLATIONS.items() for language, word in found.items()],
)
LANGUAGES = ("French", "German", "Spanish", "Italian")

FAMILIES = [
    Family(
        "one_of_two",
        THING,
        [
            _either_kind("food", "tool"),
            _either_kind("animal", "plant"),
            _either_kind("animal", "vehicle"),
            _either_kind("vehicle", "instrument"),
            _either_kind("garment", "food"),
            _either_kind("furniture", "animal"),
            _either_kind("food", "plant"),
            _either_kind("tool", "garment"),
        ],
    ),
    Family("kind", THING, [task(lambda item: item[1], kinds=", ".join(KINDS))], wraps=4),
    Family(
        "is_kind",
        THING,
        [
            _is_kind("animal", "tool", "yes", "no"),
            _is_kind("food", "plant", "1", "0"),
            _is_kind("tool", "food", "true", "false"),
            _is_kind("vehicle", "instrument", "Y", "N"),
            _is_kind("garment", "furniture", "yes", "no"),
            _is_kind("plant", "animal", "right", "wrong"),
        ],
    ),
    Family("class", ANIMAL, [task(lambda item: item[1])], wraps=3),
    Family(
        "country",
        COUNTRY,
        [
            task(_of_country("capital"), what="capital"),
            task(_of_country("continent"), what="continent"),
            task(_of_country("language"), what="main language"),
            task(_of_country("currency"), what="currency"),
            task(_of_country("people"), what="adjective, as Italian for Italy"),
        ],
        wraps=5,
    ),
    Family(
        "country_frame",
        COUNTRY,
        [
            task(_about_country("The capital of {country} is {capital}."), form="The capital of France is Paris."),
            task(_about_country("{capital}, {country}"), form="Paris, France"),
            task(_about_country("{country} ({continent})"), form="France (Europe)"),
            task(_about_country("In {country} they speak {language}."), form="In France they speak French."),
            task(_about_country("{country} -> {capital}"), form="France -> Paris"),
        ],
    ),
    *(Family(name, entry_of(name, "a word", list(facts)), [task(facts.get)], wraps=3) for name, facts in FACTS.items()),
    Family(
        "comparison",
        ADJECTIVE,
        [
            task(COMPARATIVES.get, form="comparative", like="taller"),
            task(SUPERLATIVES.get, form="superlative", like="tallest"),
        ],
        wraps=3,
    ),
    Family("translate", ENGLISH, [task(_into(language), language=language) for language in LANGUAGES], wraps=4),
    Family("translate_back", FOREIGN, [task(_from(language), language=language) for language in LANGUAGES], wraps=2),
]
