"""Made tasks on numbers and amounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from localhyper.export.made_family import Family, Source, Work, either, task

ROMAN = {
    "M": 1000,
    "CM": 900,
    "D": 500,
    "CD": 400,
    "C": 100,
    "XC": 90,
    "L": 50,
    "XL": 40,
    "X": 10,
    "IX": 9,
    "V": 5,
    "IV": 4,
    "I": 1,
}


def ordinal(number: int) -> str:
    """A number as 1st, 2nd, 3rd."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def roman(number: int) -> str:
    """A number in Roman numerals."""
    out = ""
    for sign, value in ROMAN.items():
        out += sign * (number // value)
        number %= value
    return out


def _as_text(work: Callable[[Any], object]) -> Work:
    return lambda item: str(work(item))


def _plus(more: int) -> Work:
    return lambda number: str(number + more)


def _minus(less: int) -> Work:
    return lambda number: str(number - less) if number > less else None


def _times(factor: int) -> Work:
    return lambda number: str(number * factor)


def _rounded_to(step: int) -> Work:
    """To the nearest multiple, halves up."""
    return lambda number: str((number + step // 2) // step * step)


def _numbers(change: Callable[[tuple[int, ...]], list[int] | tuple[int, ...]]) -> Work:
    return lambda numbers: [str(number) for number in change(numbers)]


def _euros(cents: int) -> str:
    return f"{cents // 100},{cents % 100:02} €"


PAIR = Source("pair", "two numbers", lambda rng: rng.sample(range(1, 1000), 2), lambda pair: f"{pair[0]} {pair[1]}")
NUMBER = Source("number", "a number", lambda rng: rng.choice((rng.randint(1, 100), rng.randint(1, 1000))))
SMALL = Source("small", "a number", lambda rng: rng.randint(1, 300))
NUMBERS = Source(
    "numbers",
    "a list of numbers",
    lambda rng: tuple(rng.sample(range(1, 200), rng.randint(3, 6))),
    lambda numbers: [str(number) for number in numbers],
    listed=True,
)
NUMERAL = Source("roman", "a Roman numeral", lambda rng: rng.randint(1, 300), roman)
SHARE = Source("share", "a decimal", lambda rng: rng.randint(1, 99), lambda percent: f"{percent / 100:.2f}")
CENTS = Source("cents", "a number of cents", lambda rng: rng.randint(101, 9999))
MINUTES = Source("minutes", "a number of minutes", lambda rng: rng.randint(61, 600))
PARITIES = [("even", "odd"), ("yes", "no"), ("E", "O"), ("0", "1"), ("round", "sharp")]

FAMILIES = [
    Family("of_two", PAIR, [task(_as_text(max), which="larger"), task(_as_text(min), which="smaller")], wraps=4),
    Family("parity", NUMBER, either(lambda number: number % 2 == 0, PARITIES)),
    Family("add_constant", NUMBER, [task(_plus(more), n=more) for more in (1, 2, 5, 10, 100)], wraps=2),
    Family("take_constant", NUMBER, [task(_minus(less), n=less) for less in (1, 2, 10)]),
    Family(
        "times",
        NUMBER,
        [
            task(_times(2), n=2, word="double"),
            task(_times(3), n=3, word="triple"),
            task(_times(10), n=10, word="tenfold"),
            task(_times(100), n=100, word="hundredfold"),
        ],
    ),
    Family("round_to", NUMBER, [task(_rounded_to(step), n=step) for step in (10, 100)]),
    Family(
        "sort_numbers",
        NUMBERS,
        [
            task(_numbers(sorted), order="ascending order", also=["from smallest to largest"]),
            task(
                _numbers(lambda numbers: sorted(numbers, reverse=True)),
                order="descending order",
                also=["from largest to smallest"],
            ),
            task(
                _numbers(lambda numbers: numbers[::-1]),
                order="reverse order of how they are given",
                also=["from the last to the first"],
            ),
        ],
    ),
    Family(
        "of_numbers",
        NUMBERS,
        [
            task(_as_text(max), which="largest number"),
            task(_as_text(min), which="smallest number"),
            task(_as_text(lambda numbers: numbers[0]), which="first number"),
            task(_as_text(lambda numbers: numbers[-1]), which="last number"),
            task(_as_text(len), which="amount of numbers"),
        ],
        wraps=3,
    ),
    Family("roman", SMALL, [task(roman)], wraps=1),
    Family("from_roman", NUMERAL, [task(str)]),
    Family("ordinal", SMALL, [task(ordinal)], wraps=1),
    Family(
        "percent",
        SHARE,
        [
            task("{}%".format, form="a percentage, like 25%"),
            task("{}/100".format, form="a fraction, like 25/100"),
        ],
    ),
    Family(
        "price",
        CENTS,
        [
            task(lambda cents: f"${cents / 100:.2f}", form="dollars, like $12.50"),
            task(_euros, form="euros, like 12,50 €"),
            task(lambda cents: f"£{cents / 100:.2f}", form="pounds, like £12.50"),
            task(
                lambda cents: f"{cents // 100} dollars and {cents % 100} cents",
                form="dollars and cents, like 12 dollars and 50 cents",
            ),
        ],
    ),
    Family(
        "hours",
        MINUTES,
        [
            task(lambda minutes: f"{minutes // 60} h {minutes % 60} min", form="hours and minutes, like 1 h 25 min"),
            task(lambda minutes: f"{minutes // 60}:{minutes % 60:02}", form="hours and minutes, like 1:25"),
            task(lambda minutes: str(minutes // 60), form="full hours only"),
        ],
    ),
]
