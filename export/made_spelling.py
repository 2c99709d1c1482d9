"""Made tasks on the letters of a single word."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Container

from localhyper.export.made_family import Family, Source, Work, either, task
from localhyper.export.made_lexicon import ADJECTIVES, NOUNS, VOWELS


def _alternating(word: str) -> str:
    return "".join(letter.lower() if place % 2 else letter.upper() for place, letter in enumerate(word))


def _number_of(letters: Container[str]) -> Work:
    return lambda word: str(sum(letter in letters for letter in word))


def _vowels_to(new: str | Callable[[re.Match[str]], str]) -> Work:
    return lambda word: re.sub(f"[{VOWELS}]", new, word)


def _repeated(times: int, between: str) -> Work:
    return lambda word: between.join([word] * times)


WORD = Source("word", "a word", lambda rng: rng.choice(NOUNS + ADJECTIVES))
CONSONANTS = set(string.ascii_lowercase) - set(VOWELS)
BEGINNINGS = ("super", "mini", "my-")
ENDINGS = ("-like", "ville", "ish", "-free", "007")

FAMILIES = [
    Family(
        "word_case",
        WORD,
        [
            task(str.upper, case="upper case"),
            task(str.capitalize, case="capitalised form"),
            task(_alternating, case="alternating upper and lower case, starting with upper case"),
            task(lambda word: word[:-1] + word[-1].upper(), case="lower case but with a capital last letter"),
        ],
    ),
    Family(
        "count_letters",
        WORD,
        [
            task(_number_of(string.ascii_lowercase), which="letters"),
            task(_number_of(VOWELS), which="vowels"),
            task(_number_of(CONSONANTS), which="consonants"),
            task(_number_of("e"), which="times the letter e occurs"),
        ],
        wraps=4,
    ),
    Family(
        "vowels_to",
        WORD,
        [
            task(_vowels_to(""), way="left out"),
            task(_vowels_to("*"), way="replaced by a star (*)"),
            task(_vowels_to("-"), way="replaced by a dash (-)"),
            task(_vowels_to(lambda vowel: vowel[0].upper()), way="in capital letters"),
            task(_vowels_to(r"\g<0>\g<0>"), way="doubled"),
        ],
    ),
    Family(
        "repeat_word",
        WORD,
        [
            task(_repeated(2, " "), n=2, sep="a space"),
            task(_repeated(3, ", "), n=3, sep="a comma and a space"),
            task(_repeated(2, "-"), n=2, sep="a dash"),
            task(_repeated(4, " "), n=4, sep="a space"),
            task(_repeated(3, "! "), n=3, sep="an exclamation mark and a space"),
        ],
    ),
    Family("reverse_word", WORD, [task(lambda word: word[::-1])], wraps=3),
    Family(
        "affix_word",
        WORD,
        [
            *(task(f"{part}{{}}".format, part=part, where="in front of") for part in BEGINNINGS),
            *(task(f"{{}}{part}".format, part=part, where="at the end of") for part in ENDINGS),
        ],
    ),
    Family(
        "dress_word",
        WORD,
        [
            task('"{}"'.format, what="double quotes"),
            task("'{}'".format, what="single quotes"),
            task("({})".format, what="round brackets"),
            task("[{}]".format, what="square brackets"),
            task("{{{}}}".format, what="curly braces"),
            task("**{}**".format, what="two stars on each side (Markdown bold)"),
            task("<b>{}</b>".format, what="an HTML b tag"),
            task("<i>{}</i>".format, what="an HTML i tag"),
            task("`{}`".format, what="backticks"),
            task("<{}>".format, what="angle brackets"),
            task("_{}_".format, what="underscores"),
        ],
    ),
    Family(
        "long_word",
        WORD,
        either(lambda word: len(word) > 5, [("long", "short"), ("yes", "no"), ("L", "S"), ("big", "small")]),
    ),
]
