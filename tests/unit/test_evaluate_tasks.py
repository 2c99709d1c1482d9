"""The task suite on a scripted engine: each column gets its due, costs are counted, and bad wishes are refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from localhyper.engine import AdapterUse
from localhyper.errors import AdapterError, Cancelled, ConfigError
from localhyper.evaluate import report_tasks
from localhyper.evaluate.task_columns import COLUMNS, parse_columns
from localhyper.evaluate.task_set import read_tasks
from localhyper.evaluate.tasks import OWN_COLUMNS, TasksOptions, TasksResult, run
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from tests.evaluation import hypernetwork
from tests.fakes import FakeEngine
from tests.task_evaluation import DOES, ObedientEngine, task_row, text_maker, write_rows, write_task_file

DUE = {
    "base": 0.0,
    "described": 1.0,
    "few-shot": 1.0,
    "few-shot-described": 1.0,
    "multitask": 1 / 3,
    "multitask-described": 1.0,
    "per-task": 1.0,
    "generated": 1.0,
    "generated-described": 1.0,
    "generated-examples": 1.0,
    "examples": 0.0,  # without a description this engine knows nothing of an adapter
    "shuffled-examples": 0.0,
    "shuffled": 0.0,
    "random": 0.0,
}


@pytest.fixture
def options(tmp_path: Path) -> TasksOptions:
    """Everything there is, on the three tiny tasks."""
    (tmp_path / "multi.gguf").write_text("backwards")
    (tmp_path / "own").mkdir()
    for name in DOES:
        (tmp_path / "own" / f"{name}.gguf").write_text(name)
    data = write_task_file(tmp_path / "tasks.jsonl")
    return TasksOptions("tasks", (data,), 0, 0, tuple(COLUMNS), tmp_path / "multi.gguf", tmp_path / "own")


def run_with(options: TasksOptions, engine: FakeEngine | None = None, **more: Any) -> TasksResult:
    return run(options, engine or ObedientEngine(), hypernetwork().info, text_maker(), **more)


def test_each_column_gets_its_due(options: TasksOptions) -> None:
    engine = ObedientEngine()
    engine.set_adapters([before := AdapterUse(Path("kept.gguf"))])
    result = run_with(options, engine)
    found = {(one.name, one.metric): one for one in result.columns}
    for name, due in DUE.items():
        assert found[name, "exact"].mean.value == pytest.approx(due), name
        assert found[name, "rouge_l"].mean.value >= due, name
    assert {task: one.value for task, one in found["multitask", "exact"].tasks.items()} == {
        "capitals": 0.0,
        "backwards": 1.0,
        "twice": 0.0,
    }
    low = found["base", "exact"].tasks["twice"]
    assert low.low == 0.0 < low.high < 1.0, "no share of four is known exactly"
    differences = {(one.name, one.metric): one.mean.value for one in result.differences}
    assert differences["generated - random", "exact"] == 1.0 and differences["generated - described", "exact"] == 0.0
    assert engine.adapters == (before,)
    assert [(task.name, task.items) for task in result.tasks] == [(name, 4) for name in DOES]
    assert len(result.cases) == len(COLUMNS) * 3 * 4


def test_prompts_hold_what_their_column_says_and_nothing_else(options: TasksOptions) -> None:
    engine = ObedientEngine()
    result = run_with(
        replace(options, columns=("base", "described", "few-shot", "few-shot-described", "generated")), engine
    )
    base, described, shown, both, generated = (engine.conversations[4 * part] for part in range(5))
    (word,) = (message.content for message in base)
    assert base == generated and word in ("grape", "house", "island", "jewel")
    assert [message.content for message in described] == [f"New: write it capitals\n\n{word}"]
    assert [message.role for message in shown] == ["user", "assistant"] * 3 + ["user"]
    assert all(reply.content == user.content.upper() for user, reply in zip(shown[:6:2], shown[1:6:2], strict=True))
    texts = result.tasks[0].texts
    assert both[0].content == f"{texts.description}\n\n{shown[0].content}" and both[1:] == shown[1:]
    assert texts.description == "New: write it capitals" and texts.other_task in ("backwards", "twice")
    assert texts.other == f"New: write it {texts.other_task}"
    assert len(texts.random.split()) == 4 and not any(name in texts.random for name in DOES)


def test_the_same_seed_gives_the_same_figures_and_another_seed_another_draw(options: TasksOptions) -> None:
    small = replace(options, limit=2)
    first, again, other = run_with(small), run_with(small), run_with(replace(small, seed=1))
    assert {case.id for case in first.cases} <= {"0", "1", "2", "3"}
    assert first.columns == again.columns and first.tasks == again.tasks
    assert [task.texts for task in first.tasks] != [task.texts for task in other.tasks]
    asked, otherwise = ([case.id for case in result.cases] for result in (first, other))
    assert len(asked) == 2 * 3 * len(COLUMNS) and asked != otherwise
    alone = run_with(replace(small, columns=("base",)))
    assert [case.id for case in alone.cases][:2] == asked[:2], "columns do not change the draw"


def test_replies_are_at_most_twice_as_long_as_the_training_ones(options: TasksOptions) -> None:
    engine = ObedientEngine()
    result = run_with(options, engine)
    longest = {name: max(16, 2 * max(len(does(word)) for word in ("apple", "flame"))) for name, does in DOES.items()}
    assert {task.name: task.reply_tokens for task in result.tasks} == longest
    assert {sampling.max_tokens for sampling in engine.samplings} == set(longest.values())
    short = run_with(replace(options, max_tokens=5))
    assert {task.reply_tokens for task in short.tasks} == {5}


def test_costs_are_those_of_the_tokens_and_weights(options: TasksOptions) -> None:
    result = run_with(replace(options, limit=2))
    costs = {cost.name: cost for cost in result.costs}
    base, shown, generated = costs["base"], costs["few-shot"], costs["generated"]
    tokens = base.prompt_tokens + base.reply_tokens
    assert base.gflops == pytest.approx(2 * 1000 * tokens / 1e9), "the fake model has 1000 weights"
    assert generated.prompt_tokens == base.prompt_tokens < shown.prompt_tokens
    assert generated.making_gflops == pytest.approx(4.0 / 2), "4 GFLOP over the two answers of each task"
    assert base.making_gflops == costs["multitask"].making_gflops == 0.0
    assert result.making is not None and (result.making.adapters, result.making.encode_gflops) == (3, 3.0)
    assert result.ratios is not None
    assert result.ratios.gflops == pytest.approx(shown.gflops / (generated.gflops + 2.0))
    assert run_with(replace(options, columns=("base", "generated"))).ratios is None


def test_examples_are_read_after_the_description_and_the_prompt_holds_the_input_alone(options: TasksOptions) -> None:
    read: list[str] = []
    engine, maker = ObedientEngine(), text_maker()

    def make(document: Document, folder: Path) -> Path:
        read.append(document.text)
        return maker.make(document, folder)

    wanted = replace(options, limit=2, columns=("generated", "generated-examples", "examples", "shuffled-examples"))
    result = run(wanted, engine, hypernetwork().info, replace(maker, make=make))
    texts = result.tasks[0].texts
    shown = [f"Input: {shot.message}\nOutput: {shot.reply}" for shot in texts.shots]
    assert read[:2] == [texts.description, "\n\n".join([texts.description, *shown])]
    assert read[2] == "\n\n".join(shown)
    assert read[3].startswith(f"{texts.other}\n\nInput: ") and len(texts.other_shots) == len(shown) == 3
    for other in texts.other_shots:
        assert f"Input: {other.message}\nOutput: {DOES[texts.other_task](other.message)}" in read[3]
    assert all(len(messages) == 1 for messages in engine.conversations)
    assert {message.id for message in result.cases} and len(engine.conversations) == 4 * 3 * 2
    plain, examples = (next(cost for cost in result.costs if cost.name == name) for name in wanted.columns[:2])
    assert plain.making_gflops == examples.making_gflops == 2.0
    assert next(cost for cost in result.costs if cost.name == "shuffled-examples").making_gflops == 0.0


def test_as_many_examples_are_shown_and_learnt_as_wanted(options: TasksOptions) -> None:
    wanted = replace(options, columns=("few-shot", "generated-examples"), shots=2, limit=1)
    engine = ObedientEngine()
    result = run_with(wanted, engine)
    assert [len(task.texts.shots) for task in result.tasks] == [2, 2, 2]
    assert {len(messages) for messages in engine.conversations} == {1, 2 * 2 + 1}
    most = len(read_tasks(wanted.data[0])[0].train)
    with pytest.raises(ConfigError, match=f"wanted {most + 1} examples"):
        run_with(replace(wanted, shots=most + 1))
    with pytest.raises(ConfigError, match=f"wanted {most + 1} examples"):
        run_with(replace(wanted, shots=most + 1, columns=("examples",)))


def test_json_cases_and_tables_hold_the_figures(options: TasksOptions, tmp_path: Path) -> None:
    result = run_with(replace(options, multitask=None, columns=()))
    read = json.loads(report_tasks.to_json(result))
    assert "cases" not in read and read["suite"] == "tasks" and read["run"]["hypernetwork_name"] == "scripted"
    assert read["items"]["exact"]["generated"]["twice"] == [1.0] * 4
    assert [column["name"] for column in read["skipped"]] == ["multitask", "multitask-described"]
    report_tasks.write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7 * 12 and {row["column"] for row in rows} == set(COLUMNS) - {
        "multitask", "multitask-described", "generated-described", "few-shot-described", "generated-examples",
        "examples", "shuffled-examples",
    }  # fmt: skip
    assert rows[0]["scores"]["rouge_l"] == 0.0 and rows[0]["first"] is True and rows[0]["spent"]["prompt_tokens"] > 0
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report_tasks.render_table(result))
    text = capture.get()
    for part in ("mean over 3 tasks", "description in the prompt", "100.0 [100.0, 100.0]", "backwards", "GFLOP",
                 "multitask was not measured", "examples in the prompt / generated"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 160


def test_all_columns_fit_into_a_pipe(options: TasksOptions) -> None:
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report_tasks.render_table(run_with(options)))
    assert "…" not in capture.get()


def test_own_examples_fit_into_a_terminal_of_eighty_columns(options: TasksOptions) -> None:
    tasks = run_with(replace(options, columns=OWN_COLUMNS))
    own, main = replace(tasks.options, suite="examples"), "generated-examples -"
    differences = tuple(replace(one, name=one.name.replace("generated -", main)) for one in tasks.differences)
    result = replace(tasks, suite="examples", options=own, differences=differences)
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report_tasks.render_table(result))
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert text.count("generated-│") == 2, "a row of each table"


def test_progress_counts_every_answer_and_a_stop_is_heard(options: TasksOptions) -> None:
    seen: list[Progress] = []
    token = CancelToken()

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 5:
            token.cancel()

    engine = ObedientEngine()
    with pytest.raises(Cancelled):
        run_with(options, engine, progress=watch, cancel=token)
    assert seen[0].total == len(COLUMNS) * 12 and seen[-1].done == 5 and engine.adapters == ()


def test_a_run_without_a_hypernetwork_measures_the_rest(options: TasksOptions) -> None:
    result = run(replace(options, columns=()), ObedientEngine(), None, None)
    assert {one.name for one in result.columns} == {
        "base", "described", "few-shot", "multitask", "multitask-described", "per-task"
    }  # fmt: skip
    assert result.run.hypernetwork_name == "" and result.making is None and result.differences == ()
    with pytest.raises(ConfigError, match="`generated` cannot be measured: there is no hypernetwork"):
        run(replace(options, columns=("generated",)), ObedientEngine(), None, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"limit": -1}, "limit is -1"),
        ({"max_tokens": 0}, "0 tokens"),
        ({"data": ()}, "no data"),
        ({"multitask": None}, "`multitask` cannot be measured: no multi-task LoRA"),
        ({"per_task": None}, "`per-task` cannot be measured"),
        ({"per_task": Path("nowhere")}, "folder `nowhere` does not exist"),
    ],
)
def test_options_that_cannot_be_run_are_refused(options: TasksOptions, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        run_with(replace(options, **changes))


def test_a_folder_without_a_tasks_file_and_a_bad_adapter_are_told_of_before_the_run(options: TasksOptions) -> None:
    assert options.per_task is not None
    engine = FakeEngine(bad_adapters=["multi.gguf"])
    with pytest.raises(AdapterError, match=r"multi\.gguf"):
        run_with(options, engine)
    assert engine.prompts == [] and engine.adapters == ()
    (options.per_task / "twice.gguf").unlink()
    with pytest.raises(ConfigError, match=r"no file `twice\.gguf`"):
        run_with(options)


def test_the_control_takes_another_group_where_there_is_one(tmp_path: Path) -> None:
    rows = [task_row("capitals", category="A"), task_row("backwards", category="A"), task_row("twice", category="B")]
    data = write_rows(tmp_path / "t.jsonl", *rows)
    for seed in range(4):
        result = run_with(TasksOptions("tasks", (data,), 1, seed, ("base",)))
        assert [task.texts.other_task for task in result.tasks][:2] == ["twice", "twice"]
    single = write_rows(tmp_path / "one.jsonl", task_row("twice"))
    result = run_with(TasksOptions("tasks", (single,), 1))
    assert "shuffled" in {column.name for column in result.skipped}
    with pytest.raises(ConfigError, match="`shuffled` cannot be measured: no other task than `twice`"):
        run_with(TasksOptions("tasks", (single,), 1, columns=("shuffled",)))


def test_tasks_without_test_instances_or_twice_are_refused(tmp_path: Path) -> None:
    row = {"task": "short", "descriptions": ["a"], "instances": [{"input": "a", "output": "b"}] * 50}
    data = write_rows(tmp_path / "t.jsonl", row)
    with pytest.raises(ConfigError, match="`short` has 50 instances and none to test on"):
        run_with(TasksOptions("tasks", (data,)))
    data = write_task_file(tmp_path / "t.jsonl")
    with pytest.raises(ConfigError, match="`capitals` is in two data files"):
        run_with(TasksOptions("tasks", (data, data)))
    few = write_rows(tmp_path / "few.jsonl", task_row("twice", train=[{"input": "a", "output": "a a"}]))
    with pytest.raises(ConfigError, match="1 training rows of task `twice`, wanted 3 examples"):
        run_with(TasksOptions("tasks", (few,), columns=("few-shot",)))


def test_columns_are_named_by_commas() -> None:
    assert parse_columns("") == () and parse_columns("random, base,base") == ("base", "random")
    for text, named in ((",", "no column"), ("base,describe", "no column `describe`")):
        with pytest.raises(ConfigError, match=named) as caught:
            parse_columns(text)
        assert caught.value.hint
