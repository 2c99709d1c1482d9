"""The needle suite on a scripted engine, and the documents it is made of."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.engine import TokenArray
from localhyper.errors import ConfigError
from localhyper.evaluate import needle
from localhyper.evaluate.columns import USUAL_COLUMNS
from localhyper.evaluate.facts import FIRST_NAMES, KEY_KINDS, key_kind, make_fact, make_fact_about, pool
from localhyper.evaluate.frame import Lazy
from localhyper.evaluate.haystack import DEPTHS, HaystackMaker, depth_of, fifth_of
from localhyper.evaluate.metrics import holds_value
from tests.evaluation import NeedleReader, hypernetwork, write_text
from tests.fakes import FakeEngine


def run_needle(**changes: object) -> needle.NeedleResult:
    options = replace(needle.NeedleOptions(tokens=600, cases=12), **changes)  # type: ignore[arg-type]
    return needle.run(options, NeedleReader(), hypernetwork(), make_adapter=write_text)


@pytest.mark.parametrize("values", ["digits", "words"])
def test_needle_finds_the_value_where_it_is_and_only_there(values: str) -> None:
    result = run_needle(values=values, max_tokens=2000)
    found = {scores.name: scores.exact.value for scores in result.columns}
    assert (found["none"], found["context"], found["adapter"]) == (0.0, 1.0, 1.0)
    assert found["shuffled"] < 0.3  # a word may stand in another document too
    assert 500 < result.mean_tokens <= 600
    for scores in result.columns:
        assert sum(scores.by_depth_cases) == 12
        assert all(
            (part is None) == (cases == 0) for part, cases in zip(scores.by_depth, scores.by_depth_cases, strict=True)
        )


def test_a_case_depends_on_the_seed_and_its_number_only() -> None:
    few, many = run_needle(cases=4).cases, run_needle(cases=8).cases
    assert few[:12] == many[:12]
    assert run_needle(seed=1).cases[:4] != few[:4]


def test_haystacks_hold_their_fact_at_its_depth_and_keep_their_length() -> None:
    sentences = [f"This is filler sentence number {number} of many." for number in range(50)]
    engine = FakeEngine()
    maker = HaystackMaker(sentences, engine.tokenize, 800)
    for index in range(40):
        haystack = maker.make(index)
        assert 800 - 60 < haystack.tokens == len(haystack.text.encode()) <= 800
        before, found, after = haystack.text.partition(haystack.fact.statement)
        assert found and haystack.fact.value in found
        assert abs(len(before) / len(before + after) - haystack.depth) < 0.1


def test_long_documents_go_on_from_the_start_of_the_filler() -> None:
    maker = HaystackMaker(["One short sentence of filler."], FakeEngine().tokenize, 900)
    assert maker.make(0).tokens > 840


def test_needle_facts_come_from_the_test_pool() -> None:
    train_only = set(pool(FIRST_NAMES, "train"))
    questions = " ".join(case.question for case in run_needle(cases=40).cases)
    assert not train_only & set(questions.replace("?", " ").replace(".", " ").split())


def test_the_shipped_filler_is_usable_prose() -> None:
    sentences = needle.read_sentences(None)
    assert len(sentences) > 30
    assert not any(character.isdigit() for character in "".join(sentences))


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"short.", "no sentence"), (b"\x1f\x8b...", "damaged"), (None, "does not exist")],
)
def test_unusable_filler_is_refused(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "filler.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        needle.read_sentences(path)


@pytest.mark.parametrize(
    "changes",
    [{"tokens": 10}, {"cases": 1}, {"cases": 0}, {"values": "letters"}, {"max_tokens": 0}, {"columns": ("all",)}],
)
def test_needle_options_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run_needle(**changes)


def test_depths_are_even_and_hold_both_ends() -> None:
    assert [depth_of(index) for index in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert sorted(depth_of(index) for index in range(DEPTHS)) == [place / 24 for place in range(25)]
    for block in range(0, 100, 5):
        assert [fifth_of(depth_of(index)) for index in range(block, block + 5)] == [0, 1, 2, 3, 4]
    kinds = Counter((fifth_of(depth_of(index)), index % 3, index % 2) for index in range(150))
    assert set(kinds.values()) == {5}


def test_a_fact_at_depth_0_opens_its_document_and_one_at_depth_1_ends_it() -> None:
    maker = HaystackMaker([f"Filler sentence {i} is here." for i in range(9)], FakeEngine().tokenize, 400)
    first, last = maker.make(0), maker.make(4)
    assert (first.depth, last.depth) == (0.0, 1.0)
    assert first.text.startswith(first.fact.statement) and last.text.endswith(last.fact.statement)


def test_long_documents_are_made_of_sentences_tokenized_once() -> None:
    sentences = [f"Sentence number {number} of the filler is here." for number in range(40)]
    tokenized: list[str] = []

    def tokenize(text: str) -> TokenArray:
        tokenized.append(text)
        return FakeEngine().tokenize(text)

    maker = HaystackMaker(sentences, tokenize, 8000)
    for index in range(3):
        assert 7900 < maker.make(index).tokens <= 8000
    counts = Counter(tokenized)
    assert all(counts[" " + sentence] == 1 for sentence in sentences)
    assert sum(len(text) for text in tokenized) < 3 * 8000 + 3 * 100 + 40 * 60


@pytest.mark.parametrize("values", ["digits", "words", "both"])
def test_kinds_of_keys_and_values_come_in_turn_and_are_told_apart(values: str) -> None:
    result = run_needle(values=values, max_tokens=2000)
    assert [case.kind for case in result.cases if case.column == "none"] == list(KEY_KINDS) * 4
    for scores in result.columns:
        assert [(part.name, part.cases) for part in scores.by_kind] == [(kind, 4) for kind in KEY_KINDS]
        digits, words = scores.by_value
        assert (digits.cases, words.cases) == {"digits": (12, 0), "words": (0, 12), "both": (6, 6)}[values]
        assert (digits.exact is None) == (digits.cases == 0) and (words.exact is None) == (words.cases == 0)
    for case in result.cases:
        assert case.value.isdigit() == (case.values == "digits")
        assert case.kind == key_kind(_name_in(case.question))


def _name_in(question: str) -> str:
    for before in (" of ", " for ", " does "):
        if before in question:
            return question.partition(before)[2].removesuffix(" have?").rstrip("?.")
    raise AssertionError(question)


def test_no_question_holds_the_value_it_asks_for() -> None:
    maker = HaystackMaker(["Nothing but filler here."], FakeEngine().tokenize, 200, "words")
    facts = [maker.fact(index) for index in range(600)]
    assert not any(holds_value(fact.question, fact.value) for fact in facts)
    # It does happen in the pools: "the amber harbor" with the word "harbor".
    drawn = [make_fact(random.Random(index), "test", digits=False) for index in range(600)]
    assert any(holds_value(fact.question, fact.value) for fact in drawn)
    assert [maker.fact(index) for index in range(9)] == [maker.make(index).fact for index in range(9)]


def test_a_kind_of_key_is_seen_from_its_name() -> None:
    assert [key_kind(name) for name in ("Zora Young", "Lisbon", "the quiet tower")] == list(KEY_KINDS)
    rng = random.Random(0)
    for split in ("train", "test"):
        for kind in KEY_KINDS:
            fact = make_fact_about(rng, split, kind, digits=True)
            assert fact.kind == kind == key_kind(fact.name)


DRAWN = [
    "It was written down that the secret word for Valencia is valley.",
    "Remember that the account number of Anton Farrow is 2931.",
    "The key word for Greta Gomez is goose.",
]


def test_what_training_draws_has_not_changed() -> None:
    facts = [make_fact(random.Random(seed), "train", digits=bool(seed % 2)) for seed in range(3)]
    assert [fact.statement for fact in facts] == DRAWN


def test_documents_too_long_for_the_prompt_are_not_cut_but_their_column_left_out() -> None:
    options = needle.NeedleOptions(tokens=600, cases=4)
    result = needle.run(options, NeedleReader(n_ctx=640), hypernetwork(), make_adapter=write_text)
    assert [scores.name for scores in result.columns] == ["none", "adapter", "shuffled"]
    (skipped,) = result.skipped
    assert skipped.name == "context"
    assert "600 tokens" in skipped.reason and "640" in skipped.reason
    longest = int(skipped.reason.rpartition("up to ")[2].split()[0])
    fits = replace(options, tokens=longest)
    result = needle.run(fits, NeedleReader(n_ctx=640), hypernetwork(), make_adapter=write_text)
    assert ([scores.name for scores in result.columns], result.skipped) == (list(USUAL_COLUMNS), ())
    with pytest.raises(ConfigError, match="does not fit"):
        needle.run(replace(options, columns=("context",)), NeedleReader(n_ctx=640), hypernetwork())


def test_each_case_says_what_its_adapter_took() -> None:
    result = run_needle(cases=3)
    for case in result.cases:
        assert (case.attach is None) == (case.column in ("none", "context"))
    own = [case.attach for case in result.cases if case.column == "adapter"]
    others = [case.attach for case in result.cases if case.column == "shuffled"]
    assert others == [own[1], own[2], own[0]]
    for cost, tokens in zip(own, [case.tokens for case in result.cases if case.column == "adapter"], strict=True):
        assert cost is not None and cost.size_bytes == tokens and cost.seconds >= 0
    assert result.attached is not None and result.attached.adapters == 3


def test_one_case_will_do_without_the_shuffled_control() -> None:
    assert run_needle(cases=1, columns=("none", "adapter")).columns[1].by_depth_cases == (1, 0, 0, 0, 0)


def test_lazy_items_are_made_when_asked_for_and_the_last_few_kept() -> None:
    made: list[int] = []
    items = Lazy(100, lambda index: made.append(index) or str(index))  # type: ignore[func-returns-value]
    assert len(items) == 100 and made == []
    assert [items[3], items[4], items[3], items[4]] == ["3", "4", "3", "4"]
    assert made == [3, 4]


def test_no_evaluation_opens_a_connection(no_network: None) -> None:
    assert len(run_needle(cases=2).cases) == 8
