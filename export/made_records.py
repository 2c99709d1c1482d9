"""Made tasks on texts with several facts in them: messages, records, receipts, timetables."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from localhyper.export.made_dates import clock
from localhyper.export.made_family import Family, Work, part, task, template, text_with_parts
from localhyper.export.made_lexicon import JOBS, KINDS, MONTHS, NAMES, SURNAMES, TOWNS, VOWELS

Item = dict[str, str]
THINGS = KINDS["tool"] + KINDS["furniture"] + KINDS["instrument"]
MESSAGES = (
    "{name} from {town} orders {number} pieces of the item {thing} for {date}. Mail: {email} {tag}",
    "{tag} On {date}, {name} asked for {number} x {thing}. Send to {town}, confirm at {email}.",
    "Write to {email}: {number} units ({thing}) leave {town} on {date}. Contact is {name}. {tag}",
    "Hello, here is {name}. I need {number} of your {thing} model in {town} by {date}. {email} {tag}",
)
TAGS = ("urgent", "order", "gift", "office", "sale", "new", "thanks")


def _draw_date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def _draw_message(rng: random.Random) -> Item:
    """A message that orders something."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    item = {
        "name": name,
        "town": rng.choice(TOWNS),
        "thing": thing,
        "number": str(rng.randint(31, 99)),
        "email": f"{name.lower()}{rng.choice(('', '7', '.smith', '_k'))}@{rng.choice(('mail.com', 'post.org'))}",
        "date": _draw_date(rng),
        "tag": f"#{rng.choice(TAGS)}",
    }
    return item | {"text": rng.choice(MESSAGES).format_map(item)}


def _draw_record(rng: random.Random) -> Item:
    """A person with name, age and so on, in any order."""
    item = {
        "name": rng.choice(NAMES),
        "surname": rng.choice(SURNAMES),
        "age": str(rng.randint(8, 85)),
        "town": rng.choice(TOWNS),
        "job": rng.choice(JOBS),
        "phone": f"555-{rng.randint(1000, 9999)}",
    }
    order = rng.sample(list(item), len(item))
    return item | {"text": "\n".join(f"{key}: {item[key]}" for key in order)}


def _draw_receipt(rng: random.Random) -> Item:
    """What was bought in a shop, no two things for the same price."""
    things = rng.sample(KINDS["food"] + KINDS["tool"], rng.randint(2, 4))
    cents = dict(zip(things, rng.sample(range(105, 1995, 5), len(things)), strict=True))
    shop = rng.choice(SURNAMES) + rng.choice((" Market", " & Sons", " Store"))
    date, total = _draw_date(rng), f"{sum(cents.values()) / 100:.2f}"
    lines = [f"{thing} {price / 100:.2f}" for thing, price in cents.items()]
    return {
        "total": total,
        "shop": shop,
        "date": date,
        "count": str(len(cents)),
        "most": max(things, key=cents.__getitem__),
        "least": min(things, key=cents.__getitem__),
        "text": "\n".join([shop, date, *lines, f"TOTAL {total}"]),
    }


def _draw_timetable(rng: random.Random) -> Item:
    """A few trains, by time of departure."""
    times = [clock(minutes, 24) for minutes in sorted(rng.sample(range(300, 1380, 5), rng.randint(2, 4)))]
    towns, platforms = rng.sample(TOWNS, len(times)), [str(rng.randint(1, 12)) for _ in times]
    trains = zip(times, towns, platforms, strict=True)
    return {
        "first": towns[0],
        "last": towns[-1],
        "first_time": times[0],
        "last_time": times[-1],
        "platform": platforms[0],
        "count": str(len(times)),
        "text": "\n".join(f"{time} {town} platform {platform}" for time, town, platform in trains),
    }


def _json_of(*keys: str) -> Callable[[Item], str]:
    return lambda item: json.dumps({key: item[key] for key in keys})


def _censored(name: str, mark: str) -> Work:
    return lambda item: item["text"].replace(item[name], mark)


def _job_sentence(item: Item) -> str:
    return f"{item['name']} is {'an' if item['job'][0] in VOWELS else 'a'} {item['job']}."


