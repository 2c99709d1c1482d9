"""Made tasks on lists of words. Entries that come back as a list are parted as those of the input are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from localhyper.export.made_family import Family, Source, Work, of_length, task
from localhyper.export.made_lexicon import ADJECTIVES, KINDS, NAMES, NOUNS, TOWNS, VOWELS

Words = Sequence[str]


def _draw_words(rng: random.Random) -> tuple[str, ...]:
    pool = rng.choice([NOUNS] * 6 + list(KINDS.values()) + [NAMES, TOWNS, ADJECTIVES])
    return tuple(rng.sample(pool, rng.randint(4, 7)))


def _draw_doubles(rng: random.Random) -> tuple[str, ...]:
    """Words, one of which is there twice."""
    found = list(_draw_words(rng))
    found.insert(rng.randint(1, len(found)), found[0])
    start = rng.randrange(len(found))
    return tuple(found[start:] + found[:start])


def _draw_odd(rng: random.Random) -> tuple[list[str], str]:
    """Three things of a kind and one of another, and which that is."""
    many, one = rng.sample(list(KINDS), 2)
    odd = rng.choice(KINDS[one])
    return rng.sample([*rng.sample(KINDS[many], 3), odd], 4), odd


def _sorted_by(key: Callable[[str], str | int]) -> Work:
    return lambda words: sorted(words, key=key)


def _at(place: int) -> Work:
    return lambda words: words[place]


def _by_length(best: Callable[[Iterable[int]], int]) -> Work:
    return lambda words: of_length(words, best)


def _those(fits: Callable[[str], bool]) -> Work:
    return lambda words: [word for word in words if fits(word)]


def _ending_with(letter: str) -> Work:
    return _those(lambda word: word.endswith(letter))


def _containing(letter: str) -> Work:
    return _those(lambda word: letter in word.lower())


def _number_of(fits: Callable[[str], bool]) -> Work:
    return lambda words: str(sum(map(fits, words)))


def _each(change: Callable[[str], str]) -> Work:
    return lambda words: [change(word) for word in words]


def _without_repeats(words: Words) -> Words:
    return tuple(dict.fromkeys(words))


def _numbered(form: str, between: str = "\n") -> Work:
    """Numbers words in a form in which 1 stands for the number."""
    return lambda words: between.join(
        f"{form.replace('1', str(number))} {word}" for number, word in enumerate(words, 1)
    )


def _without_longest(words: Words) -> Words | None:
    longest = of_length(words, max)
    return [word for word in words if word != longest] if longest else None


def _with_word(new: str, place: int | None) -> Work:
    """Puts a word before a place, at the end for None."""

    def insert(words: Words) -> Words:
        changed = list(words)
        changed.insert(len(changed) if place is None else place, new)
        return changed

    return insert


def _bullets(mark: str) -> Work:
    return lambda words: "\n".join(f"{mark} {word}" for word in words)


def _enumeration(last: str) -> Work:
    return lambda words: f"{', '.join(words[:-1])} {last} {words[-1]}"


WORDS = Source("words", "a list of words", _draw_words, list, listed=True)
DOUBLES = Source("doubles", "a list of words", _draw_doubles, list, listed=True)
ODD = Source("odd", "a list of words", _draw_odd, lambda item: list(item[0]), listed=True)

FAMILIES = [
    Family(
        "sort_words",
        WORDS,
        [
            task(sorted, order="alphabetical order", also=["sort from A to Z", "Alphabetize"]),
            task(
                lambda words: sorted(words, reverse=True),
                order="reverse alphabetical order",
                also=["sort from Z to A"],
            ),
            task(_sorted_by(len), order="order of length, shortest first", also=["sort by length ascending"]),
            task(
                _sorted_by(lambda word: -len(word)),
                order="order of length, longest first",
                also=["sort by length descending"],
            ),
            task(_sorted_by(lambda word: word[::-1]), order="alphabetical order of their last letters"),
        ],
    ),
    Family("reverse_list", WORDS, [task(lambda words: words[::-1])]),
    Family(
        "swap_list",
        WORDS,
        [
            task(lambda words: [words[-1], *words[1:-1], words[0]], what="first and the last word"),
            task(lambda words: [words[1], words[0], *words[2:]], what="first two words"),
            task(lambda words: [*words[:-2], words[-1], words[-2]], what="last two words"),
        ],
    ),
    Family(
        "pick_place",
        WORDS,
        [
            task(_at(0), place="first"),
            task(_at(1), place="second"),
            task(_at(2), place="third"),
            task(_at(-1), place="last"),
            task(_at(-2), place="second to last"),
            task(_at(3), place="fourth"),
        ],
        wraps=4,
    ),
    Family(
        "pick_length",
        WORDS,
        [
            task(_by_length(max), best="longest", most="most"),
            task(_by_length(min), best="shortest", most="fewest"),
        ],
        wraps=4,
    ),
    Family("ending_with", WORDS, [task(_ending_with(letter), c=letter) for letter in "ertnl"]),
    Family("containing", WORDS, [task(_containing(letter), c=letter) for letter in "aoits"]),
    Family(
        "join_words",
        WORDS,
        [
            task("-".join, sep="dashes"),
            task("/".join, sep="slashes"),
            task("; ".join, sep="semicolons"),
            task(" + ".join, sep="plus signs"),
            task(" and ".join, sep="the word and"),
            task(" | ".join, sep="vertical bars"),
            task(" -> ".join, sep="arrows (->)"),
            task("_".join, sep="underscores"),
            task("\n".join, sep="line breaks, one word a line"),
        ],
        one_separator=False,
    ),
    Family("unique", DOUBLES, [task(_without_repeats)]),
    Family(
        "count_words",
        WORDS,
        [
            task(_number_of(bool), which="words"),
            task(_number_of(lambda word: "a" in word.lower()), which="words that contain the letter a"),
            task(_number_of(lambda word: len(word) > 5), which="words that have more than five letters"),
            task(_number_of(lambda word: word[-1] in VOWELS), which="words that end in a vowel"),
        ],
        wraps=2,
    ),
    Family(
        "number_words",
        WORDS,
        [
            task(_numbered("1."), form="1.", form_two="2."),
            task(_numbered("1)"), form="1)", form_two="2)"),
            task(_numbered("(1)"), form="(1)", form_two="(2)"),
            task(_numbered("#1", ", "), form="#1", form_two="#2"),
            task(_numbered("1:"), form="1:", form_two="2:"),
        ],
    ),
    Family(
        "drop_word",
        WORDS,
        [
            task(lambda words: words[1:], what="first word"),
            task(lambda words: words[:-1], what="last word"),
            task(lambda words: [words[0], *words[2:]], what="second word"),
            task(_without_longest, what="longest word"),
        ],
    ),
    Family(
        "insert_word",
        WORDS,
        [
            task(_with_word("end", None), w="end", where="at the end"),
            task(_with_word("banana", 0), w="banana", where="at the beginning"),
            task(_with_word("hello", 0), w="hello", where="at the beginning"),
            task(_with_word("and", -1), w="and", where="before the last word"),
            task(_with_word("stop", 1), w="stop", where="after the first word"),
            task(_with_word("blue", 2), w="blue", where="after the second word"),
        ],
    ),
    Family("bullets", WORDS, [task(_bullets(mark), mark=mark) for mark in "-*•+"]),
    Family(
        "each_word",
        WORDS,
        [
            task(_each(str.upper), what="capital letters"),
            task(_each(str.capitalize), what="title case (a capital first letter)"),
            task(_each(lambda word: word[::-1]), what="reverse (last letter first)"),
            task(_each('"{}"'.format), what="double quotes"),
            task(_each("({})".format), what="round brackets"),
        ],
    ),
    Family(
        "and_list",
        WORDS,
        [task(_enumeration(word), w=word) for word in ("and", "or")],
        wraps=1,
        one_separator=False,
    ),
    Family("odd_one", ODD, [task(lambda item: item[1])], wraps=3),
]
