"""Questions about what a text says of something: their topics are one sentence's alone, their answers that sentence."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from localhyper.evaluate.reading_set import Passage
from localhyper.export.packaged import packaged_table
from localhyper.export.quotes import make_quotes, own_topics, topics
from tests.benchmarks.quotes import FORMS, rows

HARBOUR = [
    "The harbour silted up in the fourth century, and ships then lay at Portus.",
    "Long moles were built by order of Claudius, with a lighthouse between them.",
    "Grain for a million people came through the harbour.",
    "It rained.",
]


def test_topics_are_names_and_things() -> None:
    assert topics(HARBOUR[0]) == ["Portus", "fourth century"]
    assert topics(HARBOUR[1]) == ["Claudius", "lighthouse"]
    assert topics("It rained.") == []


def test_a_topic_that_sentences_share_is_nobodys() -> None:
    own = dict(own_topics(HARBOUR))
    assert own[HARBOUR[0]] == ["Portus", "fourth century"] and own[HARBOUR[1]] == ["Claudius", "lighthouse"]
    assert HARBOUR[3] not in own and "harbour" not in own.get(HARBOUR[2], [])


@pytest.mark.parametrize("spoken", [False, True])
def test_answers_stand_in_the_passage_and_speak_of_what_is_asked(spoken: bool) -> None:
    for seed in range(40):
        text, pairs = make_quotes(random.Random(seed), HARBOUR, spoken=spoken)
        assert 2 <= len(pairs) <= 3 and all(pair.answer in text for pair in pairs)
        for pair in pairs:
            asked = [topic for topic in topics(pair.answer) if topic.lower() in pair.question.lower()]
            assert asked, pair
        if spoken:
            assert text.count("\n") == 3 and all(": " in line for line in text.split("\n"))


def test_an_empty_passage_has_no_questions() -> None:
    assert make_quotes(random.Random(0), [], spoken=True) == ("", ())


def test_tested_forms_are_not_trained_on() -> None:
    table = packaged_table("quotes.toml")
    assert not {form.lower() for form in FORMS} & {form.lower() for form in (*table["topic"], *table["speaker"])}


def test_the_benchmark_asks_two_questions_a_passage() -> None:
    passage = Passage("1", "Ostia", " ".join(HARBOUR), ())
    (row,) = rows([passage, replace(passage, text="It rained.")], 5)
    qas = row["qas"]
    assert isinstance(qas, list) and len(qas) == 2
    assert all(qa["answers"][0] in HARBOUR for qa in qas)
    assert list(rows([passage], 0)) == []
