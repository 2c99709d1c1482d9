"""A merge leaves a core to other programs, and numpy has all of its threads again afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from localhyper import memory_check
from localhyper.blas_threads import one_core_left


def blas() -> list[int]:
    """Of the library that numpy brings; torch, where another test has loaded it, brings its own."""
    found = [one for one in threadpool_info() if one["user_api"] == "blas" and "numpy" in one["filepath"]]
    return [one["num_threads"] for one in found]


@pytest.mark.parametrize(("cores", "wanted"), [(1, 1), (2, 1), (3, 2)])
def test_all_but_one_core_inside_and_as_before_after_it(
    monkeypatch: pytest.MonkeyPatch, cores: int, wanted: int
) -> None:
    monkeypatch.setattr(memory_check, "physical_cores", lambda: cores)
    before = blas()
    if not before:
        pytest.skip("this numpy's matrix library cannot be limited")
    with one_core_left():
        assert set(blas()) == {wanted}
        np.ones((8, 8)) @ np.ones((8, 8))
    assert blas() == before


def test_threads_that_the_user_took_away_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "physical_cores", lambda: 8)
    if not blas():
        pytest.skip("this numpy's matrix library cannot be limited")
    with ThreadpoolController().limit(limits=1, user_api="blas"), one_core_left():
        assert set(blas()) == {1}
