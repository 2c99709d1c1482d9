"""Invented facts that share names and attributes: a whole grid of them, each with a value of its own."""

from __future__ import annotations

import random

from localhyper.evaluate.facts import NOUNS, pool
from localhyper.export.crossed_facts import make_crossed_facts

DRAWN = [make_crossed_facts(random.Random(seed), "train", 8) for seed in range(300)]


def test_every_name_has_every_attribute_with_a_value_of_its_own() -> None:
    for facts in DRAWN:
        names, attributes = {fact.name for fact in facts}, {fact.attribute for fact in facts}
        assert {(fact.name, fact.attribute) for fact in facts} == {(n, a) for n in names for a in attributes}
        assert 2 <= len(facts) == len(names) * len(attributes) == len({fact.value for fact in facts}) <= 8
    sizes = {(len({f.name for f in facts}), len({f.attribute for f in facts})) for facts in DRAWN}
    assert {(1, 3), (2, 2), (4, 2), (6, 1)} <= sizes


def test_statements_hold_their_facts_and_questions_do_not_give_them_away() -> None:
    for facts in DRAWN:
        for fact in facts:
            assert fact.value in fact.statement and fact.attribute in fact.statement
            assert fact.name.lower() in fact.statement.lower() and fact.name in fact.question
            assert fact.answer == f"The {fact.attribute} of {fact.name} is {fact.value}."
            assert fact.value not in fact.question.split()


def test_some_documents_have_one_line_a_name() -> None:
    records = [facts for facts in DRAWN if len({f.statement for f in facts}) < len(facts)]
    assert 0.2 < len(records) / len(DRAWN) < 0.5
    for facts in records:
        assert len({fact.statement for fact in facts}) == len({fact.name for fact in facts})


def test_the_same_seed_draws_the_same_and_splits_share_no_value() -> None:
    assert DRAWN[7] == make_crossed_facts(random.Random(7), "train", 8)
    for seed in range(40):
        for fact in make_crossed_facts(random.Random(seed), "test", 4):
            assert fact.value.isdigit() or fact.value in pool(NOUNS, "test")
            assert fact.value not in pool(NOUNS, "train")
