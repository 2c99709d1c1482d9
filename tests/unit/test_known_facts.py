"""Facts that the base model knows: what forms of answers are learnt on without a document."""

from __future__ import annotations

from localhyper.export.known_facts import known_facts


def test_every_fact_is_asked_once_and_its_sentence_says_the_value() -> None:
    facts = known_facts()
    assert len(facts) > 100
    assert len({pair.question for pair in facts}) == len(facts)
    for pair in facts:
        assert pair.value in pair.answer and pair.answer.endswith(".") and pair.answer[0].isupper()
        assert pair.question.endswith("?") and "{" not in pair.question + pair.answer
