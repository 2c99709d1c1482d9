"""Training the factors that learning examples begins with, on a tiny model: the descent, its slope, SIGKILL."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.errors import LocalHyperError  # noqa: E402
from localhyper.example_descent import Descent, Shown  # noqa: E402
from localhyper.export import add_initial  # noqa: E402
from localhyper.export import start as start_training  # noqa: E402
from localhyper.export.initial_objectives import VisitBatch  # noqa: E402
from localhyper.export.initial_train import InitialRun  # noqa: E402
from localhyper.export.task_batches import Rows  # noqa: E402
from localhyper.export.task_config import load_task_recipe  # noqa: E402
from localhyper.export.task_onnx import export_task_run  # noqa: E402
from localhyper.export.text_to_lora import LoraPair  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.initial_factors import InitialFactors, make_initial  # noqa: E402
from localhyper.lora import LoraTarget, LoraWeights  # noqa: E402
from localhyper.upper_blocks import UpperBlocks  # noqa: E402
from localhyper.upper_weights import read_upper  # noqa: E402
from tests.parity.task_ground import SPEC, recipe_text, write_ground, write_random_task  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    check_a_killed_run_goes_on,
    curve,
    load_state,
    refused_with,
    run_as_two_and_as_one,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

STEPS, SAVE_EVERY = 18, 3
TABLE = """
[initial]
shots = [2, 3]
asked = 2
rate = 20.0
joint = {joint}
inner = {inner}
blank = {blank}
"""
RECIPES: dict[str, dict[str, Any]] = {
    "recipe": {"joint": 5},
    "short": {"steps": 3, "joint": 1, "probe_every": 3},
    "long": {"steps": 60, "joint": 60},
    "pair": {"steps": 1, "tasks": 2},
    "single": {"steps": 1, "tasks": 4},
    "whole": {"inner": 0},
}


def initial_recipe(
    *,
    steps: int = STEPS,
    tasks: int = 2,
    joint: int = 0,
    inner: int = 3,
    blank: float = 0.0,
    probe_every: int = 1000,
) -> str:
    text = recipe_text("initial", steps=steps, tasks=tasks, meaningless=0, probe_every=probe_every)
    return text.replace("dropped = 0.1", "own_system = false") + TABLE.format(joint=joint, inner=inner, blank=blank)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, tasks, recipes, and a task hypernetwork whose heads are random."""
    folder: Path = tmp_path_factory.mktemp("initial")
    write_ground(folder)
    for name, options in RECIPES.items():
        (folder / f"{name}.toml").write_text(initial_recipe(**options), encoding="utf-8")
    write_random_task(folder, "recipe.toml")
    return folder


