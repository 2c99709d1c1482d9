"""Training a task hypernetwork: `localhyper train RECIPE …`, for a recipe with a `[task]` table.

Runs as it is under `accelerate launch -m localhyper.export.task_train`. Stops and goes on as `training_loop` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from localhyper.errors import ConfigError
from localhyper.export.data_files import hold_out
from localhyper.export.given_weights import read_given_task, run_name
from localhyper.export.prefetch import prefetch
from localhyper.export.prompts import read_prompt_format
from localhyper.export.run_options import add_run_options, add_stop_option, chosen_dtype, run_command
from localhyper.export.task_batches import TaskBatch, TaskBatchMaker
from localhyper.export.task_config import TaskRecipe, load_task_recipe
from localhyper.export.task_data import RowMaker, TaskDrawer, meaningless_descriptions, read_tasks
from localhyper.export.task_hypernetwork import LoraBank, TaskConfig, TaskHypernetwork
from localhyper.export.task_objectives import TaskModel, count_weights, probe_tasks
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import BaseShape, TorchBase
from localhyper.export.training_loop import StepResult, TrainingLoop, make_optimizers

NO_MATRICES = ("heads", "depth", "kind", "queries")
DECAYED = ("heads",)
SOURCES = {
    "loras": "reconstruction",
    "documents": "beside",
    "task_bundle": "initial",
}  # options that name what a way learns from


def check_sizes(config: TaskConfig, shape: BaseShape) -> None:
    """Refuse a recipe for another base model.

    Raises:
        ConfigError: A size differs.
    """
    for key, wanted in (("hidden", shape.hidden), ("ffn", shape.ffn), ("keys", shape.keys), ("blocks", shape.blocks)):
        if getattr(config, key) != wanted:
            raise ConfigError(
                f"recipe key hypernetwork.{key} is {getattr(config, key)}, the base model has {wanted}",
                "name the base model that the recipe is for",
            )


class TaskRun(TrainingLoop):
    """One run over tasks."""

    def __init__(
        self,
        recipe: TaskRecipe,
        base_path: Path,
        data: Path,
        out: Path,
        device: str,
        dtype: torch.dtype,
        init: Path | None = None,
        source: Path | None = None,
    ) -> None:
        """Read everything; `source` is what some ways learn from, a folder or file of theirs."""
        super().__init__(recipe.run, out, device, dtype)
        self.recipe = recipe
        base = TorchBase(base_path, dtype)
        check_sizes(recipe.hypernetwork, base.shape)
        self._read(base_path, data)
        torch.manual_seed(recipe.run.seed)
        made = LoraBank if recipe.task.way == "multitask" else TaskHypernetwork
        self.core = TaskModel(base, made(recipe.hypernetwork), len(self.batches.prefix)).to(self.device)
        self.model = self.wrap(self.core, source)
        self.optimizers = make_optimizers(self.model, recipe.run, NO_MATRICES, DECAYED)
        if not self.checkpoint.exists():
            self._start_from(init) if init is not None else self._start_anew()
        self.prepare()

    def _read(self, base_path: Path, data: Path) -> None:
        """Tasks, those held out, and descriptions of no task."""
        recipe, cfg = self.recipe, self.recipe.data
        prompts = read_prompt_format(base_path, recipe.chunk_prefix, own_system=cfg.own_system)
        self.row_maker = maker = RowMaker(
            load_tokenizer(base_path), prompts, recipe.hypernetwork.max_tokens, cfg, shown=recipe.task.way == "examples"
        )
        train, held = hold_out(read_tasks([data / name for name in cfg.tasks], maker), cfg.holdout)
        self.drawer = TaskDrawer(train, cfg, recipe.run.seed, "train", unseen=False)
        self.held = TaskDrawer(held, cfg, recipe.run.seed, "held", unseen=True)
        empty = meaningless_descriptions([data / name for name in cfg.texts], maker, recipe.run.seed)
        place = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = TaskBatchMaker(recipe, maker.prefix, empty, *place)
        counts = {"train": len(train), "held": len(held), "rows": sum(len(task.rows) for task in train)}
        self.log({"event": "tasks", **counts})

    def wrap(self, core: TaskModel, source: Path | None) -> nn.Module:
        """The module that a step calls."""
        return core

    @property
    def trained(self) -> TaskHypernetwork | LoraBank:
        """The hypernetwork, or what stands in its place."""
        return self.core.hypernetwork

    def _start_anew(self) -> None:
        """There are no weights to begin with."""

    def _start_from(self, path: Path) -> None:
        """Weights of an earlier run of the same sizes, or of a bundle.

        Raises:
            ConfigError: No checkpoint, or one of another hypernetwork.
        """
        state = read_given_task(path, self.device)
        given, own = state["hypernetwork"], self.trained.state_dict()
        strange = sorted(set(given) ^ set(own)) + [k for k in given if k in own and own[k].shape != given[k].shape]
        if strange:
            raise ConfigError(f"checkpoint {path} has {strange[0]}, which does not fit this recipe's hypernetwork")
        self.trained.load_state_dict(given)
        self.log({"event": "started from", "run": run_name(path), "step": state["step"]})

    def begin(self, first: int, last: int) -> None:
        """Have the batches of these steps made."""
        self._coming: Iterator[TaskBatch] = prefetch(self._train_batch, first, last, self.recipe.run.workers)

    def _train_batch(self, step: int) -> TaskBatch:
        return self.batches.train(self.drawer, step)

    def train_step(self) -> StepResult:
        """One optimizer step."""
        batch = next(self._coming)
        tokens = batch.tokens
        batch = batch.to(self.device)
        counts = self.accelerator.reduce(count_weights(batch), "mean")
        losses = self.wrapped(batch, self.recipe.loss.meaningless, counts)
        norm = self.descend(losses.total)
        figures = torch.stack((losses.answer, losses.meaningless, norm.float()))
        answer, meaningless, size = self.accelerator.reduce(figures, "mean").tolist()
        seen = tokens * self.accelerator.num_processes
        return StepResult(
            {"answer": answer, "meaningless": meaningless}, size, seen, {"width": batch.rows.ids.shape[1]}
        )

    def probe(self) -> dict[str, object]:
        """Figures of tasks that are held out, by descriptions never trained with."""
        batches = [self.batches.held(self.held, i).to(self.device) for i in range(self.recipe.run.probe_batches)]
        found = vars(probe_tasks(self.core, batches))
        return {"event": "probe", "step": self.step, "held": {name: round(value, 4) for name, value in found.items()}}


def start(options: argparse.Namespace) -> None:
    """Train as the recipe says.

    Raises:
        LocalHyperError: Recipe, base model or data cannot be used.
    """
    recipe = load_task_recipe(options.recipe)
    dtype = chosen_dtype(options)
    kind = TaskRun
    if recipe.task.way == "reconstruction":
        from localhyper.export.task_reconstruct import ReconstructionRun

        kind = ReconstructionRun
    elif recipe.task.way == "beside":
        from localhyper.export.beside_train import BesideRun

        kind = BesideRun
    elif recipe.task.way == "examples":
        from localhyper.export.example_train import ExamplesRun

        kind = ExamplesRun
    elif recipe.task.way == "initial":
        from localhyper.export.initial_train import InitialRun

        kind = InitialRun
    source = _source(options, recipe.task.way)
    given = recipe, options.base, options.data, options.out, options.device, dtype, options.init, source
    kind(*given).train(options.stop_at)


def _source(options: argparse.Namespace, way: str) -> Path | None:
    """What the way learns from, of the options that name such things.

    Raises:
        ConfigError: One is given that is for another way.
    """
    found: Path | None = None
    for name, owner in SOURCES.items():
        given = getattr(options, name)
        if owner == way:
            found = given
        elif given is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for the way {owner!r}", "leave it out, or set task.way in the recipe"
            )
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line of the training run."""
    parser = argparse.ArgumentParser(prog="localhyper train", description="Train a task hypernetwork")
    add_run_options(parser, "smollm2-135m-task.toml")
    parser.add_argument("--init", type=Path, help="checkpoint.pt of an earlier run, or a bundle, to start from")
    parser.add_argument("--loras", type=Path, help="folder of task_loras, for reconstruction")
    parser.add_argument("--documents", type=Path, help="bundle for documents, for training beside their adapters")
    parser.add_argument(
        "--task-bundle", type=Path, help="bundle for tasks, for factors that learning examples begins with"
    )
    add_stop_option(parser)
    return run_command(parser, argv, start)


if __name__ == "__main__":
    raise SystemExit(main())
