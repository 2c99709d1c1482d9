"""What tests of task runs train on: a tiny base model, invented tasks, a plain text, a recipe."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.tiny_gguf import TinySpec, write_tiny_gguf

SPEC = TinySpec(blocks=4, hidden=32, ffn=48, heads=4, heads_kv=2)
HOLDOUT = 4
TASKS = 12
RECIPE = """
name = "tiny-task"

[task]
way = "{way}"

[hypernetwork]
hidden = 32
ffn = 48
keys = 16
blocks = 4
taps = [1, 3]
rank = 2
width = 16
queries = 2
heads = 2
latent = 16
head_input = 8
max_tokens = 64
z_scored = {z_scored}

[data]
tasks = ["tasks.jsonl"]
texts = ["text.txt"]
holdout = 4
buckets = [64, 96, 160]
dropped = 0.1

[loss]
meaningless = 0.1

[loras]
count = 5
together = 3
steps = 4
rows = 2
save_every = 2

[run]
steps = {steps}
tasks = {tasks}
rows = 2
meaningless = {meaningless}
dropout = 0.1
noise = 0.1
weight_decay = 0.01
save_every = 3
probe_every = {probe_every}
probe_batches = 1
"""


def recipe_text(
    way: str = "sft", *, steps: int = 6, tasks: int = 4, meaningless: int = 1, probe_every: int = 1000
) -> str:
    """A recipe for the tiny base model."""
    z_scored = str(way == "reconstruction").lower()
    return RECIPE.format(
        way=way, z_scored=z_scored, steps=steps, tasks=tasks, meaningless=meaningless, probe_every=probe_every
    )


def write_tasks(path: Path, *, tasks: int = TASKS, instances: int = 20) -> None:
    """A task file in the schema of the shared data, invented."""
    rng = random.Random(0)
    rows = [
        {
            "task": f"t{number}",
            "name": f"task{number}",
            "definition": f"Say the {number}th thing.",
            "descriptions": [f"Your job has the number {number}, way {way}" for way in range(4)],
            "eval_descriptions": [f"Never seen: {number}."],
            "instances": [
                {"input": f"in {i} {'x' * rng.randint(1, 60)}", "output": f"out{number}"} for i in range(instances)
            ],
        }
        for number in range(tasks)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_ground(folder: Path) -> None:
    """`base.gguf`, `tasks.jsonl` and `text.txt`."""
    write_tiny_gguf(folder / "base.gguf", SPEC)
    write_tasks(folder / "tasks.jsonl")
    text = " ".join(f"Boat number {i} came home at dawn." for i in range(80))
    (folder / "text.txt").write_text(text, encoding="utf-8")


def write_random_task(folder: Path, recipe: str) -> Path:
    """`task.pt`, a task hypernetwork of a recipe's sizes whose heads and offsets are random."""
    import torch

    from localhyper.export.task_config import load_task_recipe
    from localhyper.export.task_hypernetwork import TaskHypernetwork
    from localhyper.export.task_weights import packed

    torch.manual_seed(0)
    task = TaskHypernetwork(load_task_recipe(folder / recipe).hypernetwork)
    for parameter in (*task.heads.parameters(), *task.offsets.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    path = folder / "task.pt"
    path.write_bytes(packed(task.state_dict()))
    return path
