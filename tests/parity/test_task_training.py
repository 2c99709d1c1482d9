"""Task runs proven on a tiny model: SIGKILL, several processes, objectives, what is held out, LoRAs one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.engine import Activations  # noqa: E402
from localhyper.export import start as start_training  # noqa: E402
from localhyper.export.data_files import hold_out  # noqa: E402
from localhyper.export.lora_files import read_lora  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.task_batches import IGNORED, TaskBatchMaker, pad_rows  # noqa: E402
from localhyper.export.task_config import TaskRecipe, load_task_recipe  # noqa: E402
from localhyper.export.task_data import RowMaker, TaskDrawer, read_tasks  # noqa: E402
from localhyper.export.task_hypernetwork import TaskHypernetwork  # noqa: E402
from localhyper.export.task_loras import Group, Taught  # noqa: E402
from localhyper.export.task_loras import main as train_loras  # noqa: E402
from localhyper.export.task_objectives import TaskModel, part, probe_tasks  # noqa: E402
from localhyper.export.task_onnx import export_task_run  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402
from localhyper.gguf_adapter import read_adapter  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from tests.parity.task_ground import HOLDOUT, TASKS, recipe_text, write_ground  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    check_a_killed_run_goes_on,
    curve,
    finish,
    flat_tensors,
    load_state,
    run_as_two_and_as_one,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

STEPS, SAVE_EVERY = 40, 3
RECIPES: dict[str, dict[str, Any]] = {
    "recipe": {"steps": STEPS},
    "pair": {"steps": 1, "tasks": 2},
    "single": {"steps": 1, "tasks": 4, "meaningless": 2},
    "sft": {"probe_every": 3},
    "multitask": {"way": "multitask"},
    "reconstruction": {"way": "reconstruction", "probe_every": 3},
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, tasks and recipes."""
    folder: Path = tmp_path_factory.mktemp("tasks")
    write_ground(folder)
    for name, options in RECIPES.items():
        (folder / f"{name}.toml").write_text(recipe_text(**options), encoding="utf-8")
    return folder


