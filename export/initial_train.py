"""Training the factors that learning a task's examples begins with: `localhyper train RECIPE … --task-bundle BUNDLE`.

Model-agnostic meta-learning of first order (Finn et al. 2017, arXiv 1703.03400), with a rate of each matrix (Meta-SGD,
Li et al. 2017, arXiv 1707.09835): a task is visited, a few of its examples are learnt as the runtime learns them, and
the gradient of the loss of others of its instances, where the descent ended, moves what it began with. A given task
hypernetwork makes the adapter of the description and stays as it is.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from localhyper.errors import ConfigError
from localhyper.example_descent import DescentSettings
from localhyper.export.given_weights import read_given_task, run_name, take_given
from localhyper.export.initial_objectives import VisitBatch, Visits, evened
from localhyper.export.inner_descent import InitialFactors, Pairs
from localhyper.export.task_batches import Rows
from localhyper.export.task_data import Drawn, TaskDrawer
from localhyper.export.task_objectives import TaskModel
from localhyper.export.task_train import TaskRun
from localhyper.export.training_loop import StepResult


class InitialRun(TaskRun):
    """A run over tasks whose examples are learnt."""

    model: Visits

    def _read(self, base_path: Path, data: Path) -> None:
        """Tasks as ever; what is asked must not be among what is shown."""
        super()._read(base_path, data)
        wanted = self.recipe.initial.shots[1] + self.recipe.initial.asked
        for drawer in (self.drawer, self.held):
            if widths := drawer.lacking(wanted):
                raise ConfigError(
                    f"no {drawer.split} task has {wanted} instances that are padded to {widths[0]} tokens",
                    "set fewer initial.shots, or other data.buckets",
                )

    def wrap(self, core: TaskModel, source: Path | None) -> nn.Module:
        """The factors beside a hypernetwork that stays."""
        if source is None:
            raise ConfigError("the way 'initial' learns beside descriptions", "give --task-bundle BUNDLE")
        take_given(core.hypernetwork, source, read_given_task(source, self.device)["hypernetwork"])
        self.log({"event": "descriptions", "bundle": run_name(source)})
        settings = DescentSettings()
        self.inner = self.recipe.initial.inner or settings.steps
        factors = InitialFactors(self.recipe.hypernetwork, settings, self.recipe.initial.rate)
        return Visits(core, factors).to(self.device)

    @property
    def trained(self) -> InitialFactors:  # type: ignore[override]
        """The factors."""
        return self.model.initial

    def steps_of(self, step: int) -> int:
        """Steps of descent of the visits of a step."""
        return 0 if step < self.recipe.initial.joint else self.inner

    def _train_batch(self, step: int) -> VisitBatch:  # type: ignore[override]
        at = self.batches
        return self._visits(self.drawer, step, self.steps_of(step), at.process, at.processes, blurred=True)

    def _visits(
        self, drawer: TaskDrawer, step: int, steps: int, process: int = 0, processes: int = 1, *, blurred: bool
    ) -> VisitBatch:
        """The visits of a step, a function of it alone."""
        cfg, count = self.recipe.initial, self.recipe.run.tasks
        rng = random.Random(f"{self.recipe.run.seed}/{drawer.split}/shots/{step}")
        shots = rng.randint(*cfg.shots) if steps else 0
        width, drawn = drawer.draw(step, count, shots + cfg.asked, process, processes)
        keep = [float(not blurred or random.Random(f"{one.key}/blank").random() >= cfg.blank) for one in drawn]
        asked = [replace(one, rows=one.rows[shots:]) for one in drawn]
        return VisitBatch(
            self.batches.described(drawn, blurred=blurred),
            torch.tensor(keep),
            self._evened([replace(one, rows=one.rows[:shots]) for one in drawn], width) if shots else None,
            self._evened(asked, width),
            len(drawn),
        )

    def _evened(self, drawn: list[Drawn], width: int) -> Rows:
        return evened(self.batches.rows(drawn, width), len(drawn))

    def train_step(self) -> StepResult:
        """One optimizer step."""
        steps = self.steps_of(self.step)
        batch: VisitBatch = next(self._coming)  # type: ignore[assignment]
        batch = batch.to(self.device)
        total, loss = self.wrapped(batch, steps)
        norm = self.descend(total)
        found, size = self.accelerator.reduce(torch.stack((loss, norm.float())), "mean").tolist()
        rows, width = batch.asked.ids.shape
        shown = len(batch.shown.ids) if batch.shown is not None else 0
        tokens = (rows + steps * shown) * width * self.accelerator.num_processes
        facts = {"width": width, "shots": shown / batch.tasks}
        return StepResult({"answer": found}, size, tokens, facts)

    def probe(self) -> dict[str, object]:
        """Held-out tasks by unseen descriptions: as described, learnt from these factors, and from random ones."""
        torch.manual_seed(self.recipe.run.seed)
        random_ones = InitialFactors(self.recipe.hypernetwork, self.trained.descent).to(self.device)
        from_random = Visits(self.core, random_ones)
        sums = dict.fromkeys(("described", "begun", "learnt", "from_random"), (0.0, 0.0))
        count = self.recipe.run.probe_batches
        for index in range(count):
            batch = self._visits(self.held, index, self.inner, blurred=False).to(self.device)
            given = self.model.given(batch)
            ways: dict[str, Pairs] = {
                "described": {},
                "begun": self.model.learnt(batch, given, 0),
                "learnt": self.model.learnt(batch, given, self.inner),
                "from_random": from_random.learnt(batch, given, self.inner),
            }
            for name, pairs in ways.items():
                found = self.model.measure(batch, given, pairs)
                sums[name] = sums[name][0] + found[0] / count, sums[name][1] + found[1] / count
        rounded = {name: {"nats": round(nats, 4), "exact": round(exact, 4)} for name, (nats, exact) in sums.items()}
        return {"event": "probe", "step": self.step, **rounded}
