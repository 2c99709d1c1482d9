"""Made tasks on the words of a phrase or a sentence."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from localhyper.export.made_actions import draw_action, in_form
from localhyper.export.made_family import Answer, Family, Source, Work, of_length, task
from localhyper.export.made_lexicon import ADJECTIVES, NAMES, NOUNS, TOWNS


def _draw_phrase(rng: random.Random) -> str:
    return " ".join(rng.sample(NOUNS, rng.randint(2, 4)))


def _draw_sentence(rng: random.Random) -> str:
    adjective, noun, name = rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(NAMES)
    action = draw_action(rng)
    other, town = rng.choice(NOUNS), rng.choice(TOWNS)
    sentences = [in_form(form)(action) for form in ("past", "perfect", "future", "passive")]
    sentences += [
        f"The {noun} of {name} is {adjective} but the {other} is not.",
        f"{name} saw the {adjective} {noun} {action['place']}.",
        f"We all like the {adjective} {noun} in {town}.",
    ]
    return rng.choice(sentences)


def _draw_clauses(rng: random.Random) -> str:
    """A sentence of two clauses with a comma between."""
    told = in_form("past")
    first = told(draw_action(rng)).removesuffix(".")
    second = told(draw_action(rng) | {"who": rng.choice(("she", "he", "they"))})
    return f"{first}, {rng.choice(('but', 'and then', 'so', 'while'))} {second}"


def _joined(sign: str) -> Work:
    return lambda phrase: phrase.replace(" ", sign)


def _pascal_case(phrase: str) -> str:
    return phrase.title().replace(" ", "")


def _camel_case(phrase: str) -> str:
    return phrase[0] + _pascal_case(phrase)[1:]


def _initials(after: str) -> Work:
    return lambda phrase: "".join(word[0].upper() + after for word in phrase.split()).strip()


def _replace_the(new: str) -> Work:
    return lambda sentence: re.sub(r"\bthe\b", new, sentence) if " the " in sentence else None


def _bare(sentence: str) -> list[str]:
    """Words of a sentence without its marks."""
    return re.findall(r"[\w'@.#-]*\w", sentence)


def _word(pick: Callable[[list[str]], Answer]) -> Work:
    return lambda sentence: pick(_bare(sentence))


def _word_at(place: int) -> Work:
    return _word(lambda words: words[place])


def _ending_in(mark: str) -> Work:
    return lambda sentence: sentence[:-1] + mark


def _words_reversed(sentence: str) -> str:
    return " ".join(reversed(sentence[:-1].split()))


PHRASE = Source("phrase", "a short phrase", _draw_phrase)
SENTENCE = Source("sentence", "a sentence", _draw_sentence)
CLAUSES = Source("clauses", "a sentence with a comma", _draw_clauses)
OPENINGS = ("Note:", "TODO:", "Warning:", ">", "P.S.", "Breaking news:", "Dear diary,", "Fun fact:")

FAMILIES = [
    Family(
        "naming_style",
        PHRASE,
        [
            task(_joined("_"), style="snake_case"),
            task(_joined("-"), style="kebab-case"),
            task(_camel_case, style="camelCase"),
            task(_pascal_case, style="PascalCase"),
            task(lambda phrase: phrase.upper().replace(" ", "_"), style="SCREAMING_CASE"),
            task(_joined("."), style="dot.case"),
            task(str.title, style="Title Case"),
            task(lambda phrase: "#" + phrase.replace(" ", ""), style="a hashtag without spaces"),
        ],
    ),
    Family(
        "initials",
        PHRASE,
        [
            task(_initials(""), form="without dots"),
            task(_initials("."), form="with a dot after each letter"),
            task(_initials(" "), form="with spaces between the letters"),
        ],
    ),
    Family(
        "sentence_case",
        SENTENCE,
        [
            task(str.upper, case="capital letters"),
            task(str.lower, case="lower case"),
            task(str.title, case="title case, every word with a capital first letter"),
        ],
    ),
    Family(
        "replace_the", SENTENCE, [task(_replace_the(word), w=word) for word in ("this", "our", "some", "THE", "my")]
    ),
    Family(
        "sentence_word",
        SENTENCE,
        [
            task(_word_at(0), which="first"),
            task(_word_at(-1), which="last"),
            task(_word_at(2), which="third"),
            task(_word(lambda words: of_length(words, max)), which="longest"),
            task(_word_at(1), which="second"),
        ],
        wraps=4,
    ),
    Family("sentence_count", SENTENCE, [task(lambda sentence: str(len(_bare(sentence))))], wraps=3),
    Family(
        "end_mark",
        SENTENCE,
        [
            task(_ending_in("!"), mark="an exclamation mark"),
            task(_ending_in("?"), mark="a question mark"),
            task(_ending_in("..."), mark="three dots"),
            task(_ending_in(";"), mark="a semicolon"),
            task(_ending_in(" :-)"), mark="a smiley :-)"),
        ],
    ),
    Family("word_order", SENTENCE, [task(_words_reversed)]),
    Family("put_before", SENTENCE, [task(f"{opening} {{}}".format, t=opening) for opening in OPENINGS]),
    Family(
        "split_lines",
        CLAUSES,
        [
            task(lambda text: text.replace(", ", ",\n"), how="break it in two lines after the comma"),
            task(lambda text: text.split(", ")[0], how="keep only the part before the comma"),
            task(lambda text: text.split(", ")[1], how="keep only the part after the comma"),
            task(lambda text: text.replace(",", ";"), how="replace the comma by a semicolon"),
        ],
    ),
]
