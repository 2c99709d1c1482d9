"""Forms of answers: what training, probes and benchmarks may see of each, and what they make of an answer."""

from __future__ import annotations

import json

import pytest

from localhyper.evaluate.facts import make_facts
from localhyper.export.answer_forms import AnswerForm, answer_forms, other_descriptions
from localhyper.export.texts import Pair
from tests.benchmarks.forms import has_form
from tests.benchmarks.together import TASK

FACT = Pair("What is the PIN code of Ada?", "The PIN code of Ada is Blue.", "Blue")
BY_NAME = {form.name: form for form in answer_forms()}


def test_names_and_descriptions_are_there_once() -> None:
    texts = [text for form in answer_forms() for text in (*form.descriptions, *form.unseen)] + [*other_descriptions()]
    assert len(BY_NAME) == len(answer_forms()) and len({text.casefold() for text in texts}) == len(texts)


def test_what_is_measured_is_never_trained_with() -> None:
    trained = {text.casefold() for form in answer_forms() for text in form.descriptions}
    trained |= {text.casefold() for text in other_descriptions()}
    assert TASK.casefold() not in trained
    for form in answer_forms():
        assert form.unseen and form.test != bool(form.descriptions), form.name


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("bare", "Blue"),
        ("sentence", "The PIN code of Ada is Blue."),
        ("capitals", "BLUE"),
        ("small letters", "blue"),
        ("json", '{"answer": "Blue"}'),
        ("tag", "<answer>Blue</answer>"),
        ("polite", "Certainly. The PIN code of Ada is Blue."),
        ("echo", "What is the PIN code of Ada? Blue"),
    ],
)
def test_an_answer_is_put_as_asked(name: str, answer: str) -> None:
    assert BY_NAME[name].put(FACT) == answer


def test_json_stays_json_whatever_the_value() -> None:
    for value in ('a "quoted" word', "back\\slash", "two\nlines", "{braces}", "Zürich"):
        assert json.loads(BY_NAME["json"].put(Pair("Q?", "A.", value))) == {"answer": value}


def test_a_short_answer_is_its_own_value_and_no_sentence() -> None:
    short = Pair("Who wrote it?", "Mary Shelley")
    assert BY_NAME["capitals"].put(short) == "MARY SHELLEY"
    assert not BY_NAME["sentence"].fits(short) and not BY_NAME["polite"].fits(short) and BY_NAME["bare"].fits(short)


@pytest.mark.parametrize("form", answer_forms(), ids=lambda form: form.name)
def test_a_reply_is_in_its_own_form_and_in_no_other_but_where_they_overlap(form: AnswerForm) -> None:
    reply = form.put(FACT)
    assert has_form(form, reply, FACT.question)
    others = {other.name for other in answer_forms() if has_form(other, reply, FACT.question)} - {form.name}
    words = len(reply.split())
    allowed = {"sentence"} if words >= 4 else {"bare", "capitals", "small letters"} if words == 1 else set()
    assert others <= allowed, (reply, others)


def test_invented_facts_come_with_their_value(rng_seed: int = 3) -> None:
    import random

    for fact in make_facts(random.Random(rng_seed), "train", 5, digits=False):
        assert (
            fact.value in fact.answer
            and BY_NAME["bare"].put(Pair(fact.question, fact.answer, fact.value)) == fact.value
        )