def arguments(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / f"{recipe}.toml"), "--base", str(ground / "base.gguf"), "--data", str(ground)]
    return [*where, "--out", str(out), "--device", "cpu", "--dtype", "float32", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # accelerate's own, in this process
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    check_a_killed_run_goes_on(start, partial(arguments, ground, "recipe"), tmp_path, SAVE_EVERY, STEPS)


@pytest.mark.slow
def test_two_processes_do_the_step_of_one(ground: Path, tmp_path: Path, start: Start) -> None:
    """Two processes of two tasks each, over gloo, and one process with the same four: loss and gradients."""
    pair, single = run_as_two_and_as_one(start, partial(arguments, ground), tmp_path)
    got, want = (dict(flat_tensors(load_state(out)["optimizers"])) for out in (pair, single))
    moments = [name for name in want if name.endswith(("momentum_buffer", "exp_avg"))]
    assert got.keys() == want.keys() and any(bool(want[name].any()) for name in moments)
    largest = max(float(want[name].abs().max()) for name in moments)
    for name in moments:
        assert torch.allclose(got[name], want[name], rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.filterwarnings("ignore")  # accelerate's own
@pytest.mark.slow
def test_every_way_trains_and_is_exported(ground: Path, tmp_path: Path) -> None:
    """SFT and reconstruction to a bundle that gives torch's matrices, one LoRA for all to an adapter."""
    base = ground / "base.gguf"
    assert train_loras([*arguments(ground, "sft", tmp_path / "loras")]) == 0
    for way, more in (("sft", []), ("multitask", []), ("reconstruction", ["--loras", str(tmp_path / "loras")])):
        assert start_training.main([*arguments(ground, way, tmp_path / way), *more]) == 0
        recipe, out = load_task_recipe(ground / f"{way}.toml"), tmp_path / f"{way}.out"
        export_task_run(recipe, tmp_path / way, base, out)
        if way == "multitask":
            weights, metadata = read_adapter(out)
            assert metadata.rank == 2 and sorted(weights.targets) == sorted(recipe.hypernetwork.modules)
            continue
        info = OnnxHypernetwork.load(out).info
        assert (info.kind, info.capture.taps, info.chunk_tokens) == ("task", (1, 3), 64)
        assert info.card["held_out"]["held"]["aligned"] > 0  # type: ignore[index]
    rows = curve(tmp_path / "reconstruction")
    assert [row for row in rows if row.get("event") == "targets"] == [{"event": "targets", "loras": 5}]


@pytest.fixture(scope="module")
def recipe(ground: Path) -> TaskRecipe:
    return load_task_recipe(ground / "sft.toml")


@pytest.fixture(scope="module")
def maker(ground: Path, recipe: TaskRecipe) -> RowMaker:
    prompts = read_prompt_format(ground / "base.gguf", recipe.chunk_prefix)
    return RowMaker(load_tokenizer(ground / "base.gguf"), prompts, recipe.hypernetwork.max_tokens, recipe.data)


@pytest.fixture(scope="module")
def drawer(ground: Path, recipe: TaskRecipe, maker: RowMaker) -> TaskDrawer:
    return TaskDrawer(read_tasks([ground / "tasks.jsonl"], maker), recipe.data, 0, "train", unseen=False)


@pytest.fixture(scope="module")
def batches(recipe: TaskRecipe, maker: RowMaker) -> TaskBatchMaker:
    return TaskBatchMaker(recipe, maker.prefix, maker.descriptions(["A cow jumped.", "xk jq"]))


@pytest.fixture(scope="module")
def model(ground: Path, recipe: TaskRecipe, batches: TaskBatchMaker) -> TaskModel:
    """A model whose heads are random, so that descriptions matter."""
    torch.manual_seed(0)
    net = TaskHypernetwork(recipe.hypernetwork)
    for head in net.heads.parameters():
        torch.nn.init.normal_(head, std=4.0)
    return TaskModel(TorchBase(ground / "base.gguf"), net, len(batches.prefix))


def test_a_prompt_holds_the_input_and_not_the_description(maker: RowMaker) -> None:
    (row,) = maker.rows([("the input", "the output")])
    text = maker.tokenizer.decode(row.ids.tolist(), skip_special_tokens=False)
    assert text.endswith("<|im_start|>assistant\nthe output<|im_end|>") and "user\nthe input<|im_end|>" in text
    answer = maker.tokenizer.decode(row.ids[row.prompt :].tolist(), skip_special_tokens=False)
    assert answer == "the output<|im_end|>"


def test_long_answers_are_cut_without_an_end_and_long_rows_left_out(maker: RowMaker) -> None:
    (row,) = maker.rows([("a", "y" * 70), ("b" * 200, "no"), ("c", "  ")])
    assert len(row.ids) - row.prompt == maker.data.answer_tokens
    assert "<|im_end|>" not in maker.tokenizer.decode(row.ids[row.prompt :].tolist(), skip_special_tokens=False)


def test_places_are_those_whose_next_token_is_the_answer(maker: RowMaker) -> None:
    rows = maker.rows([("one", "yes"), ("two and three", "no, never")])
    made = pad_rows(rows, 96, 0.5)
    flat = made.ids.flatten()
    real = made.gold != IGNORED
    assert torch.equal(flat[made.places[real] + 1], made.gold[real])
    assert int(real.sum()) == sum(len(row.ids) - row.prompt for row in rows) and len(made.places) % 128 == 0
    for index, row in enumerate(rows):
        of_row = real & (made.row_of == index)
        n = len(row.ids) - row.prompt
        assert int(of_row.sum()) == n
        assert torch.allclose(made.weights[of_row], torch.full((n,), n**-0.5))
    assert not made.weights[~real].any()


def test_a_draw_is_a_function_of_the_step_however_many_processes_there_are(drawer: TaskDrawer) -> None:
    width, all_four = drawer.draw(7, 4, 2)
    halves = [drawer.draw(7, 2, 2, process, 2) for process in range(2)]
    assert {half[0] for half in halves} == {width}
    for one, two in zip(all_four, [drawn for half in halves for drawn in half[1]], strict=True):
        assert (one.task, one.key) == (two.task, two.key) and np.array_equal(one.description, two.description)
        assert all(np.array_equal(a.ids, b.ids) for a, b in zip(one.rows, two.rows, strict=True))
    assert all(len(row.ids) <= width for drawn in all_four for row in drawn.rows)
    assert len({drawn.task for drawn in all_four}) == 4
    assert [drawn.task for drawn in drawer.draw(8, 4, 2)[1]] != [drawn.task for drawn in all_four]


def test_held_out_tasks_are_measured_by_descriptions_never_trained_with(
    ground: Path, maker: RowMaker, recipe: TaskRecipe
) -> None:
    train, held = hold_out(read_tasks([ground / "tasks.jsonl"], maker), HOLDOUT)
    assert len(held) == TASKS // HOLDOUT and not {task.name for task in train} & {task.name for task in held}
    _, drawn = TaskDrawer(held, recipe.data, 0, "held", unseen=True).draw(0, 3, 2)
    for one in drawn:
        assert maker.tokenizer.decode(one.description.tolist()).startswith("Never seen")


def test_a_fresh_hypernetwork_is_the_base_model(model: TaskModel, drawer: TaskDrawer, batches: TaskBatchMaker) -> None:
    fresh = TaskModel(model.base, TaskHypernetwork(model.config), model.prefix_tokens)
    found = probe_tasks(fresh, [batches.held(drawer, 0)])
    assert found.aligned == pytest.approx(found.none, abs=1e-6) and found.shuffled == pytest.approx(
        found.none, abs=1e-6
    )


def test_the_shuffled_figure_is_the_loss_with_descriptions_exchanged(
    model: TaskModel, drawer: TaskDrawer, batches: TaskBatchMaker
) -> None:
    batch = batches.held(drawer, 3)
    exchanged = replace(
        batch, described=type(batch.described)(*(value.roll(1, 0) for value in vars(batch.described).values()))
    )
    got, want = probe_tasks(model, [batch]), probe_tasks(model, [exchanged])
    assert got.shuffled == pytest.approx(want.aligned, rel=1e-5) and abs(got.shuffled - got.aligned) > 1e-3
    assert got.none == pytest.approx(want.none)


def test_padding_of_descriptions_changes_nothing(model: TaskModel, drawer: TaskDrawer, batches: TaskBatchMaker) -> None:
    _, drawn = drawer.draw(0, 4, 2)
    together = model.pairs(batches.described(drawn, blurred=False))
    for index, one in enumerate(drawn):
        alone = model.pairs(batches.described([one], blurred=False))
        for name, pair in part(together, slice(index, index + 1)).items():
            for got, want in zip(pair, alone[name], strict=True):
                assert torch.allclose(got, want, atol=1e-5), name


def test_meaningless_descriptions_get_the_rows_of_tasks_and_are_kept_to_the_base(
    model: TaskModel, drawer: TaskDrawer, batches: TaskBatchMaker
) -> None:
    batch = batches.train(drawer, 0)
    assert batch.kept is not None and batch.tasks == 4 and len(batch.described.mask) == 5
    rows = len(batch.kept.ids)
    assert torch.equal(batch.kept.ids, batch.rows.ids[:rows]) and not batch.described.noise[4].any()
    pairs = part(model.pairs(batch.described), slice(4, None))
    silent = {name: type(pair)(pair.a, torch.zeros_like(pair.b)) for name, pair in pairs.items()}
    with torch.no_grad():
        assert abs(float(model.kept_loss(batch.kept, model.adapter(silent)))) < 1e-4
        assert float(model.kept_loss(batch.kept, model.adapter(pairs))) > 1e-2


def test_losses_reach_every_part_of_the_hypernetwork_and_nothing_else(
    model: TaskModel, drawer: TaskDrawer, batches: TaskBatchMaker
) -> None:
    model.zero_grad()
    model(batches.train(drawer, 0), 0.1, torch.ones(2)).total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # Where b begins at zero, a learns nothing before b has moved; random heads have moved it here.
    assert not silent
    assert all(name.startswith("hypernetwork.") for name, _ in model.named_parameters())


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_loras_trained_together_are_those_trained_alone(
    ground: Path, maker: RowMaker, recipe: TaskRecipe, tmp_path: Path
) -> None:
    base = TorchBase(ground / "base.gguf")
    # One width for all, so that rows are padded alike and sums round alike.
    recipe = replace(recipe, data=replace(recipe.data, buckets=(160,)))
    taught = [Taught(task.name, task.rows) for task in read_tasks([ground / "tasks.jsonl"], maker)[:3]]

    def trained(members: list[Taught]) -> Group:
        group = Group(members, recipe, base, tmp_path, 0)
        for step in range(3):
            group.train_step(group.batch(step), recipe.loras)
        return group

    together = trained(taught)
    for index, task in enumerate(taught):
        alone = trained([task])
        for name, pair in alone.pairs(0).items():
            for got, want in zip(together.pairs(index)[name], pair, strict=True):
                assert torch.allclose(got, want, atol=2e-5), (task.name, name)
    assert together.pairs(0)["attn_q"].b.any()


@pytest.mark.slow
def test_a_stopped_group_goes_on_and_written_ones_are_left(ground: Path, tmp_path: Path, start: Start) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    assert train_loras(arguments(ground, "sft", whole)) == 0
    assert train_loras(arguments(ground, "sft", broken)) == 0
    lost = sorted(broken.glob("*.safetensors"))[0]
    others = {path: path.stat().st_mtime_ns for path in broken.glob("*.safetensors")}
    lost.unlink()
    finish(start(["localhyper.export.task_loras", *arguments(ground, "sft", broken)], log), log)
    config = load_task_recipe(ground / "sft.toml").hypernetwork
    for path in whole.glob("*.safetensors"):
        got, want = read_lora(broken / path.name, config), read_lora(path, config)
        assert all(torch.equal(got[name].b, want[name].b) for name in want)
    untouched = [path for path, time in others.items() if path.exists() and path.stat().st_mtime_ns == time]
    assert len(untouched) == 2 and len(others) == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_bundle_gives_what_training_used(
    ground: Path, model: TaskModel, recipe: TaskRecipe, tmp_path: Path
) -> None:
    """Activations of one description without padding through onnxruntime: the very matrices of the torch model."""
    from localhyper.base_header import read_base_info
    from localhyper.export.task_onnx import write_task_bundle

    assert isinstance(model.hypernetwork, TaskHypernetwork)
    path = tmp_path / "task.onnx"
    write_task_bundle(model.hypernetwork, recipe, read_base_info(ground / "base.gguf"), path, {})
    hidden = torch.randn(1, 2, 9, 32)
    made = OnnxHypernetwork.load(path).generate(Activations(hidden[0].numpy(), np.empty((0, 9, 0), np.float32)))
    with torch.no_grad():
        want = model.hypernetwork(hidden, torch.ones(1, 9))
    for name, target in made.targets.items():
        scale = float(want[name].b.abs().max())
        assert np.abs(target.a - want[name].a[0].numpy()).max() <= 5e-3 * float(want[name].a.abs().max())
        assert np.abs(target.b - want[name].b[0].numpy() * recipe.hypernetwork.scaling).max() <= 1e-2 * scale
