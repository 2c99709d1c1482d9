"""Whether a question stands for itself, or needs what was said before it to be understood.

In research on questions in conversations, a follow-up is rewritten until it stands for itself (CANARD, Elgohary et al.
2019, D19-1605). Nothing is rewritten here: follow-ups are told apart by the English words that point back. What is not
understood, another language as a rule, counts as a follow-up: it is then read with the conversation, as ever.
"""

from __future__ import annotations

import re

FEWEST_WORDS = 4  # of fewer, as in "Since when exactly?", something is left out as a rule, unless they name something
MOST_SEARCHED = 5  # words in a search field
LONGEST = 1000  # characters; who writes more has said what it is about

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_SENTENCE_START = re.compile(r"(?:\A|[.!?:\n])\W*" + _WORD.pattern)


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


# What may stand before a question and says nothing: taken off, as often as it is there.
_LEAD = _any_of(
    r"\W*(?:ok|okay|hi|hello|hey|thanks|thank you|great|good|perfect|nice|please|well|right|yes|no|sorry|cool)\b\W*",
    r"\W*(?:(?:can|could|would|will) you|do you know|any idea|(?:please )?(?:tell|show|let) me(?: know)?)\b\W*",
    r"\W*i(?:'?d| would|'?m| am| want| need)?(?: like)?(?: to know| wonder| wondering)\b\W*",
)
# "How long does it take?", "Is it possible to …?": such an "it" stands for nothing.
_EMPTY_IT = _any_of(
    r"\bit (?:take|takes|took|cost|rain|snow|matter)\b",
    r"\bit (?:\w+ ){0,2}(?:possible|necessary|allowed|hard|difficult|easy|true|likely|safe|important|common|called)\b",
    r"\b(?:is|was|isn't|wasn't) it (?:\w+ )?(?:that|to)\b",
)
_WHAT_IS = _any_of(r"(?:what|who)(?: is| are| was| were|'s|s) \w{4,}\W*\Z")  # "What is sporulation?"
# "What is it about?", "Summarize this": of the document, whatever was said.
_OF_ALL = _any_of(
    r"\A(?:what(?:'s| is| does| are| did)|summari[sz]e|describe|outline|explain) (?:it|this)(?: all)?(?: \w+)?\W*\Z"
)
# Words and phrases that go on from what was said, or speak of the saying.
_GOES_ON = _any_of(
    r"\A(?:and|or|but|so|then|also|plus|because|not|now|same|what about|how about|how come|why not)\b",
    r"\b(?:again|instead|elaborate|continue|shorter|simpler)\b",
    r"\b(?:rephrase|reword|rewrite|shorten|simplify|translate)\b(?! (?:the|this) )",
    r"\b(?:more detail|in detail|in other words|go (?:on|deeper|back)|never mind)\b",
    r"\btoo (?:long|short|complicated|technical|vague)\b",
    r"\byour (?:answer|reply|response|summary|list|last|first|second|previous|own)\b",
    r"\b(?:you|i) (?:think|mean|meant|said|say|asked|forgot|gave|missed|told|wrote)\b",
    r"\bi (?:don't|didn't) (?:get|understand|follow)\b",
    r"\byou (?:sure|certain)\b|\b(?:sure|certain) are you\b",
    r"\A(?:leave|keep|cut|drop|put|longer)\b",
    r"\A(?:is|was|are|were) (?:that|this)\b",
    r"\b(?:what|who|where|when|how|anything|nothing|anyone) else\b",
    r"\bthe (?:former|latter|same|rest)\b",
    r"\bthe (?:others?|two)\W*\Z|\bthe other (?:two|three|four|five|six|\d+)\b",
    r"\b(?:first|second|third|last|next|previous|earlier|which|other|that|this|every|each) ones?\b|\bones\b",
    r"\b(?:so|then|next|afterwards|before that|though|exactly|longer)\W*\Z",
)
_OF_ANOTHER = _any_of(r"\A(?:(?:and |or |but )?(?:what|how) about|and|or|but)\b")  # "And of Berlin?"
_ASKS_ANEW = frozenset("how then what when where which who whom whose why".split())  # "And when?", "But why?"
# A question of English words has one of these.
_ENGLISH = frozenset(
    "a about an and are at by can did do does for from give had has have how in is list may must name of on or should "
    "summarize tell that the to was were what when where which who whom whose why will with".split()
)
_DETERMINERS = frozenset("a an any each every my our the".split())
_PRONOUNS = frozenset("he her hers herself him himself his it its itself she their theirs them themselves they".split())
_POSSESSIVES = frozenset("her his its their".split())
_BEFORE_PRONOUN = frozenset("about at behind by do for from in into of on than to under with without".split())
_BEFORE_THAT = frozenset(  # after a noun or another verb, "that" joins sentences
    "about after all and as at before besides by can could despite did do does during find for from given how if in is "
    "like mean of on put said say since than summarize through to under until was were what when where which who why "
    "will with would".split()
)
_AFTER_THIS = frozenset(  # "this lease" is the document as a rule, "this means" what was said
    "about and are at did do does for from had happen happened happens has in is mean means on or was".split()
)
_BESIDE_THERE = frozenset("any are aren be been is isn was wasn were weren".split())  # "Is there a lift?"


