"""The words of `made_words.toml`. Knows nothing of tasks."""

from __future__ import annotations

from typing import Any

from localhyper.export.packaged import packaged_table

_TABLES = packaged_table("made_words.toml")

VOWELS = "aeiou"
NOUNS: list[str] = _TABLES["nouns"]
NAMES: list[str] = _TABLES["names"]
SURNAMES: list[str] = _TABLES["surnames"]
TOWNS: list[str] = _TABLES["towns"]
MONTHS: list[str] = _TABLES["months"]
DAYS: list[str] = _TABLES["days"]
PLACES: list[str] = _TABLES["places"]
COMPARATIVES: dict[str, str] = {word: forms[0] for word, forms in _TABLES["adjectives"].items()}
SUPERLATIVES: dict[str, str] = {word: forms[1] for word, forms in _TABLES["adjectives"].items()}
ADJECTIVES: list[str] = list(COMPARATIVES)
VERBS: dict[str, dict[str, Any]] = _TABLES["verbs"]  # base: past, participle, ing, objects
COUNTRIES: dict[str, dict[str, str]] = _TABLES["countries"]  # name: capital, continent, language, currency, people
KINDS: dict[str, list[str]] = _TABLES["kinds"]  # kind: things
CLASSES: dict[str, list[str]] = _TABLES["classes"]  # class: animals
FACTS: dict[str, dict[str, str]] = _TABLES["facts"]  # what is asked for: word: answer
JOBS: list[str] = list(FACTS["place"])
TRANSLATIONS: dict[str, dict[str, str]] = _TABLES["translations"]  # English word: language: word
REVIEWS: dict[str, Any] = _TABLES["reviews"]
