"""One LoRA for each of many tasks, trained many at a time.

    python -m localhyper.export.task_loras RECIPE --base MODEL.gguf --data DATA --out LORAS
    python -m localhyper.export.task_loras RECIPE … --out DIR --gguf --sets sni/val.jsonl.gz bench/boolq.train.jsonl.gz

The first trains the targets of reconstruction: LoRAs of the recipe's training tasks. The second trains what a task's
own examples can give, the bound that hypernetworks are measured against, from examples that evaluation leaves for
training. All begin with the same a, are clipped one by one and never see each other's gradients: a task's LoRA is the
one it would get alone. Groups that are done are left as they are, a stopped group goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from localhyper.base_header import read_base_info
from localhyper.errors import ConfigError
from localhyper.evaluate.bench_set import BENCHMARKS
from localhyper.evaluate.task_set import read_tasks as read_evaluated
from localhyper.export.checkpoints import read_checkpoint
from localhyper.export.data_files import hold_out
from localhyper.export.lora_files import file_name, write_lora, write_task_adapter
from localhyper.export.prefetch import prefetch
from localhyper.export.prompts import read_prompt_format
from localhyper.export.run_options import add_run_options, chosen_dtype, run_command
from localhyper.export.task_batches import IGNORED, Rows, pad_rows
from localhyper.export.task_config import LoraTraining, TaskRecipe, load_task_recipe
from localhyper.export.task_data import Row, RowMaker, read_tasks
from localhyper.export.task_hypernetwork import LoraBank
from localhyper.export.task_objectives import TaskModel
from localhyper.export.task_train import check_sizes
from localhyper.export.text_to_lora import LoraPair
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase
from localhyper.export.training_loop import write_row


@dataclass(frozen=True)
class Taught:
    """A task by name and what it is trained on."""

    name: str
    rows: tuple[Row, ...]

    @property
    def mean_length(self) -> float:
        """Tokens of a row."""
        return sum(len(row.ids) for row in self.rows) / len(self.rows)


def training_tasks(recipe: TaskRecipe, data: Path, maker: RowMaker) -> list[Taught]:
    """Evenly spaced tasks of the recipe that are not held out."""
    cfg = recipe.data
    train, _ = hold_out(read_tasks([data / name for name in cfg.tasks], maker), cfg.holdout)
    count = min(recipe.loras.count, len(train))
    chosen = [train[index * len(train) // count] for index in range(count)]
    return [Taught(task.name, task.rows) for task in chosen]


def evaluated_tasks(path: Path, maker: RowMaker) -> list[Taught]:
    """What is for training in a file that evaluation reads: a task file, or a benchmark's rows for training.

    Raises:
        ConfigError: The file cannot be used.
    """
    name = path.name.split(".")[0]
    if name in BENCHMARKS and BENCHMARKS[name].shown_from == name:
        found = [(name, [(shot.message, shot.reply) for shot in BENCHMARKS[name].show(path)])]
    else:
        found = [
            (task.name, [(example.input, example.outputs[0]) for example in task.train])
            for task in read_evaluated(path)
        ]
    taught = [Taught(task, maker.rows(pairs)) for task, pairs in found]
    return [task for task in taught if task.rows]


class Group:
    """Tasks that are trained at once."""

    def __init__(self, tasks: Sequence[Taught], recipe: TaskRecipe, base: TorchBase, out: Path, number: int) -> None:
        self.tasks, self.recipe, self.out, self.number = tasks, recipe, out, number
        torch.manual_seed(recipe.run.seed)
        device = base.cos.device
        self.model = TaskModel(base, LoraBank(recipe.hypernetwork, len(tasks)), 0).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.loras.lr, betas=(0.9, 0.98), weight_decay=0
        )
        self.step = 0

    @property
    def bank(self) -> LoraBank:
        """The LoRAs."""
        assert isinstance(self.model.hypernetwork, LoraBank)
        return self.model.hypernetwork

    @property
    def checkpoint(self) -> Path:
        """State of the group that is being trained."""
        return self.out / f"group-{self.number}.pt"

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one of the same tasks."""
        if not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint, self.model.base.cos.device)
        if state["tasks"] == [task.name for task in self.tasks]:
            self.bank.load_state_dict(state["bank"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint atomically."""
        names = [task.name for task in self.tasks]
        state = {"tasks": names, "step": self.step, "bank": self.bank.state_dict()}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, temporary)
        temporary.replace(self.checkpoint)

    def batch(self, step: int) -> Rows:
        """The rows of a step, those of each task beside each other, weighted so that every task counts as one."""
        count, picked = self.recipe.loras.rows, []
        for task in self.tasks:
            rng = random.Random(f"{self.recipe.run.seed}/loras/{task.name}/{step}")
            drawn = rng.sample(task.rows, min(count, len(task.rows)))
            picked += [drawn[index % len(drawn)] for index in range(count)]
        longest = max(len(row.ids) for row in picked)
        width = next(width for width in self.recipe.data.buckets if width >= longest)
        rows = pad_rows(picked, width, self.recipe.loss.length_power)
        task_of = rows.row_of // count
        sums = torch.zeros(len(self.tasks)).index_add_(0, task_of, rows.weights)
        return Rows(rows.ids, rows.places, rows.gold, rows.weights / sums[task_of], rows.row_of)

    def train_step(self, rows: Rows, settings: LoraTraining) -> Tensor:
        """One step of all; the loss of each task, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * settings.lr_factor(self.step)
        logits = self.model.logits(rows, self.model.adapter(self.bank()))
        each = F.cross_entropy(logits, rows.gold, reduction="none", ignore_index=IGNORED) * rows.weights
        torch.autograd.backward(each.sum())
        self._clip(settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        losses = torch.zeros(len(self.tasks), device=each.device)
        return losses.index_add_(0, rows.row_of // settings.rows, each.detach())

    def _clip(self, most: float) -> None:
        """Clip each task's gradient by its own norm."""
        grads = [p.grad for p in self.bank.parameters() if p.grad is not None]
        norms = torch.stack([grad.square().sum((1, 2, 3)) for grad in grads]).sum(0).sqrt()
        factor = (most / (norms + 1e-6)).clamp_max(1.0)[:, None, None, None]
        for grad in grads:
            grad.mul_(factor)

    def pairs(self, index: int) -> dict[str, LoraPair]:
        """One task's LoRA."""
        return {name: LoraPair(pair.a[index], pair.b[index]) for name, pair in self.bank().items()}


def train_group(group: Group, settings: LoraTraining, device: torch.device, workers: int) -> None:
    """Train to the last step, from the checkpoint if there is one."""
    group.resume()
    for rows in prefetch(group.batch, group.step, settings.steps, workers):
        losses = group.train_step(rows.to(device), settings)
        if group.step % 10 == 0 or group.step == settings.steps:
            write_row(group.out, {"group": group.number, "step": group.step, "loss": round(float(losses.mean()), 4)})
        if group.step % settings.save_every == 0:
            group.save()


def groups_of(tasks: Sequence[Taught], together: int) -> list[list[Taught]]:
    """Tasks in order of their rows' lengths, so that little padding is computed."""
    names = [file_name(task.name) for task in tasks]
    if len(set(names)) < len(names):
        raise ConfigError("two tasks have one name", "train them in folders of their own")
    ordered = sorted(tasks, key=lambda task: (task.mean_length, task.name))
    return [ordered[index : index + together] for index in range(0, len(ordered), together)]


def run(options: argparse.Namespace) -> None:
    """Train and write all LoRAs.

    Raises:
        LocalHyperError: Recipe, base model or data cannot be used.
    """
    recipe, device = load_task_recipe(options.recipe), torch.device(options.device)
    base = TorchBase(options.base, chosen_dtype(options))
    check_sizes(recipe.hypernetwork, base.shape)
    base = base.to(device)
    prompts = read_prompt_format(options.base, recipe.chunk_prefix)
    maker = RowMaker(load_tokenizer(options.base), prompts, recipe.hypernetwork.max_tokens, recipe.data)
    if options.sets:
        tasks = [task for name in options.sets for task in evaluated_tasks(options.data / name, maker)]
    else:
        tasks = training_tasks(recipe, options.data, maker)
    suffix, info = ".gguf" if options.gguf else ".safetensors", read_base_info(options.base)
    for number, members in enumerate(groups_of(tasks, recipe.loras.together)):
        if all((options.out / file_name(task.name, suffix)).is_file() for task in members):
            continue
        group = Group(members, recipe, base, options.out, number)
        train_group(group, recipe.loras, device, recipe.run.workers)
        for index, task in enumerate(members):
            pairs = group.pairs(index)
            if options.gguf:
                path = options.out / file_name(task.name, suffix)
                write_task_adapter(path, task.name, pairs, recipe.hypernetwork, info)
            else:
                write_lora(options.out, task.name, pairs)
        group.checkpoint.unlink(missing_ok=True)
        write_row(options.out, {"event": "written", "group": number, "loras": len(members)})


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m localhyper.export.task_loras", description=__doc__.split("\n")[0])
    add_run_options(parser, "smollm2-135m-task-bound.toml")
    parser.add_argument("--sets", nargs="*", default=[], help="files of evaluation, inside --data; else training tasks")
    parser.add_argument("--gguf", action="store_true", help="write adapters for llama.cpp in place of safetensors")
    return run_command(parser, argv, run)


if __name__ == "__main__":
    raise SystemExit(main())
