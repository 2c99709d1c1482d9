"""The queue alone."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localhyper.serve.fair_queue import FairQueue, QueueFull

ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=30)


def drain(queue: FairQueue[str]) -> list[str]:
    return [str(queue.get()) for _ in range(len(queue))]


def test_clients_take_turns_and_one_clients_requests_stay_in_order() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item, item[0])
    assert drain(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_late_client_waits_for_one_request_of_a_client_with_many() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for number in range(60):
        queue.put(f"a{number}", "a")
    assert queue.get() == "a0"
    queue.put("b0", "b")
    assert [queue.get(), queue.get()] == ["a1", "b0"]


@given(ITEMS)
def test_the_order_told_is_the_order_served(items: list[tuple[str, int]]) -> None:
    queue: FairQueue[str] = FairQueue(64)
    for client, number in items:
        queue.put(f"{client}{number}", client)
    told = queue.order()
    assert drain(queue) == told


def test_a_full_queue_refuses_who_filled_it_and_takes_a_newcomers_first_request() -> None:
    queue: FairQueue[str] = FairQueue(2)
    queue.put("a1", "a")
    queue.put("a2", "a")
    with pytest.raises(QueueFull):
        queue.put("a3", "a")
    queue.put("b1", "b")
    with pytest.raises(QueueFull):
        queue.put("b2", "b")
    queue.put("c1", "c")
    with pytest.raises(QueueFull):  # twice the places is the end, however many clients come
        queue.put("d1", "d")


def test_what_is_removed_is_not_served_and_its_client_does_not_lose_a_turn() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for item in ("a1", "a2", "b1"):
        queue.put(item, item[0])
    assert queue.remove("a1")
    assert not queue.remove("a1")
    assert drain(queue) == ["a2", "b1"]


def test_closing_wakes_who_waits_and_lets_nothing_in() -> None:
    queue: FairQueue[str] = FairQueue(64)
    got: list[str | None] = []
    waiting = threading.Thread(target=lambda: got.append(queue.get()))
    waiting.start()
    assert queue.close() == []
    waiting.join(5)
    assert got == [None]
    with pytest.raises(QueueFull):
        queue.put("a", "a")
