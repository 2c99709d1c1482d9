"""The GGUF file of a base model, as training opens it."""

from __future__ import annotations

from pathlib import Path

import gguf

from localhyper.errors import ModelError


def open_base(path: Path) -> gguf.GGUFReader:
    """Header and tensors of a base model.

    Raises:
        ModelError: Not there, or not a GGUF file.
    """
    try:
        return gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as GGUF: {error}", "give the base model's GGUF file") from None
