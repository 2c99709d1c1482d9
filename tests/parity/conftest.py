"""What several parity tests compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.f32_base import write_f32_copy
from tests.parity.training_process import Start, started


@pytest.fixture(scope="session")
def f32_model(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base model in float32; written once for all modules, as it is large."""
    path: Path = tmp_path_factory.mktemp("f32") / "base-f32.gguf"
    write_f32_copy(default_model_path, path)
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As subprocesses have: another number sums in another order, and matrices this small only lose time to it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts training as a process."""
    with started() as begin:
        yield begin
