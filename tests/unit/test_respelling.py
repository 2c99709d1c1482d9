"""Respeller: which word is said in place of a token that begins one without a space."""

from __future__ import annotations

import numpy as np
import pytest

from localhyper.engine import FloatArray
from localhyper.respelling import MARGIN, Respeller

PIECES = [
    b"wal",
    b"nut",
    b" walnut",
    b" walrus",
    b" wal",
    b" Paris",
    b"Paris",
    b" 7",
    b"\xc3",
    b" \xc3",
    b" it's",
    b" the",
]
SPELT = {"walnut": [0, 1], "walrus": [0, 20], "wal": [0], "Paris": [6], "the": [21]}


WORDS = Respeller(PIECES, SPELT.__getitem__)


def logits_of(**logits: float) -> FloatArray:
    row = np.zeros(len(PIECES), np.float32)
    for word, value in logits.items():
        row[PIECES.index(f" {word}".encode())] = value
    return row


def respelt(begun: str, **logits: float) -> list[int]:
    return WORDS.respelt(logits_of(**logits), begun)


def test_words_are_the_tokens_of_letters_after_a_space() -> None:
    assert sorted(PIECES[token] for token in WORDS.ids) == sorted(f" {word}".encode() for word in SPELT)


def test_the_likeliest_word_with_this_beginning_is_named_with_its_space() -> None:
    assert WORDS.likeliest(logits_of(walnut=9.0), "w") == PIECES.index(b" walnut")
    assert WORDS.likeliest(logits_of(wal=9.0), "wal") == PIECES.index(b" wal")
    assert WORDS.likeliest(logits_of(walnut=9.0, Paris=9.0 + MARGIN + 0.1), "wal") is None
    assert WORDS.likeliest(logits_of(walnut=9.0), "zebra") is None


def test_the_likeliest_word_with_this_beginning_is_said_to_its_end() -> None:
    assert respelt("wal", walnut=9.0, walrus=2.0) == SPELT["walnut"]
    assert respelt("wal", walnut=2.0, walrus=9.0) == SPELT["walrus"]
    assert respelt("w", walnut=9.0) == SPELT["walnut"]


def test_it_may_be_a_little_behind_a_word_with_another_beginning() -> None:
    assert respelt("wal", walnut=9.0, Paris=9.0 + MARGIN - 0.1) == SPELT["walnut"]
    assert respelt("wal", walnut=9.0, Paris=9.0 + MARGIN + 0.1) == []


def test_what_is_the_word_already_stays() -> None:
    assert respelt("Paris", Paris=9.0, walnut=5.0) == []
    assert respelt("wal", wal=9.0, walnut=8.0) == []


@pytest.mark.parametrize("before", ["", '"', "(", "*", ">", "\n"])
def test_a_word_begins_at_the_start_and_after_what_opens(before: str) -> None:
    assert Respeller.may_begin(before)


@pytest.mark.parametrize("before", [" ", "a", "7", "-", ".", "'"])
def test_nothing_else_is_the_start_of_a_word(before: str) -> None:
    assert not Respeller.may_begin(before)


@pytest.mark.parametrize(
    "said", ['"', '{"answer": "', "**", "It is **", "(", "<answer>", "He said “", "- [", '"a" and "']
)
def test_what_has_just_been_opened_is_followed_by_no_space(said: str) -> None:
    assert WORDS.without_space(said, " walnut") == SPELT["walnut"]
    assert WORDS.without_space(said, "walnut") == WORDS.without_space(said, " 7") == []


@pytest.mark.parametrize("said", ["", "It is", '"so"', '{"answer"', "**so**", "a > b >", "</answer>", "1 *", "\n"])
def test_elsewhere_a_space_stays(said: str) -> None:
    assert WORDS.without_space(said, " walnut") == []


@pytest.mark.parametrize("begun", ["", " wal", "wal-", "7", '"', "zebra", "\ufffd"])
def test_what_begins_no_known_word_stays(begun: str) -> None:
    assert respelt(begun, walnut=9.0) == []
