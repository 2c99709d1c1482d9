"""What several parity tests compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.f32_base import write_f32_copy


@pytest.fixture(scope="session")
def f32_model(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default base model in float32; written once for all modules, as it is large."""
    path: Path = tmp_path_factory.mktemp("f32") / "base-f32.gguf"
    write_f32_copy(default_model_path, path)
    return path
