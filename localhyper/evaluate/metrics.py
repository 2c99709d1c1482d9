"""Scores of one answer: SQuAD v1.1's exact match and F1, ROUGE-L, and whether a reply has an answer or a value in it.

Knows texts only: no model, no data file.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
_WORD = re.compile(r"\w+")
_ROUGE_WORD = re.compile(r"[a-z0-9]+")


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces (SQuAD v1.1)."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(reply: str, answer: str) -> float:
    """1.0 if both normalise to the same text, else 0.0."""
    return float(normalize_answer(reply) == normalize_answer(answer))


def same_text(reply: str, answer: str) -> float:
    """1.0 if both are the same text but for case, ASCII punctuation and white space, else 0.0.

    Exact match as Super-Natural-Instructions has it (Wang et al. 2022): articles count, because `A` may be an answer.
    Texts of punctuation alone are compared as they are.
    """
    got, wanted = (_plain_words(text) or text.split() for text in (reply, answer))
    return float(got == wanted)


def _plain_words(text: str) -> list[str]:
    """Words in lower case, without ASCII punctuation."""
    return "".join(character for character in text.lower() if character not in _PUNCTUATION).split()


def f1(reply: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of the normalised texts, 0 to 1; repeated words count."""
    got, wanted = normalize_answer(reply).split(), normalize_answer(answer).split()
    common = sum((Counter(got) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(got), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def contains(reply: str, answer: str) -> float:
    """1.0 if the words of the answer stand in the reply one after the other, both normalised, else 0.0.

    What exact match leaves of a right answer in a sentence; a long reply has more chances.
    """
    return float(_stands_in(normalize_answer(answer).split(), normalize_answer(reply).split()))


def rouge_l(reply: str, answer: str) -> float:
    """ROUGE-L (Lin 2004): harmonic mean of precision and recall of the longest common subsequence of words, 0 to 1.

    The same figure as `rougeL` of the package `rouge-score` without stemming, whose words are runs of ASCII letters and
    digits in lower case. That package is not used: it needs the whole of NLTK, downloader included.
    """
    got, wanted = _ROUGE_WORD.findall(reply.lower()), _ROUGE_WORD.findall(answer.lower())
    common = _common_subsequence(got, wanted)
    return 2 * common / (len(got) + len(wanted)) if common else 0.0


def _common_subsequence(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence; memory for one row of the table."""
    row = [0] * (len(two) + 1)
    for word in one:
        before = 0  # the table's entry above and to the left
        for place, other in enumerate(two, 1):
            above = row[place]
            row[place] = before + 1 if word == other else max(above, row[place - 1])
            before = above
    return row[-1]


def best(score: Callable[[str, str], float], reply: str, answers: Sequence[str]) -> float:
    """The highest score of `reply` over all accepted answers."""
    return max(score(reply, answer) for answer in answers)


def holds_value(reply: str, value: str) -> bool:
    """Whether the words of `value` stand in `reply` one after the other, as whole words and in any case.

    `1234` is in `It is 1234.`, but not in `12345` or `1,234`.
    """
    return _stands_in(_WORD.findall(value.lower()), _WORD.findall(reply.lower()))


def _stands_in(wanted: Sequence[str], words: Sequence[str]) -> bool:
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[start : start + len(wanted)] == wanted for start in starts)
