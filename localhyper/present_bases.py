"""The base models whose files are on this machine, by what their headers say. Loads none."""

from __future__ import annotations

from localhyper.base_header import read_base_info
from localhyper.engine import BaseModelInfo
from localhyper.errors import ModelError
from localhyper.model_specs import BaseModelSpec
from localhyper.registry import ModelStatus, Registry


def present_bases(registry: Registry) -> list[tuple[ModelStatus, BaseModelInfo]]:
    """Every readable base model file, in the registry's order."""
    found = []
    for status in registry.statuses():
        if status.kind != "base" or status.path is None:
            continue
        try:
            found.append((status, read_base_info(status.path)))
        except ModelError:
            continue  # one bad file hides no good one
    return found


def base_with(fingerprint: str, registry: Registry) -> tuple[BaseModelInfo | None, str]:
    """The base model of a fingerprint where a file of it is here, and the repository of its weights where known."""
    for status, info in present_bases(registry):
        if info.fingerprint == fingerprint:
            return info, status.spec.unquantized if isinstance(status.spec, BaseModelSpec) else ""
    return None, ""


def base_named(fingerprint: str, registry: Registry) -> str:
    """What the base model of a fingerprint is called, where a file of it is here; empty elsewhere."""
    return next((status.name for status, info in present_bases(registry) if info.fingerprint == fingerprint), "")
