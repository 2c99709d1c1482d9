"""The tiny model of the native tests, and the wall between them and the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_gguf import TinySpec, write_tiny_gguf


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-block llama model of 320 KB."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "llama.gguf", TinySpec())


@pytest.fixture(autouse=True)
def _offline(no_network: None) -> None:
    """Nothing here may reach for a network."""
