"""`localhyper hypernet …`: hypernetworks one by one. `import` stands in `cli.py`, which alone reaches `export`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from localhyper.bundle import KIND_WORDS, BundleInfo, read_bundle
from localhyper.cli_options import JsonOption, open_settings
from localhyper.cli_output import put, put_json, size
from localhyper.present_bases import base_named
from localhyper.registry import load_registry

hypernet_app = typer.Typer(
    help="Import published hypernetworks, and show what one says of itself.", no_args_is_help=True
)


@hypernet_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name from `localhyper models list`, or an .onnx file.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a hypernetwork says of itself: its base model, what it reads and adapts, where it comes from."""
    paths, _ = open_settings()
    registry = load_registry(paths)
    info = read_bundle(registry.find_hypernetwork("", name=name))
    facts = _facts(info, base_named(info.base_fingerprint, registry))
    if as_json:
        put_json({**facts, "card": dict(info.card)})
        return
    for key, value in facts.items():
        put(f"{key:<14} {_shown(key, value)}")
    for key, value in info.card.items():
        put(f"card.{key}: {_printable(value)}")


def _facts(info: BundleInfo, base: str) -> dict[str, object]:
    return {
        "name": info.name,
        "path": str(info.path),
        "kind": info.kind,
        "for": base,
        "base": f"{info.base_architecture}, {info.base_block_count} blocks of {info.base_hidden_size}",
        "fingerprint": info.base_fingerprint,
        "taps": list(info.capture.taps),
        "ffn_blocks": list(info.capture.ffn_blocks),
        "embedding": dataclasses.asdict(info.embedding) if info.embedding is not None else None,
        "chunk_bundle": dataclasses.asdict(info.chunk_bundle) if info.chunk_bundle is not None else None,
        "targets": {module: list(blocks) for module, blocks in info.targets.items()},
        "rank": info.rank,
        "chunk_tokens": info.chunk_tokens,
        "cut_tokens": info.cut_sizes()[0],
        "prefix": info.prefix,
        "suffix": info.suffix,
        "reads_prefix": info.reads_prefix,
        "reads_examples": info.reads_examples,
        "licence": info.licence,
        "size_bytes": info.path.stat().st_size,
        "sha256": info.sha256,
    }


def _shown(key: str, value: object) -> str:
    if key in ("embedding", "chunk_bundle"):
        return _printable(value) if value else "none"
    if key == "kind":
        return f"{value}: turns {KIND_WORDS[str(value)]} into adapters"
    if key == "for":
        return str(value) or "a base model that is not on this machine"
    if isinstance(value, dict):
        return "; ".join(f"{module}: {_numbers(blocks)}" for module, blocks in value.items())
    if isinstance(value, list):
        return _numbers(value) or "none"
    if key == "rank" and value == 0:
        return "one per token"
    if key == "size_bytes" and isinstance(value, int):
        return size(value)
    return _printable(value) if key in ("prefix", "suffix") else str(value)


def _numbers(values: list[int]) -> str:
    """A run of numbers as its ends."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def _printable(value: object) -> str:
    """A stranger's text or values in one line without control characters."""
    return json.dumps(value, ensure_ascii=True)[:2000]
