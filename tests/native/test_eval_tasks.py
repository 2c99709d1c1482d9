"""The task suites on the default base model: what is counted is what was done, and a second run says the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.engine import ChatMessage, EngineConfig
from localhyper.evaluate.columns import ask
from localhyper.evaluate.task_adapters import task_maker
from localhyper.evaluate.tasks import TasksOptions, TasksResult, run
from localhyper.hypernet import OnnxHypernetwork
from localhyper.llama_engine import LlamaEngine
from localhyper.paths import Paths
from localhyper.progress import CancelToken
from localhyper.registry import load_registry
from tests.task_evaluation import task_row, write_rows
from tests.tiny_onnx import TinyBundle, write

pytestmark = [pytest.mark.native, pytest.mark.slow]
COLUMNS = ("base", "described", "few-shot", "generated", "shuffled")


@pytest.fixture(scope="module")
def engine(default_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(default_model_path, EngineConfig(n_ctx=1024, threads=1, threads_batch=1)) as made:
        yield made


@pytest.fixture
def hypernetwork(engine: LlamaEngine, tmp_path: Path) -> OnnxHypernetwork:
    """Random weights, strong enough to change what is said."""
    info = engine.info
    tiny = TinyBundle(
        hidden=info.hidden_size, ffn=info.ffn_size, blocks=info.block_count, taps=(4,), ffn_blocks=(2, 20), gain=0.01,
        fingerprint=info.fingerprint, chunk_tokens=64, bias=False, metric=False, metadata={"kind": "task"},
    )  # fmt: skip
    return OnnxHypernetwork.load(write(tmp_path / "tasks.onnx", tiny), expected_base=info)


def measure(engine: LlamaEngine, hypernetwork: OnnxHypernetwork, paths: Paths, options: TasksOptions) -> TasksResult:
    maker = task_maker(engine, hypernetwork, load_registry(paths), 32, CancelToken())
    return run(options, engine, hypernetwork.info, maker)


def test_tasks_on_the_default_model(
    engine: LlamaEngine, hypernetwork: OnnxHypernetwork, paths: Paths, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "tasks.jsonl", task_row("capitals"), task_row("twice"))
    options = TasksOptions("tasks", (data,), 2, 0, COLUMNS, max_tokens=6)
    result = measure(engine, hypernetwork, paths, options)
    by_column = {name: [case for case in result.cases if case.column == name] for name in COLUMNS}
    first = by_column["base"][0]
    message = task_row("capitals")["test"][int(first.id)]["input"]  # type: ignore[index]
    assert first.reply == ask(engine, message, 6, CancelToken())
    assert first.first and first.spent.reused_tokens == 0
    second = by_column["few-shot"][1]
    assert not second.first and 0.7 < second.spent.reused_tokens / second.spent.prompt_tokens < 1
    assert [case.reply for case in by_column["generated"]] != [case.reply for case in by_column["base"]]
    assert {case.adapter_weights for case in by_column["base"]} == {0}
    assert all(case.adapter_weights > 0 for case in by_column["generated"])
    making = result.making
    assert making is not None
    share = 21 / engine.info.block_count  # blocks 0 to 20 have to run
    per_token = 2 * engine.info.parameter_count * share / 1e9
    assert making.encode_gflops == pytest.approx(per_token * making.description_tokens)
    again = measure(engine, hypernetwork, paths, options)
    assert again.columns == result.columns and again.items == result.items
    assert [replace(case, spent=first.spent) for case in again.cases] == [
        replace(case, spent=first.spent) for case in result.cases
    ]


def test_a_choice_has_the_likelihood_that_scoring_it_alone_gives(
    engine: LlamaEngine, hypernetwork: OnnxHypernetwork, paths: Paths, tmp_path: Path
) -> None:
    rows = [
        {"question": "What is the capital of Italy?", "choices": ["Rome", "Tokyo, I think"], "answer": 0},
        {"question": "The _ is hot.", "choices": ["sun", "snow"], "answer": 0},
    ]
    write_rows(tmp_path / "piqa.jsonl", *rows)
    result = measure(engine, hypernetwork, paths, TasksOptions("bench", (tmp_path / "piqa.jsonl",), 0, 0, ("base",)))
    for case in result.cases:
        row = rows[int(case.id) - 1]
        messages = [ChatMessage("user", str(row["question"]))]
        alone = engine.render(messages) + "The sun" if "_" in str(row["question"]) else messages
        engine.logits(engine.tokenize("Something else"))  # nothing is left in the cache
        total = float(engine.score(alone, " is hot." if "_" in str(row["question"]) else "Rome").sum())
        assert case.log_likelihoods is not None
        assert case.log_likelihoods[0] == pytest.approx(total, abs=0.05)
