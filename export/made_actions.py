"""Made tasks on sentences about who does what: tense, person, voice, questions."""

from __future__ import annotations

import random
from collections.abc import Callable

from localhyper.export.made_family import Family, Source, task
from localhyper.export.made_lexicon import NAMES, PLACES, VERBS

PEOPLE = [*NAMES, "The teacher", "My uncle", "The old man", "Our neighbour", "A child"]
# The parts are those of `draw_action`.
FORMS = {
    "past": "{who} {past} the {thing} {place}.",
    "present": "{who} {third} the {thing} {place}.",
    "future": "{who} will {base} the {thing} {place}.",
    "continuous": "{who} is {ing} the {thing} {place}.",
    "perfect": "{who} has {participle} the {thing} {place}.",
    "can": "{who} can {base} the {thing} {place}.",
    "passive": "The {thing} was {participle} by {inside} {place}.",
    "without place": "{who} {past} the {thing}.",
    "did": "Did {inside} {base} the {thing} {place}?",
    "who": "Who {past} the {thing} {place}?",
    "what": "What did {inside} {base} {place}?",
    "order": "{base} the {thing} {place}.",
    "please": "Could you please {base} the {thing} {place}?",
    "must": "You must {base} the {thing} {place}.",
    "to do": "- [ ] {base} the {thing} {place}",
    "let us": "Let's {base} the {thing} {place}.",
    "I": "I {past} the {thing} {place}.",
    "he": "He {past} the {thing} {place}.",
    "she": "She {past} the {thing} {place}.",
    "we": "We {past} the {thing} {place}.",
    "they": "They {past} the {thing} {place}.",
    "doer": "{who}",
    "verb": "{past}",
    "object": "{thing}",
    "circumstance": "{place}",
}


def draw_action(rng: random.Random) -> dict[str, str]:
    """Somebody (`who`, or `inside` a sentence) who does something to a `thing` at a `place`; forms of the verb."""
    base, verb = rng.choice(list(VERBS.items()))
    who, place, thing = rng.choice(PEOPLE), rng.choice(PLACES), rng.choice(verb["objects"])
    return {
        "who": who,
        "inside": who[0].lower() + who[1:] if " " in who else who,
        "thing": thing,
        "place": place,
        "base": base,
        "past": verb["past"],
        "participle": verb["participle"],
        "third": _third_person(base),
        "ing": verb["ing"],
    }


def _third_person(base: str) -> str:
    if base.endswith("ry"):
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("sh", "ch")) else "s")


def in_form(name: str) -> Callable[[dict[str, str]], str]:
    """Tells of what is done in one of the forms."""

    def tell(action: dict[str, str]) -> str:
        told = FORMS[name].format_map(action)
        return told[0].upper() + told[1:] if name == "order" else told

    return tell


PAST = Source("past", "a sentence", draw_action, in_form("past"))
PASSIVE = Source("passive", "a sentence", draw_action, in_form("passive"))
QUESTION = Source("question", "a question", draw_action, in_form("did"))
FIRST_PERSON = Source("first", "a sentence about me", draw_action, in_form("I"))
ORDER = Source("order", "a command", draw_action, in_form("order"))

FAMILIES = [
    Family(
        "from_past",
        PAST,
        [
            task(in_form("present"), how="in the present tense (she writes)"),
            task(in_form("future"), how="in the future with will"),
            task(in_form("continuous"), how="in the present continuous"),
            task(in_form("perfect"), how="in the present perfect (has written)"),
            task(in_form("can"), how="with can before the verb"),
            task(in_form("without place"), how="without the place or time at its end"),
        ],
    ),
    Family(
        "to_question",
        PAST,
        [
            task(in_form("did"), how="a question that begins with Did"),
            task(in_form("who"), how="a question that begins with Who"),
            task(in_form("what"), how="a question that begins with What"),
        ],
    ),
    Family("person", FIRST_PERSON, [task(in_form(person), how=person) for person in ("he", "she", "we", "they")]),
    Family(
        "order",
        ORDER,
        [
            task(in_form("please"), how="a polite question with Could you please"),
            task(in_form("must"), how="a sentence that begins with You must"),
            task(in_form("to do"), how="a to-do line that begins with - [ ]"),
            task(in_form("let us"), how="a suggestion with Let's"),
        ],
    ),
    Family("passive", PAST, [task(in_form("passive"))]),
    Family("active", PASSIVE, [task(in_form("past"))]),
    Family("to_statement", QUESTION, [task(in_form("past"))]),
    Family(
        "who_what",
        PAST,
        [
            task(in_form("doer"), what="who did it"),
            task(in_form("verb"), what="the verb"),
            task(in_form("object"), what="the thing that it was done to (without the)"),
            task(in_form("circumstance"), what="the place or time"),
        ],
    ),
]