def stands_alone(question: str) -> bool:
    """Whether a question can be understood without the conversation before it."""
    if len(question) > LONGEST:
        return True
    text = _without_lead(question)
    said = _EMPTY_IT.sub(" ", text.lower())
    words = [word.partition("'")[0] for word in _WORD.findall(said)]  # "it's" is an "it"
    if _OF_ALL.match(said):
        return True
    if _GOES_ON.search(said):
        return False
    if not _ENGLISH.intersection(words):
        return _is_search(text, words)
    named = _names(text)
    if len(words) < FEWEST_WORDS and not (named or _DETERMINERS.intersection(words) or _WHAT_IS.match(said)):
        return False
    return not any(_points_back(words, place, named) for place in range(len(words)))


def asks_of_another(question: str) -> bool:
    """Whether a follow-up asks the same of another thing, which it says itself: "And of Berlin?"."""
    if stands_alone(question):
        return False
    said = _without_lead(question).lower()
    opening = _OF_ANOTHER.match(said)
    if opening is None:
        return False
    words = [word.partition("'")[0] for word in _WORD.findall(said[opening.end() :])]
    asked_anew = not words or _ASKS_ANEW.intersection(words)
    return not (asked_anew or any(_points_back(words, place, []) for place in range(len(words))))


def _without_lead(question: str) -> str:
    text = question.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    while lead := _LEAD.match(text):
        text = text[lead.end() :]
    return text


def _is_search(text: str, words: list[str]) -> bool:
    """Whether it looks like what people type into a search field, "notice period flat"."""
    return 1 < len(words) <= MOST_SEARCHED and not text[0].isupper() and "?" not in text


def _names(text: str) -> list[str]:
    """Words that begin with a capital letter in the middle of a sentence, or have a digit, in small letters."""
    starts = {match.end() for match in _SENTENCE_START.finditer(text)}
    named = [
        word[0]
        for word in _WORD.finditer(text)
        if any(letter.isdigit() for letter in word[0])
        or (word[0][0].isupper() and word.end() not in starts and word[0] != "I")
    ]
    return [name.lower().partition("'")[0] for name in named]


def _points_back(words: list[str], place: int, named: list[str]) -> bool:
    """Whether the word at this place stands for something that the question does not say itself."""
    word, earlier = words[place], words[:place]
    before, after = earlier[-1] if earlier else "", words[place + 1] if place + 1 < len(words) else ""
    if word in ("these", "those"):
        return after not in ("of", "that", "which", "who", "whose", "with")
    if word == "that":
        return before in _BEFORE_THAT or not before or not after
    if word == "this":
        return after in _AFTER_THIS or not after
    if word == "there":
        return not _BESIDE_THERE.intersection((before, after))
    if word not in _PRONOUNS or any(name in earlier for name in named):
        return False
    if not _DETERMINERS.intersection(earlier[:-1]):  # no noun before it that it could stand for
        return True
    is_owner = word in _POSSESSIVES and after  # "the girl on her way", but "the name of her brother"
    return before == "of" or (before in _BEFORE_PRONOUN and not is_owner)
