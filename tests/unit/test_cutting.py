"""Which chunk of a context a question belongs to."""

from __future__ import annotations

from localhyper.export.cutting import place_pairs
from localhyper.export.texts import Pair


def test_a_question_belongs_to_the_chunk_that_alone_spells_its_answer() -> None:
    texts = ["Ines sold barrels in Aldea.", "Otto sold them in Corvo.", "Nobody sold any in Aldea."]
    pairs = [Pair("Who?", "Ines"), Pair("Where?", "Aldea"), Pair("Where, Otto?", "Corvo."), Pair("When?", "1907")]
    assert place_pairs(texts, pairs) == [[Pair("Who?", "Ines")], [Pair("Where, Otto?", "Corvo.")], []]
    assert place_pairs([], pairs) == []