def arguments(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / f"{recipe}.toml"), "--base", str(ground / "base.gguf"), "--data", str(ground)]
    given = ["--task-bundle", str(ground / "task.pt"), "--out", str(out)]
    return [*where, *given, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def run(ground: Path, recipe: str, out: Path) -> InitialRun:
    out.mkdir()
    given = ground / "base.gguf", ground, out, "cpu", torch.float32, None, ground / "task.pt"
    return InitialRun(load_task_recipe(ground / f"{recipe}.toml"), *given)


def stirred(made: InitialRun, rates: float = 0.02) -> None:
    """Factors and rates that are neither zeros nor alike."""
    torch.manual_seed(1)
    for name, parameter in made.trained.named_parameters():
        torch.nn.init.normal_(parameter, std=rates if name.startswith("rates") else 0.1)


def of_task(pairs: dict[str, LoraPair], index: int, start: int) -> LoraWeights:
    """A task's pairs as the runtime has them."""

    def target(pair: LoraPair) -> LoraTarget:
        a, b = (half[index].detach().numpy() for half in pair)
        return LoraTarget(tuple(range(start, start + len(a))), a, b)

    return LoraWeights({name: target(pair) for name, pair in pairs.items()})


def as_shown(rows: Rows, states: Any, index: int, of_each: int) -> list[Shown]:
    """A task's rows as the runtime meets them."""
    found = []
    for row in range(index * of_each, (index + 1) * of_each):
        places = (rows.places[rows.row_of == row] - row * rows.ids.shape[1]).numpy()
        wanted = rows.gold[rows.row_of == row].numpy()
        found.append(Shown(states[row, : places[-1] + 1].numpy().copy(), int(places[0]), wanted))
    return found


def test_what_is_learnt_is_what_the_runtime_learns(ground: Path, tmp_path: Path) -> None:
    """The whole descent, eight steps from given factors, for each task of a batch."""
    made = run(ground, "whole", tmp_path / "run")
    stirred(made, rates=0)
    assert made.inner == made.trained.descent.steps == 8
    batch = made._visits(made.drawer, 4, made.inner, blurred=False)
    assert batch.shown is not None
    given, initial = made.model.given(batch), made.trained
    states = made.model._visit(batch.shown, batch.tasks, given).states
    learnt = made.model.learnt(batch, given, made.inner)
    begun = of_task(
        {name: LoraPair(*(half[None] for half in pair)) for name, pair in initial.pairs().items()}, 0, initial.start
    )
    for task in range(batch.tasks):
        described = LoraWeights(
            {
                name: LoraTarget(
                    tuple(range(SPEC.blocks)),
                    np.stack([given[block][name].a[task].numpy() for block in range(SPEC.blocks)]),
                    np.stack([given[block][name].b[task].numpy() for block in range(SPEC.blocks)]),
                )
                for name in made.core.config.modules
            }
        )
        upper = UpperBlocks(read_upper(ground / "base.gguf", initial.start).with_adapter(described))
        shown = as_shown(batch.shown, states, task, len(batch.shown.ids) // batch.tasks)
        descent = Descent(upper, shown, initial.descent, InitialFactors(begun))
        for group in descent.plan:
            descent.step(group)
        want, got = descent.weights().targets, of_task(dict(learnt), task, initial.start).targets
        for name, target in want.items():
            moved = np.abs(target.b - begun.targets[name].b).max()
            assert moved > 5e-3, "it learns"
            np.testing.assert_allclose(got[name].a, target.a, atol=0.03 * moved)
            np.testing.assert_allclose(got[name].b, target.b, atol=0.03 * moved)


def test_the_slope_is_that_of_the_loss_where_the_descent_ends(ground: Path, tmp_path: Path) -> None:
    """Of factors: as if they moved the end as they move the beginning. Of rates: as if the path stayed the same."""
    made = run(ground, "recipe", tmp_path / "run")
    stirred(made)
    batch = made._visits(made.drawer, 4, 3, blurred=False)
    given = made.model.given(batch)
    total, loss = made.model(batch, 3)
    torch.autograd.backward(total)
    ended = {name: pair for name, pair in made.model.learnt(batch, given, 3).items()}
    begun = made.trained.pairs()

    def loss_of(name: str, change: Any, side: int) -> float:
        halves = list(ended[name])
        halves[side] = halves[side] + change
        return made.model.measure(batch, given, {**ended, name: LoraPair(*halves)})[0]

    assert abs(loss_of("ffn_up", torch.zeros(()), 0) - float(loss)) < 1e-5
    for name, side in (("ffn_up", 0), ("attn_q", 1), ("ffn_down", 1)):
        factor = (made.trained.a, made.trained.b)[side][name]
        assert factor.grad is not None
        change = 1e-2 * factor.grad / factor.grad.norm()
        slope = (loss_of(name, change, side) - loss_of(name, -change, side)) / 2e-2
        assert abs(slope - float(factor.grad.norm())) < 0.03 * slope, (name, side)
        moved = (ended[name][side] - begun[name][side]).detach()
        rate = made.trained.rates[name].grad
        assert rate is not None
        block = torch.zeros_like(moved)
        block[:, 1] = moved[:, 1]
        by_rate = (loss_of(name, 0.05 * block, side) - loss_of(name, -0.05 * block, side)) / 0.1
        assert abs(by_rate * made.trained.rate_scale - float(rate[side, 1])) < 0.05 * abs(float(rate[side, 1])) + 1e-4


def test_what_is_asked_is_never_shown(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "recipe", tmp_path / "run")
    counts = set()
    for step in range(12):
        batch = made._visits(made.drawer, step, 3, blurred=True)
        assert batch.shown is not None
        for task in range(batch.tasks):
            shots, asked = len(batch.shown.ids) // batch.tasks, len(batch.asked.ids) // batch.tasks
            shown = {tuple(row.tolist()) for row in batch.shown.ids[task * shots : (task + 1) * shots]}
            apart = {tuple(row.tolist()) for row in batch.asked.ids[task * asked : (task + 1) * asked]}
            assert not shown & apart and len(shown) == shots and len(apart) == asked == 2
            counts.add(shots)
        for rows in (batch.shown, batch.asked):
            sums = torch.zeros(batch.tasks).index_add_(0, rows.row_of // (len(rows.ids) // batch.tasks), rows.weights)
            torch.testing.assert_close(sums, torch.ones(batch.tasks))
    assert counts == {2, 3}
    assert made._visits(made.drawer, 0, 0, blurred=True).shown is None, "nothing is shown where nothing is learnt"


def test_descriptions_that_are_left_out_give_nothing(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "recipe", tmp_path / "run")
    made.recipe = replace(made.recipe, initial=replace(made.recipe.initial, blank=1.0))
    batch = made._visits(made.drawer, 0, 3, blurred=True)
    assert not any(lora.b.any() for block in made.model.given(batch).values() for lora in block.values())
    made.recipe = replace(made.recipe, initial=replace(made.recipe.initial, blank=0.0))
    kept = made._visits(made.drawer, 0, 3, blurred=True)
    assert all(lora.b.any() for block in made.model.given(kept).values() for lora in block.values())


def held_loss(made: InitialRun, batches: list[VisitBatch]) -> float:
    return sum(float(made.model(batch, 0)[1]) for batch in batches)


def test_only_the_factors_learn_and_they_help_what_they_were_not_trained_on(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "long", tmp_path / "run")
    batches = [made._visits(made.held, step, 0, blurred=False) for step in range(3)]
    before = held_loss(made, batches)
    made.train()
    assert held_loss(made, batches) < 0.9 * before
    begin = torch.load(ground / "task.pt", weights_only=True)["hypernetwork"]
    assert all(torch.equal(made.core.hypernetwork.state_dict()[name], value.float()) for name, value in begin.items())
    state = load_state(tmp_path / "run")["hypernetwork"]
    assert {name.partition(".")[0] for name in state} == {"a", "b", "rates"}


def test_a_run_goes_into_the_bundle_it_was_trained_beside(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    made = run(ground, "short", out)
    made.train()
    stirred(made)
    made.save()
    probe = next(row for row in curve(out) if row.get("event") == "probe")
    assert {"described", "begun", "learnt", "from_random"} <= probe.keys() and probe["learnt"]["nats"] > 0
    bundle, both = write_bundle(ground, tmp_path), tmp_path / "both.onnx"
    recipe = str(ground / "short.toml")
    assert add_initial.main([str(bundle), str(out), "--recipe", recipe, "--out", str(both)]) == 0
    plain, net = OnnxHypernetwork.load(bundle, threads=1), OnnxHypernetwork.load(both, threads=1)
    found = net.initial()
    assert plain.initial() is None and found is not None
    assert found.start == made.trained.start == 2 and net.info.card["initial"]["steps"] == 3  # type: ignore[index]
    said: Any = net.info.card["initial"]
    assert said["data"] == {"tasks": ["tasks.jsonl"], "training_tasks": 9, "held_out": 3}
    assert said["visits"] == {"a_step": 2, "shots": [2, 3], "asked": 2} and said["joint_steps"] == 1
    assert said["beside"] == ground.name, "the folder of the checkpoint"
    for name, pair in made.trained.pairs().items():
        target = found.weights.targets[name]
        for side, wanted in ((target.a, pair.a), (target.b, pair.b)):
            want = wanted.detach().numpy()
            assert np.abs(side - want).max() <= np.abs(want).max() / 200, "rounded to eight bits"
    again = tmp_path / "again.onnx"
    assert add_initial.main([str(both), str(out), "--recipe", recipe, "--out", str(again)]) == 0
    assert again.read_bytes() == both.read_bytes(), "those that are there are replaced"


def write_bundle(ground: Path, folder: Path) -> Path:
    """A bundle of the random task hypernetwork."""
    made, bundle = folder / "sft", folder / "bundle.onnx"
    made.mkdir()
    recipe = folder / "sft.toml"
    recipe.write_text(recipe_text("sft"), encoding="utf-8")
    shutil.copy(ground / "task.pt", made / "checkpoint.pt")
    (made / "curve.jsonl").write_text('{"event": "environment", "device": "none"}\n', encoding="utf-8")
    export_task_run(load_task_recipe(recipe), made, ground / "base.gguf", bundle)
    return bundle


def test_what_does_not_go_together_is_one_clear_line(ground: Path, tmp_path: Path, capsys: Any) -> None:
    bundle, out = write_bundle(ground, tmp_path), tmp_path / "out.onnx"
    for run_folder, recipe in ((tmp_path / "sft", tmp_path / "sft.toml"), (tmp_path / "none", ground / "short.toml")):
        with pytest.raises(SystemExit) as ended:
            add_initial.main([str(bundle), str(run_folder), "--recipe", str(recipe), "--out", str(out)])
        said = capsys.readouterr().err
        assert ended.value.code and ("no factors to begin with" in said or "no checkpoint.pt" in said)
    assert not out.exists()
    arguments_without = [word for word in arguments(ground, "short", tmp_path / "run") if "task" not in word]
    with pytest.raises(SystemExit) as ended:
        start_training.main(arguments_without)
    assert ended.value.code and "give --task-bundle BUNDLE" in capsys.readouterr().err


def test_a_bundle_with_broken_factors_is_refused(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(ground, "short", out).train()
    bundle, both = write_bundle(ground, tmp_path), tmp_path / "both.onnx"
    add_initial.add_initial(bundle, out, ground / "short.toml", both)
    model = onnx.load(both)
    kept = [value for value in model.graph.output if value.name != "initial_b.attn_q"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    both.write_bytes(model.SerializeToString())
    with pytest.raises(LocalHyperError, match="need initial_a and initial_b"):
        OnnxHypernetwork.load(both, threads=1).initial()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("shots", "[3]", "initial.shots must be two ascending"), ("shots", "[4, 3]", "must be two ascending numbers"),
     ("shots", "[2, 30]", "task has 32 instances that are padded to 64 tokens"),
     ("asked", "0", "initial.asked must be 1 or more"), ("blank", "1.5", "initial.blank must be from 0 to 1"),
     ("joint", "-1", "must not be negative")],
)  # fmt: skip
def test_a_recipe_out_of_range_is_one_clear_line(
    ground: Path, tmp_path: Path, key: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(ground, "short", tmp_path / "run")[1:]
    assert said in refused_with(key, value, ground / "short.toml", given, tmp_path, capsys)


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    check_a_killed_run_goes_on(start, partial(arguments, ground, "recipe"), tmp_path, SAVE_EVERY, STEPS)


@pytest.mark.slow
def test_two_processes_do_the_step_of_one(ground: Path, tmp_path: Path, start: Start) -> None:
    run_as_two_and_as_one(start, partial(arguments, ground), tmp_path)


def test_arrays_of_a_run_are_what_the_runtime_takes(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(ground, "short", out).train()
    arrays, facts = add_initial.trained_factors(out, load_task_recipe(ground / "short.toml"))
    assert make_initial(arrays, SPEC.blocks).rank == 8 and facts["steps"] == 3
