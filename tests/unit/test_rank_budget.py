"""How blocks share a rank budget: the best of all ways, in whole steps, never more than there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from localhyper.gguf_writer import BLOCK
from localhyper.rank_budget import STEP, allot_ranks

FALLS = st.lists(st.floats(0.01, 100), min_size=1, max_size=5).map(lambda values: np.array(sorted(values)[::-1]))


def lost(energies: list[NDArray[np.float64]], ranks: tuple[int, ...] | list[int]) -> float:
    """Shares of their blocks' energies that ranks cut off."""
    return sum(float(block[rank:].sum() / block.sum()) for block, rank in zip(energies, ranks, strict=True))


@settings(max_examples=60, deadline=None)
@given(energies=st.lists(FALLS, min_size=1, max_size=4), rank=st.integers(1, 4))
def test_no_other_way_loses_less(energies: list[NDArray[np.float64]], rank: int) -> None:
    got = allot_ranks(energies, rank)
    room = rank * len(energies)
    ways = itertools.product(*(range(len(block) + 1) for block in energies))
    best = min(lost(energies, way) for way in ways if sum(way) <= room)
    assert sum(got) <= room
    assert lost(energies, got) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("rank", [128, 256])
def test_ranks_are_whole_blocks_of_quantized_files(rank: int) -> None:
    steep, flat = np.geomspace(1, 1e-12, 576), np.geomspace(1, 1e-1, 576)
    ranks = allot_ranks([steep, flat, flat], rank)
    assert all(one % STEP == one % BLOCK == 0 for one in ranks)
    assert sum(ranks) == 3 * rank
    assert 0 < ranks[0] < rank < ranks[1]


def test_how_large_an_update_is_does_not_count() -> None:
    falls = np.geomspace(1, 1e-3, 200)
    assert allot_ranks([falls, 1e6 * falls], 64) == [64, 64]


def test_a_block_takes_no_more_than_it_has_and_an_empty_one_nothing() -> None:
    short = np.array([4.0, 1.0])
    assert allot_ranks([short, np.geomspace(1, 1e-1, 576), np.zeros(576)], 64) == [2, 160, 0]
