"""Metrics, intervals and the bootstrap against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from localhyper.evaluate.intervals import ClusterBootstrap, TaskBootstrap, wilson
from localhyper.evaluate.metrics import (
    best,
    contains,
    exact_match,
    f1,
    holds_value,
    normalize_answer,
    rouge_l,
    same_text,
)
from localhyper.evaluate.task_items import Scores, grade_text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Cat, and a dog!", "cat and dog"),
        ("U.S.A.", "usa"),
        ("theatre an anthem", "theatre anthem"),
        ("A", ""),
        ("Äpfel § 3", "äpfel § 3"),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, wanted: str) -> None:
    assert normalize_answer(text) == wanted


def test_exact_match_ignores_case_articles_and_punctuation_only() -> None:
    assert exact_match("the Norman conquest.", "Norman Conquest") == 1.0
    assert exact_match("Norman conquests", "Norman Conquest") == 0.0


def test_f1_by_hand() -> None:
    # 2 common words, 4 in the reply, 3 in the answer: precision 1/2, recall 2/3.
    assert f1("in the year 1066 AD", "the year 1066 exactly") == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert f1("nothing", "year 1066") == 0.0
    assert f1("", "year 1066") == 0.0


def test_f1_counts_repeated_words_once_per_repetition() -> None:
    assert f1("red red red", "red blue") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


@pytest.mark.parametrize(
    ("reply", "answer", "wanted"),
    [
        ("a cat sat mat", "the cat sat on the mat", 0.6),
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("its 3 5", "It's 3.5%", 0.5714285714285715),
        ("snake case word", "snake_case word", 1.0),
        ("dont stop", "don't stop", 0.4),
        ("unicode apfel", "Ünïcode äpfel", 0.0),
        ("", "x", 0.0),
        ("x", "", 0.0),
    ],
)
def test_rouge_l_is_what_the_reference_package_gives(reply: str, answer: str, wanted: float) -> None:
    # `rouge_scorer.RougeScorer(["rougeL"]).score(answer, reply)` of rouge-score 0.1.2.
    assert rouge_l(reply, answer) == pytest.approx(wanted)


def test_rouge_l_sees_order_where_f1_does_not() -> None:
    words = [f"w{number}" for number in range(300)]
    assert rouge_l(" ".join(words), " ".join(words)) == 1.0
    backwards = " ".join(reversed(words))
    assert (f1(backwards, " ".join(words)), rouge_l(backwards, " ".join(words))) == pytest.approx((1.0, 1 / 300))


def test_best_takes_the_answer_that_scores_highest() -> None:
    assert best(exact_match, "1066", ("in 1066", "1066", "year 1066")) == 1.0
    assert best(f1, "1066", ("in 1066", "the year of 1066")) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("reply", "value", "found"),
    [
        ("It is 1234.", "1234", True),
        ("It is 12345.", "1234", False),
        ("It is 1,234.", "1234", False),
        ("The Lantern!", "lantern", True),
        ("lanterns", "lantern", False),
        ("the misty harbour gate", "misty harbour", True),
        ("misty old harbour", "misty harbour", False),
        ("anything", "", False),
    ],
)
def test_a_value_is_found_as_whole_words_only(reply: str, value: str, found: bool) -> None:
    assert holds_value(reply, value) is found


@pytest.mark.parametrize(
    ("reply", "answer", "due"),
    [
        ("The Edict was signed in 1598.", "1598", 1.0),
        ("It was signed by the King of France, in Nantes.", "a king of france", 1.0),  # articles and marks are nothing
        ("It was signed in 15980.", "1598", 0.0),
        ("France, the king of", "King of France", 0.0),
        ("", "1598", 0.0),
        ("the", "the", 0.0),  # an article alone normalises to nothing, which stands in no reply
    ],
)
def test_an_answer_counts_in_a_sentence_too(reply: str, answer: str, due: float) -> None:
    assert contains(reply, answer) == due


def test_wilson_matches_published_values() -> None:
    # 8 of 10 and 0 of 20: 0.4902 to 0.9433 and 0 to 0.1611.
    eight = wilson(8, 10)
    assert (eight.value, round(eight.low, 4), round(eight.high, 4)) == (0.8, 0.4902, 0.9433)
    none = wilson(0, 20)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)
    assert wilson(20, 20).high == 1.0


def test_bootstrap_of_a_mean_agrees_with_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    got = ClusterBootstrap(range(400), seed=0).mean(values)
    half = 1.96 * values.std() / 20
    assert got.value == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.03)
    assert got.high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_resamples_whole_clusters() -> None:
    # Ten equal answers in each of 40 documents are 40 observations, not 400.
    per_document = np.random.default_rng(2).normal(size=40)
    apart = ClusterBootstrap(range(40), seed=0).mean(per_document)
    together = ClusterBootstrap(np.repeat(np.arange(40), 10).tolist(), seed=0).mean(np.repeat(per_document, 10))
    assert (together.value, together.low, together.high) == pytest.approx((apart.value, apart.low, apart.high))


def test_a_constant_difference_has_no_spread_though_its_parts_have() -> None:
    bootstrap = ClusterBootstrap(range(30), seed=0)
    values = np.random.default_rng(3).normal(size=30)
    assert bootstrap.mean(values).high - bootstrap.mean(values).low > 0.3
    paired = bootstrap.mean((values + 0.5) - values)
    assert (paired.low, paired.high) == pytest.approx((0.5, 0.5))


def test_a_ratio_is_of_sums_and_none_over_zero() -> None:
    bootstrap = ClusterBootstrap([0, 0, 1], seed=0)
    ratio = bootstrap.ratio([1.0, 3.0, 2.0], [2.0, 2.0, 8.0])
    assert ratio is not None
    assert ratio.value == pytest.approx(0.5)
    assert (ratio.low, ratio.high) == pytest.approx((0.25, 1.0))
    assert bootstrap.ratio([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]) is None


def test_a_ratio_with_hardly_anything_below_it_has_no_interval() -> None:
    # One document of forty in the denominator: more than a third of all draws leave it out.
    assert ClusterBootstrap(range(40), seed=0).ratio([1.0] * 40, [1.0] + [0.0] * 39) is None
    ratio = ClusterBootstrap(range(40), seed=0).ratio([1.0] * 40, [1.0] * 10 + [0.0] * 30)
    assert ratio is not None and ratio.low < ratio.value == 4.0 < ratio.high


def test_the_same_seed_draws_the_same() -> None:
    values = np.random.default_rng(4).normal(size=25)
    one, two, other = (ClusterBootstrap(range(25), seed).mean(values) for seed in (7, 7, 8))
    assert one == two
    assert one != other


@pytest.mark.parametrize(
    ("reply", "answer", "same"),
    [("B", "b.", 1), ("A", "the", 0), ("A", "a", 1), ("(C)", "C", 1), ("x  y", "X Y", 1), ("?", "!", 0), ("?", "?", 1)],
)
def test_same_text_keeps_articles(reply: str, answer: str, same: int) -> None:
    assert same_text(reply, answer) == same


def test_a_free_reply_that_is_a_reference_scores_fully_in_any_script() -> None:
    assert grade_text(("日本",), "日本") == Scores(rouge_l=1.0, exact=1.0)
    assert grade_text(("red car", "blue car"), "blue car, old boat") == Scores(rouge_l=2 / 3, exact=0.0)


def test_tasks_weigh_alike_and_both_levels_are_drawn() -> None:
    many = TaskBootstrap([100, 2], 0)
    mean = many.mean([np.zeros(100), np.ones(2)])
    assert mean.value == 0.5 and (mean.low, mean.high) == (0.0, 1.0), "two tasks may both be drawn twice"
    one = TaskBootstrap([100], 0).mean([np.arange(100) % 2])
    assert one.value == 0.5 and 0.35 < one.low < 0.45 < 0.55 < one.high < 0.65
    equal = TaskBootstrap([50] * 10, 0).mean([np.full(50, task / 9) for task in range(10)])
    assert equal.high - equal.low > 0.3, "with instances that agree, tasks alone decide"
    assert TaskBootstrap([5, 5], 1).mean([np.arange(5)] * 2) == TaskBootstrap([5, 5], 1).mean([np.arange(5)] * 2)
