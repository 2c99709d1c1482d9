"""Tables that lie in the package beside the training code."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def packaged_table(name: str) -> dict[str, Any]:
    """The TOML file of that name, as it is."""
    return tomllib.loads(resources.files("localhyper.export").joinpath(name).read_text(encoding="utf-8"))
