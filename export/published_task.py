"""Published Text-to-LoRA runs (Charakorn et al. 2025): what one holds, checked, and fitted to a base model.

Sizes come from the tensors' shapes, and the settings must agree. The order of the modules is that of the heads in the
checkpoint: the reference numbers modules as it iterates a set, and builds its heads in the same iteration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from localhyper.base_header import BaseHeader
from localhyper.errors import HypernetworkError
from localhyper.export.checkpoint_file import Checkpoint
from localhyper.export.published import MAX_NAMED, TARGETS, check_tensors, read_tensors
from localhyper.export.task_settings import HINT, TaskSettings, read_settings
from localhyper.export.text_to_lora import TextToLora, TextToLoraConfig
from localhyper.gguf_header import shown

WEIGHTS, ARGS, ADAPTER = "hypermod.pt", "args.yaml", "adapter_config.json"
_HEAD = re.compile(r"heads\.(\w+)\.weight")
# What the reference leaves at zero where a checkpoint lacks it.
_CONSTANTS = ("AB_offset", "mean_recon_target", "std_recon_target")


@dataclass(frozen=True)
class TaskRun:
    """A run's folder.

    Attributes:
        weights: `hypermod.pt`.
        settings: What its other two files say.
        name: That of the run's folder.
    """

    weights: Path
    settings: TaskSettings
    name: str


def find_run(path: Path) -> Path | None:
    """The `hypermod.pt` that is meant by a file or folder; None where it is none of Text-to-LoRA."""
    if path.is_dir():
        return path / WEIGHTS if (path / WEIGHTS).exists() or (path / ARGS).exists() else None
    return path if path.name == WEIGHTS else None


def read_task_run(weights: Path) -> TaskRun:
    """Read a run's settings: beside the weights, or in the folder above the first named `checkpoint…`.

    Raises:
        HypernetworkError: A file is missing, or a setting is none that published runs have.
    """
    folder = weights.absolute().parent
    above = next((part for part in reversed((folder, *folder.parents)) if part.name.startswith("checkpoint")), None)
    if above is not None and not (folder / ARGS).is_file():
        folder = above.parent
    return TaskRun(weights, read_settings(folder / ARGS, folder / ADAPTER), folder.name)


def read_config(checkpoint: Checkpoint, run: TaskRun, base: BaseHeader) -> TextToLoraConfig:
    """The hypernetwork's sizes; no tensor is read.

    Raises:
        HypernetworkError: It does not fit the base model, or settings and tensors disagree.
    """
    settings, info = run.settings, base.info
    modules = tuple(match[1] for name in checkpoint.tensors if (match := _HEAD.fullmatch(name)))
    if frozenset(modules) != settings.modules:
        raise _bad(
            checkpoint,
            f"it has heads for {_listed(modules)}, `{ADAPTER}` names {_listed(sorted(settings.modules))}",
        )
    latent, blocks, head_input = (
        2 * _shape(checkpoint, "task_encoder.mlp.0.weight")[0],
        _shape(checkpoint, "layer_depth_encoder.0.weight")[0],
        _shape(checkpoint, "mlp3.4.weight")[0],
    )
    for key, said, got in (
        ("hypernet_latent_size", settings.latent, latent),
        ("head_in_size", settings.head_input, head_input),
    ):
        if said not in (0, got):
            raise _bad(checkpoint, f"its tensors are for `{key}` {got}, `{ARGS}` says {said}")
    if latent % 4:
        raise _bad(checkpoint, f"its trunk is {latent} wide, no multiple of 4")
    if blocks != info.block_count:
        raise _other_base(run, base, f"{blocks} blocks, the base model has {info.block_count}")
    shapes = [base.shapes[f"blk.0.{TARGETS[module]}.weight"] for module in modules]
    config = TextToLoraConfig(
        blocks=blocks,
        modules=modules,
        inputs=tuple(shape[0] for shape in shapes),
        outputs=tuple(shape[1] for shape in shapes),
        rank=settings.rank,
        embedding=_shape(checkpoint, "task_encoder.mlp.0.weight")[1],
        latent=latent,
        head_input=head_input,
        head_bias=tuple(module for module in modules if f"heads.{module}.bias" in checkpoint.tensors),
        shared_head=settings.shared_head,
        reconstruction=settings.reconstruction,
        factorized=settings.factorized,
        z_scored=settings.z_scored,
        delta_scaling=settings.delta_scaling,
    )
    _check_heads(checkpoint, run, base, config)
    return config


def _check_heads(checkpoint: Checkpoint, run: TaskRun, base: BaseHeader, config: TextToLoraConfig) -> None:
    """Say of the commonest mismatch what it means: another base model, another rank, another kind of head."""
    for module, into, out in zip(config.modules, config.inputs, config.outputs, strict=True):
        width = max(into, out) if config.shared_head else into + out
        got = _shape(checkpoint, f"heads.{module}.weight")[0]
        if got != config.rank * width:
            raise _other_base(
                run,
                base,
                f"the head of `{module}` with {got} rows, rank {config.rank} "
                f"{'of a shared head ' if config.shared_head else ''}on {into} and {out} wants {config.rank * width}",
            )


def load_task_network(checkpoint: Checkpoint, config: TextToLoraConfig, *, on_top: bool = False) -> TextToLora:
    """The hypernetwork with its weights, float32 on the CPU, rows in the checkpoint's order.

    Offsets and targets that the checkpoint lacks are zeros, as in the reference. `on_top`: the run was trained on top
    of a LoRA, so that its offsets must be there.

    Raises:
        HypernetworkError: Tensors are missing, left over, of another shape, damaged, or not finite.
    """
    with torch.device("meta"):
        net = TextToLora(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    optional = tuple(name for name in _CONSTANTS if not (on_top and name == "AB_offset"))
    check_tensors(checkpoint, wanted, HINT, optional)
    zeros = {name: torch.zeros(shape) for name, shape in wanted.items() if name not in checkpoint.tensors}
    net.load_state_dict({**zeros, **read_tensors(checkpoint, HINT)}, strict=True, assign=True)
    return net.requires_grad_(False).eval()


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    view = checkpoint.tensors.get(name)
    if view is None or len(view.shape) != 2:
        raise _bad(checkpoint, f"it lacks the matrix `{name}`")
    return view.shape


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{shown(name, 40)}`" for name in names[:MAX_NAMED]) or "none"


def _bad(checkpoint: Checkpoint, what: str) -> HypernetworkError:
    return HypernetworkError(f"checkpoint `{checkpoint.path}`: {what}", HINT)


def _other_base(run: TaskRun, base: BaseHeader, what: str) -> HypernetworkError:
    return HypernetworkError(
        f"the checkpoint is for `{shown(run.settings.base_name)}` and does not fit `{base.info.name}`: it has {what}",
        "give the base model it was trained for with --base",
    )
