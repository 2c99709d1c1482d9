"""Made tasks on dates, weekdays, months and times of day."""

from __future__ import annotations

import calendar
import random
from collections.abc import Callable, Sequence

from localhyper.export.made_family import Family, Source, Work, task
from localhyper.export.made_lexicon import DAYS, MONTHS

Date = tuple[int, int, int]  # day, month, year
SEASONS = ["winter", "winter", *["spring"] * 3, *["summer"] * 3, *["autumn"] * 3, "winter"]
ABOUT_A_DAY = (
    "{}",
    "We meet on {}.",
    "The shop opens {} at nine.",
    "Her birthday falls on a {}.",
    "See you {}!",
    "{} is market day.",
    "on {}",
)
ABOUT_A_MONTH = (
    "{}",
    "We marry in {}.",
    "in {}",
    "The {} issue is out.",
    "It was a cold {}.",
    "School starts in {}.",
    "{} has come.",
)


def clock(minutes: int, hours: int) -> str:
    """A time of day on the clock of 24 or 12 hours."""
    hour, minute = divmod(minutes % 1440, 60)
    if hours == 24:
        return f"{hour:02}:{minute:02}"
    return f"{(hour - 1) % 12 + 1}:{minute:02} {'am' if hour < 12 else 'pm'}"


def _draw_date(rng: random.Random) -> Date:
    return rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2030)


def _written(date: Date) -> str:
    day, month, year = date
    return f"{day} {MONTHS[month - 1]} {year}"


def _draw_time(rng: random.Random) -> int:
    return rng.randrange(0, 1440, 5)


def _mention(source: str, names: Sequence[str], texts: Sequence[str]) -> Source:
    """Sentences about a day or a month; the item is its place among the names and the sentence."""

    def draw(rng: random.Random) -> tuple[int, str]:
        place = rng.randrange(len(names))
        return place, rng.choice(texts).format(names[place])

    return Source(source, "a sentence", draw, lambda item: str(item[1]))


def _date(form: str) -> Callable[[Date], str]:
    """Writes a date in a form of `day`, `month`, `year` and the month's `name`."""

    def write(date: Date) -> str:
        day, month, year = date
        return form.format(day=day, month=month, year=year, name=MONTHS[month - 1])

    return write


def _after(names: Sequence[str], steps: int) -> Work:
    """The day or month that comes a number of steps after the one that is mentioned."""
    return lambda item: names[(item[0] + steps) % len(names)]


DATE = Source("date", "a date", _draw_date, _written)
WEEKDAY = _mention("weekday", DAYS, ABOUT_A_DAY)
MONTH = _mention("month", MONTHS, ABOUT_A_MONTH)
TIME_12 = Source("time12", "a time", _draw_time, lambda minutes: clock(minutes, 12))
TIME_24 = Source("time24", "a time", _draw_time, lambda minutes: clock(minutes, 24))

FAMILIES = [
    Family(
        "date_form",
        DATE,
        [
            task(_date("{year}-{month:02}-{day:02}"), form="YYYY-MM-DD"),
            task(_date("{day:02}/{month:02}/{year}"), form="DD/MM/YYYY"),
            task(_date("{month:02}/{day:02}/{year}"), form="MM/DD/YYYY"),
            task(_date("{day:02}.{month:02}.{year}"), form="DD.MM.YYYY"),
            task(_date("{name} {day}, {year}"), form="3 May 2021 becoming May 3, 2021"),
            task(_date("{name} {year}"), form="month and year only, like May 2021"),
        ],
    ),
    Family(
        "date_part",
        DATE,
        [
            task(_date("{year}"), what="year"),
            task(_date("{name}"), what="month"),
            task(_date("{day}"), what="day of the month"),
            task(_date("{month}"), what="number of the month (1 to 12)"),
            task(lambda date: SEASONS[date[1] - 1], what="season on the northern half of the globe"),
            task(lambda date: MONTHS[date[1] % 12], what="month after it"),
        ],
        wraps=3,
    ),
    Family(
        "weekday",
        WEEKDAY,
        [
            task(_after(DAYS, 1), what="day after the one that is named"),
            task(_after(DAYS, -1), what="day before the one that is named"),
            task(lambda item: DAYS[item[0]][:3], what="day that is named, in three letters"),
            task(lambda item: DAYS[item[0]].upper(), what="weekday, in capital letters"),
        ],
        wraps=2,
    ),
    Family(
        "month",
        MONTH,
        [
            task(lambda item: str(item[0] + 1), what="number of the month (1 to 12)"),
            task(_after(MONTHS, 1), what="month after the one that is named"),
            task(_after(MONTHS, -1), what="month before the one that is named"),
            task(lambda item: SEASONS[item[0]], what="season on the northern half of the globe"),
            task(
                lambda item: str(calendar.monthrange(2023, item[0] + 1)[1]),
                what="number of days in that month (not a leap year)",
            ),
            task(lambda item: MONTHS[item[0]][:3], what="month in three letters"),
        ],
        wraps=2,
    ),
    Family("to_24", TIME_12, [task(lambda minutes: clock(minutes, 24))], wraps=1),
    Family("to_12", TIME_24, [task(lambda minutes: clock(minutes, 12))], wraps=1),
]
