"""A task run to what localhyper runs: its hypernetwork to an ONNX bundle, its multi-task LoRA to a GGUF adapter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from localhyper.atomic import atomic_path
from localhyper.base_header import read_base_info
from localhyper.engine import Activations, BaseModelInfo
from localhyper.errors import HypernetworkError
from localhyper.export.checkpoints import load_run, run_events
from localhyper.export.lora_files import write_task_adapter
from localhyper.export.onnx_bundle import HALF, PARITY, Parity, describe_base
from localhyper.export.published_bundle import NET, export_program, round_weights, write_program
from localhyper.export.task_config import TaskRecipe
from localhyper.export.task_hypernetwork import LoraBank, TaskHypernetwork
from localhyper.export.text_to_lora import LoraPair
from localhyper.hypernet import BUNDLE_FORMAT, OnnxHypernetwork

LENGTHS = (2, 61, 256)  # that the export never sees


class TaskBundleGraph(nn.Module):
    """One description in, LoRA matrices out: the arithmetic that the bundle ships."""

    def __init__(self, net: TaskHypernetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, activations: Tensor) -> tuple[Tensor, ...]:
        """Activations [taps, tokens, hidden] to a [blocks, rank, inputs], b [blocks, outputs, rank] of each module."""
        mask = torch.ones_like(activations[0, :, :1]).transpose(0, 1)
        out: list[Tensor] = []
        for pair in self.net(activations[None], mask).values():
            out += [pair.a[0], pair.b[0] * self.net.config.scaling]
        return tuple(out)

    def output_names(self) -> list[str]:
        """Names of the outputs in their order."""
        return [f"{side}.{name}" for name in self.net.config.modules for side in "ab"]


def describe_task_run(recipe: TaskRecipe, base: BaseModelInfo, card: dict[str, Any]) -> dict[str, Any]:
    """The bundle's description (see `docs/formats.md`)."""
    config = recipe.hypernetwork
    return {
        "format": BUNDLE_FORMAT,
        "name": recipe.name,
        "kind": "task",
        "base": describe_base(base),
        "taps": list(config.taps),
        "ffn_blocks": [],
        "targets": {name: list(range(config.blocks)) for name in config.modules},
        "rank": config.rank,
        "chunk_tokens": config.max_tokens,
        "prefix": recipe.chunk_prefix,
        "suffix": "",
        "reads_examples": recipe.task.way == "examples",
        "licence": "Apache-2.0",
        "card": card,
    }


def write_task_bundle(
    net: TaskHypernetwork, recipe: TaskRecipe, base: BaseModelInfo, path: Path, card: dict[str, Any]
) -> Parity:
    """Export with weights as float16, check against torch at unseen lengths, and write atomically.

    Raises:
        HypernetworkError: torch and ONNX differ by more than 1e-4, or a weight is too large; nothing is written.
    """
    graph = TaskBundleGraph(copy.deepcopy(net).float().cpu()).eval()
    round_weights(graph.net)
    example = torch.randn(len(net.config.taps), 37, net.config.hidden)
    tokens = torch.export.Dim("tokens", min=2, max=net.config.max_tokens)
    program = export_program(graph, "activations", example, graph.output_names(), ({1: tokens},))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as draft:
        write_program(program, graph.net, "f16", describe_task_run(recipe, base, card), draft)
        return check_task_bundle(graph, draft)


@torch.no_grad()
def check_task_bundle(graph: TaskBundleGraph, path: Path, lengths: tuple[int, ...] = LENGTHS) -> Parity:
    """Compare what torch and onnxruntime give on random activations.

    Raises:
        HypernetworkError: They differ by more than 1e-4.
    """
    session, config = OnnxHypernetwork.load(path), graph.net.config
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for length in (min(length, config.max_tokens) for length in lengths):
        taps = torch.randn(len(config.taps), length, config.hidden, generator=generator)
        made = session.generate(Activations(taps.numpy(), np.empty((0, length, 0), np.float32))).targets
        got = [array for name in config.modules for array in (made[name].a, made[name].b)]
        for have, want in zip(got, graph(taps), strict=True):
            worst = max(worst, float(np.abs(have - want.numpy()).max()))
    if not worst <= PARITY:
        raise HypernetworkError(f"torch and ONNX differ by {worst:.1e}, at most {PARITY:.0e} is allowed")
    return Parity(lengths, worst)


