"""A published Text-to-LoRA run to a bundle: the task half of `localhyper hypernet import`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from localhyper.base_header import BaseHeader
from localhyper.checksums import file_sha256
from localhyper.errors import ConfigError, HypernetworkError
from localhyper.export.checkpoint_file import open_checkpoint
from localhyper.export.import_checkpoint import bundle_name, check_memory, check_target, find_base, say
from localhyper.export.published_bundle import choose_dtype
from localhyper.export.published_task import TaskRun, load_task_network, read_config, read_task_run
from localhyper.export.task_bundle import TaskGraph, describe_task, write_task
from localhyper.export.text_to_lora import TextToLora
from localhyper.registry import Registry


def import_task(weights: Path, options: argparse.Namespace, registry: Registry) -> Path:
    """Read a Text-to-LoRA run, write its bundle, and return the bundle's path.

    Raises:
        LocalHyperError: The run, the base model or an option is wrong; nothing is written.
    """
    if options.chunk_tokens:
        raise ConfigError("--chunk-tokens is for documents: a task's description is read whole", "leave it out")
    run = read_task_run(weights)
    name = options.name or bundle_name(run.name)
    target: Path = options.output or registry.paths.hypernetworks_dir / f"{name}.onnx"
    check_target(target, options.force)
    with open_checkpoint(weights) as checkpoint:
        base = find_base(registry, options.base, run.settings.base_name)
        config = read_config(checkpoint, run, base)
        check_memory(checkpoint)
        say(f"reading {weights}")
        net = load_task_network(checkpoint, config, on_top=run.settings.on_top)
    dtype = choose_dtype(net, options.dtype)
    graph = TaskGraph(net, run.settings.scaling, base).eval()
    facts = {"name": name, "licence": options.licence, "card": _card(run, base, net, dtype)}
    say(f"writing {target} ({dtype}), and comparing it with the checkpoint")
    try:
        difference = write_task(graph, target, describe_task(net, base, run.settings.embedding_model, facts), dtype)
    except OSError as error:
        message = f"cannot write `{target}`: {error.strerror or error}"
        raise HypernetworkError(message, "check the folder, its permissions and the space left") from error
    say(f"torch = ONNX within {difference:.1e}")
    return target


def _card(run: TaskRun, base: BaseHeader, net: TextToLora, dtype: str) -> dict[str, Any]:
    """What a reader of the bundle must know: where it comes from and what it was made for."""
    settings = run.settings
    return {
        "note": "imported from a Text-to-LoRA checkpoint",
        "source": {"file": f"{run.name}/{run.weights.name}", "sha256": file_sha256(run.weights)},
        "base_model_name_or_path": settings.base_name,
        "base_file": base.info.path.name,
        "emb_model": settings.embedding_model,
        "scaling": settings.scaling,
        "dtype": dtype,
        "config": net.config.as_dict(),
    }
