"""Products share the cores without waiting for each other, and numpy has all of its threads again afterwards."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from localhyper import blas_threads
from localhyper.blas_threads import each, one_thread_a_product


def blas() -> list[int]:
    """Of the library that numpy brings; torch, where another test has loaded it, brings its own."""
    found = [one for one in threadpool_info() if one["user_api"] == "blas" and "numpy" in one["filepath"]]
    return [one["num_threads"] for one in found]


def at_once(count: int) -> int:
    """How many of `count` calls are inside at the same time; each waits a moment for others to come."""
    inside, most, lock, gate = 0, 0, threading.Lock(), threading.Event()

    def call(number: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(0.05)
        with lock:
            inside -= 1
        return number

    assert each(call, range(count)) == list(range(count))
    return most


@pytest.mark.parametrize(("cores", "threads", "wanted"), [(1, 4, 1), (2, 4, 2), (4, 4, 4), (8, 2, 2)])
def test_one_thread_a_product_and_as_many_products_as_cores_or_given_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, wanted: int
) -> None:
    monkeypatch.setattr(blas_threads, "physical_cores", lambda: cores)
    if not blas():
        pytest.skip("this numpy's matrix library cannot be limited")
    with ThreadpoolController().limit(limits=threads, user_api="blas"):
        before = blas()
        with one_thread_a_product():
            assert set(blas()) == {1}
            assert at_once(5) == min(wanted, *before)
        assert blas() == before


def test_outside_one_by_one() -> None:
    assert at_once(3) == 1 and each(str, range(0)) == []


def test_an_error_of_one_comes_out_and_threads_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas_threads, "physical_cores", lambda: 2)
    before = blas()
    with pytest.raises(np.linalg.LinAlgError), one_thread_a_product():
        each(lambda number: np.linalg.inv(np.zeros((2, 2)) + (number + 1) * np.eye(2) * (number != 1)), range(3))
    assert blas() == before and at_once(2) == 1
