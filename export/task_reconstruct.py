"""Training a task hypernetwork to give back LoRAs that `task_loras` trained: Text-to-LoRA's reconstruction.

Targets are standardised over tasks, number by number. Mean and spread are part of the hypernetwork (`z_scored`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from localhyper.errors import ConfigError
from localhyper.export.lora_files import file_name, read_lora
from localhyper.export.prefetch import prefetch
from localhyper.export.task_batches import Described
from localhyper.export.task_data import Drawn, TaskDrawer
from localhyper.export.task_hypernetwork import TaskConfig, TaskHypernetwork
from localhyper.export.task_objectives import TaskModel
from localhyper.export.task_train import TaskRun
from localhyper.export.text_to_lora import LoraPair
from localhyper.export.training_loop import StepResult

SPREAD_FLOOR = 1e-8  # of numbers that are the same in all LoRAs
FEWEST = 4  # LoRAs whose spread says something


class TargetSet:
    """LoRAs of tasks, standardised: a [tasks, blocks, r, inputs] and b of each module, float16 on the device."""

    def __init__(self, pairs: dict[str, LoraPair]) -> None:
        self.mean = {name: LoraPair(pair.a.mean(0), pair.b.mean(0)) for name, pair in pairs.items()}
        self.spread = {
            name: LoraPair(pair.a.std(0).clamp_min(SPREAD_FLOOR), pair.b.std(0).clamp_min(SPREAD_FLOOR))
            for name, pair in pairs.items()
        }
        self.scores = {name: self._standardised(name, pair) for name, pair in pairs.items()}

    def _standardised(self, name: str, pair: LoraPair) -> LoraPair:
        sides = zip(pair, self.mean[name], self.spread[name], strict=True)
        return LoraPair(*(((value - mean) / spread).half() for value, mean, spread in sides))

    def settle(self, hypernetwork: TaskHypernetwork) -> None:
        """Mean and spread into the hypernetwork."""
        with torch.no_grad():
            for name in self.scores:
                for part, given in ((hypernetwork.offsets, self.mean), (hypernetwork.spread, self.spread)):
                    part.a[name].copy_(given[name].a)
                    part.b[name].copy_(given[name].b)

    def take(self, places: Tensor) -> dict[str, LoraPair]:
        """The targets of some tasks."""
        return {name: LoraPair(pair.a[places], pair.b[places]) for name, pair in self.scores.items()}


def read_targets(folder: Path, names: list[str], config: TaskConfig, device: torch.device) -> TargetSet:
    """The LoRAs of these tasks.

    Raises:
        ConfigError: One cannot be used.
    """
    found = [read_lora(folder / file_name(name), config) for name in names]
    return TargetSet(
        {
            module: LoraPair(
                *(torch.stack([getattr(pairs[module], side) for pairs in found]).to(device) for side in "ab")
            )
            for module in config.modules
        }
    )


class Reconstruction(nn.Module):
    """The hypernetwork and its distance from standardised targets."""

    def __init__(self, core: TaskModel) -> None:
        super().__init__()
        self.core = core

    def forward(self, described: Described, targets: dict[str, LoraPair]) -> tuple[Tensor, Tensor]:
        """Mean squared distance, each module's a and b alike: to minimise, summed over numbers of a block, and to show.

        The mean over millions of numbers has gradients so small that Adam's epsilon would count.
        """
        net = self.core.hypernetwork
        assert isinstance(net, TaskHypernetwork)
        made = net.raw(self.core.encode(described.ids), described.mask, described.jitter)
        squares = [(got - want).square() for name in made for got, want in zip(made[name], targets[name], strict=True)]
        total = torch.stack([part.sum((2, 3)).mean() for part in squares]).sum()
        return total, torch.stack([part.detach().mean() for part in squares]).mean()


class ReconstructionRun(TaskRun):
    """A run whose targets are LoRAs."""

    def wrap(self, core: TaskModel, source: Path | None) -> nn.Module:
        """The LoRAs that are there are the targets; their tasks are drawn, whatever their rows."""
        loras = source
        if loras is None:
            raise ConfigError(
                "reconstruction needs LoRAs", "train them with localhyper.export.task_loras, give --loras"
            )
        there = [task for task in self.drawer.tasks if (loras / file_name(task.name)).is_file()]
        if len(there) < FEWEST:
            raise ConfigError(f"{loras} has {len(there)} LoRAs of the recipe's tasks, at least {FEWEST} are needed")
        cfg, seed = self.recipe.data, self.recipe.run.seed
        self.drawer = TaskDrawer(there, cfg, seed, "targets", unseen=False)
        self.targets = read_targets(loras, [task.name for task in there], self.recipe.hypernetwork, self.device)
        assert isinstance(core.hypernetwork, TaskHypernetwork)
        self.targets.settle(core.hypernetwork)
        self.log({"event": "targets", "loras": len(there)})
        return Reconstruction(core)

    def begin(self, first: int, last: int) -> None:
        """Have the batches of these steps made."""
        self._pairs: Iterator[tuple[Described, Tensor]] = prefetch(
            self._target_batch, first, last, self.recipe.run.workers
        )

    def _target_batch(self, step: int) -> tuple[Described, Tensor]:
        run, at = self.recipe.run, self.batches
        drawn: list[Drawn] = self.drawer.draw_tasks(step, run.tasks, at.process, at.processes)
        return at.described(drawn), torch.tensor([one.task for one in drawn])

    def train_step(self) -> StepResult:
        """One optimizer step."""
        described, places = next(self._pairs)
        tokens = described.ids.numel() * self.accelerator.num_processes
        targets = self.targets.take(places.to(self.device, non_blocking=True))
        total, shown = self.wrapped(described.to(self.device), targets)
        norm = self.descend(total)
        figures = torch.stack((shown, norm.float()))
        distance, size = self.accelerator.reduce(figures, "mean").tolist()
        return StepResult({"distance": distance}, size, tokens, {})
