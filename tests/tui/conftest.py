"""What all tests of the terminal UI share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _between_any_two_chunks(one_chunk_at_a_time: None) -> None:
    """Jobs make way, pause and stop between any two chunks of their short documents."""
