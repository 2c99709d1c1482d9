"""What a text says of something, in its own words: a question names a topic, a sentence of the text answers.

Short answers are what reading sets teach. Who asks what a document says about something wants more than three words,
and what an adapter can say at length without making it up is what it has read. Topics are names, and what stands
between an article or the like and the end of its phrase, if one sentence of the passage alone has it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from localhyper.evaluate.facts import FIRST_NAMES, pool
from localhyper.export.cloze import NAME
from localhyper.export.packaged import packaged_table
from localhyper.export.texts import Pair

FEWEST, MOST = 5, 40  # words of a sentence that is quoted
BARE = 0.3  # share of questions about a thing without its article
TYPED = 0.15  # share of questions in small letters without their stop, as people type them
_TABLE = packaged_table("quotes.toml")
_BEFORE = "the|a|an|this|that|these|those|his|her|its|their|our|my|your|some|many|several|all|no|of|for|with|about"
_AFTER = (
    "of|in|on|at|and|or|but|was|were|is|are|be|been|had|has|have|do|does|did|not|to|for|with|that|which|who|when|where|while|by"
    "|from|as|can|could|will|would|may|must|into|than|then|between|over|under|after|before|through|during|against|without"
    "|within|among|because|if|they|them|he|him|she|it|we|you|near|also|only|such|very|more|most|other|same|first|one|two"
)
_THING = re.compile(rf"(?i:\b(?:{_BEFORE})) ((?:[a-z][a-z-]+ ){{0,2}}?[a-z][a-z-]{{3,}})(?=[,.;:?!]| (?:{_AFTER})\b)")
_SMALL = re.compile(rf"\b(?:{_BEFORE}|{_AFTER})\b", re.IGNORECASE)


def topics(sentence: str) -> list[str]:
    """What a sentence speaks of: names inside it, and things with their articles left out."""
    things = [thing for thing in _THING.findall(sentence) if not _SMALL.search(thing)]
    return list(dict.fromkeys([*NAME.findall(sentence), *things]))


def own_topics(sentences: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Sentences that may be quoted, each with the topics that no other one has."""
    small = [sentence.lower() for sentence in sentences]
    found = []
    for place, sentence in enumerate(sentences):
        others = small[:place] + small[place + 1 :]
        own = [topic for topic in topics(sentence) if not any(topic.lower() in other for other in others)]
        if own and FEWEST <= len(sentence.split()) <= MOST:
            found.append((sentence, own))
    return found


def make_quotes(rng: random.Random, sentences: Sequence[str], *, spoken: bool) -> tuple[str, tuple[Pair, ...]]:
    """A passage of these sentences, or a conversation of them, and a question for each that has a topic of its own."""
    speakers = _speakers(rng) if spoken else [""]
    said_by = {sentence: rng.choice(speakers) for sentence in sentences}
    lines = {sentence: f"{who}: {sentence}" if who else sentence for sentence, who in said_by.items()}
    pairs = [
        Pair(_question(rng, rng.choice(own), said_by[sentence]), lines[sentence])
        for sentence, own in own_topics(list(lines))
    ]
    return ("\n" if spoken else " ").join(lines.values()), tuple(pairs)


def named(topic: str) -> str:
    """A name as it is, a thing with its article."""
    return topic if topic[0].isupper() else f"the {topic}"


def _question(rng: random.Random, topic: str, speaker: str) -> str:
    """A question about a topic, or about what a speaker says of it."""
    thing = named(topic)
    if thing != topic and rng.random() < BARE:
        thing = topic
    forms = _TABLE["speaker"] if speaker and rng.random() < 0.5 else _TABLE["topic"]
    question: str = rng.choice(forms).format(topic=thing, speaker=speaker)
    return question.lower().rstrip(".?") if rng.random() < TYPED else question


def _speakers(rng: random.Random) -> list[str]:
    """Two to four who speak: names, roles with a letter, or titles."""
    kinds = (
        pool(FIRST_NAMES, "train"),
        [f"{role} {letter}" for role in _TABLE["roles"] for letter in "ABCDEFGH"],
        _TABLE["titles"],
    )
    return rng.sample(rng.choice(kinds), rng.randint(2, 4))