MESSAGE = text_with_parts("message", "a message", _draw_message)
RECORD = text_with_parts("record", "a record about a person", _draw_record)
RECEIPT = text_with_parts("receipt", "a receipt", _draw_receipt)
TIMETABLE = text_with_parts("timetable", "a timetable", _draw_timetable)

FAMILIES = [
    Family(
        "extract",
        MESSAGE,
        [
            task(part("name"), what="name of the person"),
            task(part("town"), what="town"),
            task(part("email"), what="e-mail address"),
            task(part("date"), what="date"),
            task(part("number"), what="number"),
            task(part("thing"), what="thing that is ordered"),
            task(part("tag"), what="hashtag"),
        ],
        wraps=6,
    ),
    Family(
        "extract_two",
        MESSAGE,
        [
            task(template("{name} ({town})"), form="Name (Town)", also=["name and town as Name (Town)"]),
            task(template("{name}, {number}"), form="Name, number", also=["name and number, parted by a comma"]),
            task(template("{town}: {date}"), form="Town: date", also=["town and date, with a colon between"]),
            task(template("{number} x {thing}"), form="number x thing", also=["amount and thing, like 3 x lamp"]),
            task(
                template("{name} <{email}>"),
                form="Name <e-mail>",
                also=["name and e-mail address as Name <e-mail>"],
            ),
            task(template("{date} - {town}"), form="date - town", also=["date and town with a dash between"]),
        ],
    ),
    Family(
        "message_json",
        MESSAGE,
        [
            task(_json_of("name"), keys="name"),
            task(_json_of("town", "date"), keys="town, date"),
            task(_json_of("name", "email"), keys="name, email"),
            task(_json_of("number", "thing"), keys="number, thing"),
            task(_json_of("name", "town"), keys="name, town"),
            task(_json_of("tag"), keys="tag"),
        ],
    ),
    Family(
        "censor",
        MESSAGE,
        [
            task(_censored("name", "***"), what="name of the person", mark="***"),
            task(_censored("email", "[hidden]"), what="e-mail address", mark="[hidden]"),
            task(_censored("town", "___"), what="town", mark="___"),
            task(_censored("date", "XX"), what="date", mark="XX"),
            task(_censored("number", "#"), what="number", mark="#"),
        ],
    ),
    Family(
        "subject_line",
        MESSAGE,
        [
            task(template("Order of {thing} from {town}"), form="Order of (thing) from (town)"),
            task(template("{name}: {number} {thing}"), form="(name): (number) (thing)"),
            task(template("Re: {thing}"), form="Re: (thing)"),
        ],
    ),
    Family(
        "field",
        RECORD,
        [task(part(name), field=name) for name in ("name", "age", "town", "job", "phone", "surname")],
        wraps=5,
    ),
    Family(
        "record_as",
        RECORD,
        [
            task(_json_of("name", "town"), form="JSON with the keys name and town"),
            task(template("{name},{surname},{age}"), form="CSV: name,surname,age"),
            task(template("{surname}, {name}"), form="Surname, Name"),
            task(template("{name} {surname} ({town})"), form="Name Surname (Town)"),
            task(_job_sentence, form="a sentence like Anna is a nurse."),
            task(template("{name} lives in {town}."), form="a sentence like Anna lives in Rome."),
            task(template('{{"age": {age}}}'), form="JSON with the key age as a number"),
            task(template("{name}: {phone}"), form="Name: phone"),
            task(template("{name} {surname[0]}."), form="Name S. with the surname's initial"),
        ],
    ),
    Family(
        "receipt",
        RECEIPT,
        [
            task(part("total"), what="total to pay"),
            task(part("shop"), what="name of the shop"),
            task(part("most"), what="most expensive item"),
            task(part("least"), what="cheapest item"),
            task(part("date"), what="date"),
            task(part("count"), what="number of different items"),
        ],
        wraps=4,
    ),
    Family(
        "timetable",
        TIMETABLE,
        [
            task(part("first"), what="destination of the first train"),
            task(part("last"), what="destination of the last train"),
            task(part("first_time"), what="departure time of the first train"),
            task(part("last_time"), what="departure time of the last train"),
            task(part("platform"), what="platform of the first train"),
            task(part("count"), what="number of trains"),
        ],
        wraps=4,
    ),
]
