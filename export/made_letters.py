"""Made tasks that write a line to a person: greetings, closings, short notes."""

from __future__ import annotations

from localhyper.export.made_family import Family, entry_of, task
from localhyper.export.made_lexicon import NAMES, SURNAMES

FULL_NAMES = [f"{name} {surname}" for name in NAMES for surname in SURNAMES]
NAME = entry_of("name", "a name", NAMES + FULL_NAMES)

FAMILIES = [
    Family(
        "greeting",
        NAME,
        [
            task("Dear {},".format, what="a formal letter", form="Dear ...,"),
            task("Hi {}!".format, what="an e-mail to a friend", form="Hi ...!"),
            task("Happy birthday, {}!".format, what="a birthday card", form="Happy birthday, ...!"),
            task("Good night, {}".format, what="a good-night message", form="Good night, ..."),
            task("Welcome, {}!".format, what="a welcome sign", form="Welcome, ...!"),
        ],
    ),
    Family(
        "closing",
        NAME,
        [
            task("Yours sincerely,\n{}".format, what="a formal letter", form="Yours sincerely, ..."),
            task("See you soon,\n{}".format, what="a note to a friend", form="See you soon, ..."),
            task("Best regards,\n{}".format, what="an e-mail", form="Best regards, ..."),
            task("With love,\n{}".format, what="a love letter", form="With love, ..."),
        ],
    ),
    Family(
        "thanks",
        NAME,
        [
            task("Thank you, {}!".format, what="thank", form="Thank you, ...!"),
            task("{}, please come to my party.".format, what="invite", form="..., please come to my party."),
            task("Sorry, {}, it was my fault.".format, what="apologise to", form="Sorry, ..., it was my fault."),
            task("Well done, {}!".format, what="congratulate", form="Well done, ...!"),
            task("{}, don't forget the keys.".format, what="remind", form="..., don't forget the keys."),
        ],
    ),
]
