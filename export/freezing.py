"""Parameters left out of training, by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from localhyper.errors import ConfigError


def freeze(hypernetwork: nn.Module, prefixes: Sequence[str], key: str) -> None:
    """Leave parameters out of training whose names begin so; `key` of the recipe names them.

    Raises:
        ConfigError: No parameter's name begins so, or none is left to train.
    """
    named = dict(hypernetwork.named_parameters())
    for prefix in prefixes:
        found = [value for name, value in named.items() if f"{name}.".startswith(f"{prefix}.")]
        if not found:
            parts = ", ".join(sorted({name.partition(".")[0] for name in named}))
            raise ConfigError(f"recipe key {key} names no parameter: {prefix}", f"parts are {parts}")
        for value in found:
            value.requires_grad_(False)
    if not any(value.requires_grad for value in named.values()):
        raise ConfigError(f"recipe key {key} leaves nothing to train", "name fewer parts")
