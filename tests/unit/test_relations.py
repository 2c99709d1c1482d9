"""The kinds of invented facts: their forms fit together, and what is made of them says what it is asked for."""

from __future__ import annotations

import random

import pytest

from localhyper.export.relations import KINDS, Relation, make_relations, places, relations

TRAIN, TEST = relations("train"), relations("test")
EVERY = [*TRAIN, *TEST]
NAMED = [pytest.param(relation, id=relation.answer) for relation in EVERY]


def test_there_are_many_kinds_and_the_held_out_ones_are_not_among_them() -> None:
    assert len(TRAIN) >= 150 and len(TEST) == 8
    assert not {relation.answer for relation in TRAIN} & {relation.answer for relation in TEST}


@pytest.mark.parametrize("relation", NAMED)
def test_the_forms_of_a_kind_fit_together(relation: Relation) -> None:
    names = set(places(relation.answer))
    assert relation.value in KINDS and names - {"value"} <= set(KINDS)
    assert places(relation.answer).count("value") == 1
    for statement in relation.statements:
        assert set(places(statement)) == names, statement
        assert places(statement).count("value") == 1, statement
    for question in relation.questions:
        assert set(places(question)) <= names - {"value"}, question
    assert len(relation.statements) >= 2 and len(relation.questions) >= 2


def test_no_form_stands_twice() -> None:
    for forms in (
        [form for relation in EVERY for form in relation.statements],
        [form for relation in EVERY for form in relation.questions],
        [relation.answer for relation in EVERY],
    ):
        assert sorted(set(forms)) == sorted(forms)


@pytest.mark.parametrize("relation", NAMED)
def test_a_statement_is_short(relation: Relation) -> None:
    rng = random.Random(3)
    for statement in relation.statements:
        for _ in range(5):
            kinds = {name: relation.value if name == "value" else name for name in places(statement)}
            filled = statement.format(**{name: KINDS[kind](rng, "train") for name, kind in kinds.items()})
            assert 0 < len(filled.split()) <= 60 and "{" not in filled


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_draws_clean_words(kind: str) -> None:
    rng = random.Random(5)
    for split in ("train", "test"):
        drawn = [KINDS[kind](rng, split) for _ in range(60)]
        assert all(word == " ".join(word.split()) and word and "|" not in word for word in drawn)
        assert len(set(drawn)) > 5


def test_facts_answer_with_what_they_state() -> None:
    rng = random.Random(7)
    for _ in range(200):
        facts = make_relations(rng, "train", 3)
        assert len(facts) == 3 and len({fact.value for fact in facts}) == 3
        for fact in facts:
            assert fact.value.lower() in fact.statement.lower() and fact.value in fact.answer
