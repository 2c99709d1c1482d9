"""When a reply goes in circles, and when it only looks so."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from localhyper.reply_loops import LEAST_ROUNDS, LEAST_TOKENS, LONGEST_ROUND, LoopWatch


def ended_after(tokens: Iterable[int]) -> int | None:
    """Tokens made when the reply is ended; None = never."""
    watch = LoopWatch()
    return next((number for number, token in enumerate(tokens, 1) if watch.goes_in_circles(token)), None)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 13, 40, LONGEST_ROUND])
def test_a_circle_is_ended_after_four_rounds_or_48_tokens(length: int) -> None:
    opening, circle = [900, 901, 902, 903, 904], list(range(length))
    wanted = max(LEAST_ROUNDS * length, LEAST_TOKENS)
    assert ended_after(opening + circle * 100) == len(opening) + wanted
    assert ended_after(opening + (circle * 100)[: wanted - 1] + [999] + (circle * 100)[: wanted - 1]) is None


def test_longer_circles_and_ordinary_text_are_let_be() -> None:
    assert ended_after(list(range(LONGEST_ROUND + 1)) * 20) is None
    rng = random.Random(0)
    assert ended_after(rng.choices(range(50), k=5000)) is None


def test_a_list_that_counts_up_is_no_circle() -> None:
    # "Line 1: the same words." and so on: every round differs in one token.
    lines = [token for number in range(40) for token in (1, 2, 1000 + number, 3, 4, 5, 6)]
    assert ended_after(lines) is None


def test_a_circle_that_is_left_in_time_does_not_count_later() -> None:
    circle = [1, 2, 3] * 15
    assert ended_after([*circle, 9, *circle, 8, *circle]) is None