def read_task_bundle(path: Path) -> dict[str, Tensor]:
    """The state dict of the hypernetwork in a bundle: weights lie in it under their own names, large ones as float16.

    Raises:
        HypernetworkError: The file is no bundle, or none that `write_task_bundle` made.
    """
    import onnx

    OnnxHypernetwork.load(path)  # checks a stranger's file before anything else reads it
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(path).graph.initializer}
    own = {name: array for name, array in held.items() if name.startswith(NET)}
    if not own:
        raise HypernetworkError(f"bundle {path} holds no task hypernetwork of a training run")
    return {
        name.removeprefix(NET).removesuffix(HALF): torch.from_numpy(array.astype(np.float32))
        for name, array in own.items()
    }


def load_task_run(recipe: TaskRecipe, run: Path) -> tuple[TaskHypernetwork | LoraBank, dict[str, Any]]:
    """What a run trained, and its training facts (steps, seconds).

    Raises:
        ConfigError: The run has no checkpoint yet, or one of another recipe.
    """
    made = LoraBank if recipe.task.way == "multitask" else TaskHypernetwork
    return load_run(made(recipe.hypernetwork), run)


def make_task_card(recipe: TaskRecipe, run: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the bundle must know: data, steps, device, seconds, held-out scores."""
    events = run_events(run)

    def last(event: str) -> dict[str, Any]:
        return events.get(event, {})

    environment, tasks, run_config = last("environment"), last("tasks"), recipe.run
    started = last("started from").get("run")
    data: dict[str, Any] = {
        "tasks": list(recipe.data.tasks),
        "no_tasks": list(recipe.data.texts),
        "training_tasks": tasks.get("train"),
    }
    if recipe.task.way == "beside":
        cfg, groups = recipe.beside, recipe.beside.documents * recipe.beside.forms
        data |= {"reading": list(cfg.reading), "texts": list(cfg.texts), "forms": last("documents").get("forms")}
        data |= {"known": cfg.known, "frozen": list(cfg.frozen), "started_from": started}
    else:
        groups = run_config.tasks
        data |= {"held_out_tasks": tasks.get("held"), "instances": tasks.get("rows")}
    if recipe.task.way == "examples":
        shown = recipe.examples
        data |= {"examples": shown.most, "alone": shown.alone, "frozen": list(shown.frozen), "started_from": started}
    return {
        "way": recipe.task.way,
        "data": data,
        "instances_seen": facts["steps"] * groups * run_config.rows * environment.get("processes", 1),
        "device": environment.get("device", "unknown"),
        "dtype": environment.get("dtype", "unknown"),
        **facts,
        "held_out": last("probe"),
        "config": recipe.hypernetwork.as_dict(),
    }


def export_task_run(recipe: TaskRecipe, run: Path, base_path: Path, out: Path) -> str:
    """Write what a task run is for, and say in a line what was written.

    Raises:
        LocalHyperError: The run, the recipe or the base model cannot be used; nothing is written.
    """
    net, facts = load_task_run(recipe, run)
    base = read_base_info(base_path)
    if isinstance(net, LoraBank):
        out.parent.mkdir(parents=True, exist_ok=True)
        pairs = {name: LoraPair(pair.a[0], pair.b[0]) for name, pair in net().items()}
        write_task_adapter(out, recipe.name, pairs, recipe.hypernetwork, base)
        return f"{out}: {out.stat().st_size / 2**20:.1f} MiB, one adapter for all tasks"
    parity = write_task_bundle(net, recipe, base, out, make_task_card(recipe, run, facts))
    size = out.stat().st_size / 2**20
    return f"{out}: {size:.1f} MiB, torch = ONNX within {parity.max_difference:.1e} at lengths {parity.lengths}"
