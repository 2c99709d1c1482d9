"""What every training run has in common: state on disk, schedule, curve, speed.

Every `save_every` steps the whole state (weights, optimizer moments, step) is written atomically; started again with
the same arguments a run goes on from there, and because batches are a function of (seed, step, process), the resumed
run is the run that was never interrupted. Knows neither base models nor what is trained.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from localhyper.export.checkpoints import read_checkpoint
from localhyper.export.muon import Muon
from localhyper.export.schedule import Schedule
from localhyper.export.speed import count_flops, matmul_peak


@dataclass(frozen=True)
class StepResult:
    """What a step gives, over all processes.

    Attributes:
        losses: Each objective by its name, per token; 0 in steps without it.
        grad_norm: Before clipping.
        tokens: Tokens that went through the base model.
        facts: What else the curve should show of this step.
    """

    losses: Mapping[str, float]
    grad_norm: float
    tokens: int
    facts: Mapping[str, float]


def make_optimizers(
    model: nn.Module, run: Schedule, no_matrices: Sequence[str] = (), decayed: Sequence[str] = ()
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) on weight matrices, where there are any, AdamW on all else.

    A matrix with a word of `no_matrices` in its name counts as all else: embeddings, gates and keys don't stand
    between two activations, which is what Muon is for. Of all else, what has a word of `decayed` in its name decays.
    """
    matrices: list[nn.Parameter] = []
    shrinking: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and not any(part in name for part in no_matrices):
            matrices.append(parameter)
        else:
            (shrinking if any(part in name for part in decayed) else others).append(parameter)
    groups = [{"params": shrinking, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=run.adam_lr, betas=(0.9, 0.98))
    if not matrices:
        return [adam]
    return [Muon(matrices, run.muon_lr, run.weight_decay), adam]


def write_row(out: Path, row: Mapping[str, object]) -> None:
    """Append a line to a run's curve and show it."""
    line = json.dumps(row)
    print(line, flush=True)
    with (out / "curve.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def device_name(device: torch.device) -> str:
    """The accelerator's or the processor's name, for the card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({os.cpu_count()} cores)"


def make_accelerator(device: str) -> Accelerator:
    """One process, or this process's part of several."""
    # Not every parameter is reached by every mixture, and DDP must know.
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[kwargs])


class TrainingLoop:
    """One run. A subclass makes model and optimizers, then calls `prepare`; and it knows a step and the probe."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]

    def __init__(self, schedule: Schedule, out: Path, device: str, dtype: torch.dtype) -> None:
        self.accelerator = make_accelerator(device)
        self.schedule, self.out, self.dtype = schedule, out, str(dtype).removeprefix("torch.")
        self.step, self.seconds, self.peak = 0, 0.0, 0.0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def trained(self) -> nn.Module:
        """The module whose weights are what the run is for."""
        raise NotImplementedError

    def train_step(self) -> StepResult:
        """One optimizer step."""
        raise NotImplementedError

    def probe(self) -> dict[str, object]:
        """Held-out figures."""
        raise NotImplementedError

    def begin(self, first: int, last: int) -> None:
        """Called before the first of the steps first … last - 1."""

    def extra_state(self) -> dict[str, Any]:
        """What else must be kept for the next step to be the same."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave."""

    def prepare(self) -> None:
        """Go on from the checkpoint if there is one, and wrap model and optimizers for several processes."""
        self._resume()
        self.wrapped, *self.wrapped_optimizers = self.accelerator.prepare(self.model, *self.optimizers)

    @property
    def checkpoint(self) -> Path:
        """The newest whole state."""
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Write the whole state atomically (main process only)."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "hypernetwork": self.trained.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **self.extra_state(),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint, self.device)
        self.trained.load_state_dict(state["hypernetwork"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.restore(state)
        self.log({"event": "resumed", "step": self.step})

    def log(self, row: Mapping[str, object]) -> None:
        """Append a line to the curve and show it."""
        if self.accelerator.is_main_process:
            write_row(self.out, row)

    def set_rates(self) -> None:
        """Learning rates of this step."""
        factor = self.schedule.lr_factor(self.step)
        for optimizer in self.optimizers:
            rate = self.schedule.muon_lr if isinstance(optimizer, Muon) else self.schedule.adam_lr
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def descend(self, loss: torch.Tensor) -> torch.Tensor:
        """Backward, clip, step; the gradient's norm before clipping."""
        self.accelerator.backward(loss)
        norm: torch.Tensor = self.accelerator.clip_grad_norm_(self.trained.parameters(), self.schedule.clip)
        for optimizer in self.wrapped_optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return norm

    def _one_step(self) -> None:
        """A step, timed and logged; every `probe_every`-th one with its operations and share of the matmul peak."""
        weighed = self.step % self.schedule.probe_every == 1
        began = time.monotonic()
        self.set_rates()
        with count_flops(enabled=weighed) as flops:
            result = self.train_step()
        elapsed = time.monotonic() - began
        self.step, self.seconds = self.step + 1, self.seconds + elapsed
        row: dict[str, object] = {"step": self.step, "seconds": round(self.seconds, 1)}
        figures = {**result.losses, "grad_norm": result.grad_norm, **result.facts}
        row |= {name: round(value, 4) for name, value in figures.items()}
        row["tokens_per_second"] = round(result.tokens / elapsed, 1)
        if weighed:
            row["tflop"] = round(flops.total() / 1e12, 3)
            row["matmul_share"] = round(flops.total() / elapsed / self.peak, 3)
        self.log(row)

    def train(self, stop_at: int = 0) -> None:
        """Run to the last step, or to `stop_at`, from where the same command without it goes on."""
        run = self.schedule
        last = min(run.steps, stop_at or run.steps)
        self.peak = matmul_peak(self.device, getattr(torch, self.dtype))
        self.log(
            {
                "event": "environment",
                "device": device_name(self.device),
                "dtype": self.dtype,
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "matmul_gflops": round(self.peak / 1e9, 1),
            }
        )
        self.begin(self.step, last)
        while self.step < last:
            self._one_step()
            if self.step % run.save_every == 0 or self.step == last:
                self.save()
            if self.step % run.probe_every == 0 or self.step == run.steps:
                self.log(self.probe())
