"""Training a task hypernetwork on descriptions with examples, on a tiny model: what is read, what stays, SIGKILL."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.export import start as start_training  # noqa: E402
from localhyper.export.example_train import ExamplesRun  # noqa: E402
from localhyper.export.prompts import PromptFormat  # noqa: E402
from localhyper.export.task_config import load_task_recipe  # noqa: E402
from localhyper.export.task_data import ShownExamples  # noqa: E402
from localhyper.export.task_onnx import export_task_run  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.task_examples import TaskExample, described  # noqa: E402
from tests.parity.task_ground import recipe_text, write_ground, write_random_task  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    check_a_killed_run_goes_on,
    curve,
    load_state,
    refused_with,
    run_as_two_and_as_one,
)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

STEPS, SAVE_EVERY = 24, 3
TABLE = """
[examples]
most = 3
alone = {alone}
staying = {staying}
others = 3
meaningless = 1
stay = {stay}
frozen = ["offsets"]
"""
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
TEMPLATES = (  # with whether they write a system message by themselves, which an empty one takes the place of
    ("{% if messages[0].role != 'system' %}[system]You are an assistant named Tiny.{% endif %}" + TURNS, True),
    (TURNS, False),
    ("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS, False),
)
RECIPES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "short": {"steps": 4, "probe_every": 4},
    "alone": {"alone": 1.0},
    "pair": {"steps": 1, "tasks": 2, "staying": 1},
    "single": {"steps": 1, "tasks": 4, "staying": 2},
    "held": {"stay": 1e6},
    "free": {"stay": 0.0},
}


def example_recipe(
    *,
    steps: int = STEPS,
    tasks: int = 2,
    staying: int = 2,
    alone: float = 0.0,
    stay: float = 1.0,
    probe_every: int = 1000,
) -> str:
    text = recipe_text("examples", steps=steps, tasks=tasks, meaningless=0, probe_every=probe_every)
    text = text.replace("max_tokens = 64", "max_tokens = 160").replace("dropped = 0.1", "own_system = false")
    return text + TABLE.format(alone=alone, staying=staying, stay=stay)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, tasks, recipes, and a task hypernetwork whose heads are random."""
    folder: Path = tmp_path_factory.mktemp("examples")
    write_ground(folder)
    for name, options in RECIPES.items():
        (folder / f"{name}.toml").write_text(example_recipe(**options), encoding="utf-8")
    write_random_task(folder, "recipe.toml")
    return folder


