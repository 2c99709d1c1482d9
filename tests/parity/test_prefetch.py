"""Batches made ahead in worker processes are the batches of their steps, in order."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from torch import Tensor  # noqa: E402

from localhyper.export.prefetch import prefetch  # noqa: E402

pytestmark = [pytest.mark.torch]


def make(step: int) -> Tensor:
    """Another tensor for each step."""
    made: Tensor = torch.arange(random.Random(step).randint(1, 9)) + step
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_their_steps(workers: int) -> None:
    got = list(prefetch(make, 5, 40, workers))
    assert [int(batch[0]) for batch in got] == list(range(5, 40))
    assert all(torch.equal(batch, make(step)) for step, batch in enumerate(got, 5))


def test_what_fails_in_a_worker_is_raised_here() -> None:
    def broken(step: int) -> Tensor:
        if step == 3:
            raise ValueError("no such batch")
        return make(step)

    with pytest.raises(ValueError, match="no such batch"):
        list(prefetch(broken, 0, 5, 2))