def arguments(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / f"{recipe}.toml"), "--base", str(ground / "base.gguf"), "--data", str(ground)]
    given = ["--init", str(ground / "task.pt"), "--out", str(out)]
    return [*where, *given, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def run(ground: Path, recipe: str, out: Path) -> ExamplesRun:
    out.mkdir()
    given = ground / "base.gguf", ground, out, "cpu", torch.float32, ground / "task.pt"
    return ExamplesRun(load_task_recipe(ground / f"{recipe}.toml"), *given)


@pytest.mark.filterwarnings("ignore")  # accelerate's own
@pytest.mark.parametrize("recipe", ["recipe", "alone"])
def test_what_is_read_is_what_use_makes_of_description_and_examples(ground: Path, tmp_path: Path, recipe: str) -> None:
    """Ids of a step, as text, are `task_examples.described` of a description and of instances that are not asked."""
    made = run(ground, recipe, tmp_path / "run")
    decode = made.row_maker.tokenizer.decode
    width, drawn = made.drawer.draw(5, 4, 2)
    counts = set()
    for one in drawn:
        text = decode(one.description.tolist(), skip_special_tokens=False)
        description, *examples = text.split("\n\n") if recipe == "recipe" else ["", *text.split("\n\n")]
        pairs = [example.removeprefix("Input: ").split("\nOutput: ") for example in examples]
        assert text == described(description, [TaskExample(*pair) for pair in pairs])
        task = made.drawer.tasks[one.task].name
        assert {answer for _, answer in pairs} == {task.replace("task", "out")}
        asked = [decode(row.ids.tolist()) for row in one.rows]
        assert pairs and not any(f"{given}<" in row or f"{given}\n" in row for given, _ in pairs for row in asked)
        assert len(one.description) <= made.row_maker.max_tokens and len(pairs) <= 3
        assert all(len(row.ids) <= width for row in one.rows)
        counts.add(len(pairs))
        again = made.row_maker.descriptions([text])[0]
        assert again.tolist() == one.description.tolist(), "tokens of the whole text are those of its parts"
    assert len(counts) > 1


@pytest.mark.filterwarnings("ignore")
def test_examples_that_leave_no_room_are_left_out(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "recipe", tmp_path / "run")
    plain = {tuple(ids) for task in made.drawer.tasks for ids in (*task.descriptions, task.definition)}
    made.drawer.shown = ShownExamples(made.recipe.examples, 8, made.row_maker.gap)
    assert all(tuple(one.description) in plain for one in made.drawer.draw(5, 4, 2)[1])


def test_inputs_are_asked_as_in_use_without_the_templates_own_system_message() -> None:
    for template, own in TEMPLATES:
        bare, usual = (PromptFormat(template, "", own_system=flag).render("a boat") for flag in (False, True))
        assert len(bare) < len(usual) if own else bare == usual, template


@pytest.mark.filterwarnings("ignore")
def test_only_the_task_hypernetwork_learns_and_is_exported_with_room_for_examples(ground: Path, tmp_path: Path) -> None:
    made = run(ground, "short", tmp_path / "run")
    begin = torch.load(ground / "task.pt", weights_only=True)["hypernetwork"]
    made.train()
    now = load_state(tmp_path / "run")["hypernetwork"]
    same = {name.partition(".")[0] for name, value in begin.items() if torch.equal(now[name], value.float())}
    assert same == {"offsets"}
    assert all(torch.equal(made.model.before.state_dict()[name], value.float()) for name, value in begin.items())
    probe = next(row for row in curve(tmp_path / "run") if row.get("event") == "probe")
    assert {"held", "described"} <= probe.keys()
    assert probe["held"]["none"] == probe["described"]["none"] > 0, "both ask the same rows"
    assert probe["held"]["aligned"] != probe["described"]["aligned"]
    out = tmp_path / "task.onnx"
    export_task_run(load_task_recipe(ground / "short.toml"), tmp_path / "run", ground / "base.gguf", out)
    info = OnnxHypernetwork.load(out).info
    assert info.chunk_tokens == 160 and info.card["way"] == "examples" and info.card["instances_seen"] == 4 * 2 * 2
    assert info.card["data"]["started_from"] == ground.name  # type: ignore[index]
    assert info.card["data"]["examples"] == 3 and info.card["data"]["frozen"] == ["offsets"]  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")
def test_descriptions_alone_stay_when_they_are_told_to(ground: Path, tmp_path: Path) -> None:
    last = []
    for recipe in ("held", "free"):
        run(ground, recipe, tmp_path / recipe).train()
        last.append([row["moved"] for row in curve(tmp_path / recipe) if "moved" in row][-1])
    assert last[0] < 0.1 * last[1], last


def test_no_hypernetwork_to_go_on_from_is_one_clear_line(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(ground, "short", tmp_path / "run")
    at = given.index("--init")
    with pytest.raises(SystemExit) as ended:
        start_training.main(given[:at] + given[at + 2 :])
    assert ended.value.code and "goes on from a task hypernetwork" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("most", "0", "examples.most must be 1 or more"), ("alone", "1.5", "examples.alone must be from 0 to 1"),
     ("staying", "0", "examples.staying must be 1 or more"), ("frozen", '["offset"]', "names no parameter: offset")],
)  # fmt: skip
def test_a_recipe_out_of_range_is_one_clear_line(
    ground: Path, tmp_path: Path, key: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(ground, "short", tmp_path / "run")[1:]
    assert said in refused_with(key, value, ground / "short.toml", given, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    check_a_killed_run_goes_on(start, partial(arguments, ground, "recipe"), tmp_path, SAVE_EVERY, STEPS)


@pytest.mark.slow
def test_two_processes_do_the_step_of_one(ground: Path, tmp_path: Path, start: Start) -> None:
    run_as_two_and_as_one(start, partial(arguments, ground), tmp_path)
