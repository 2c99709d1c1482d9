"""`eval tasks`, `bench` and `examples` on a tiny real model and bundles of both sorts: from command line to figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from localhyper.base_header import read_base_info
from localhyper.evaluate.task_columns import COLUMNS, EXTRA
from localhyper.evaluate.tasks import OWN_COLUMNS
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.lora import LoraTarget, LoraWeights
from localhyper.paths import get_paths
from tests.cli.conftest import SPEC, Shell
from tests.cli.test_task import ENTRY
from tests.task_evaluation import DOES, write_rows, write_task_file
from tests.tiny_gguf import TinySpec, write_tiny_gguf
from tests.tiny_onnx import TinyBundle, write
from tests.tiny_task import TinyTask, write_embedder, write_task

pytestmark = pytest.mark.native


@pytest.fixture
def bundle(shell: Shell, tmp_path: Path) -> Path:
    """A hypernetwork for tasks that reads activations."""
    info = read_base_info(shell.base)
    tiny = TinyBundle(
        hidden=SPEC.hidden, ffn=SPEC.ffn, blocks=SPEC.blocks, fingerprint=info.fingerprint, chunk_tokens=64, gain=0.002,
        metadata={"kind": "task", "name": "tiny-tasks"},
    )  # fmt: skip
    return write(tmp_path / "tasks.onnx", tiny)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_task_file(tmp_path / "tasks.jsonl")


def write_lora(path: Path, base: Path) -> Path:
    """A weak LoRA for this base."""
    info = read_base_info(base)
    a = np.full((1, 2, info.ffn_size), 0.01, np.float32)
    weights = LoraWeights({"ffn_down": LoraTarget((1,), a, np.full((1, info.hidden_size, 2), 0.01, np.float32))})
    path.parent.mkdir(exist_ok=True)
    write_adapter(path, weights, info, AdapterMetadata("a", base_fingerprint=info.fingerprint, rank=2))
    return path


def test_tasks_are_measured_in_all_columns(
    shell: Shell, bundle: Path, data: Path, tmp_path: Path, no_network: None
) -> None:
    multi = write_lora(tmp_path / "multi.gguf", shell.base)
    for name in DOES:
        write_lora(tmp_path / "own" / f"{name}.gguf", shell.base)
    cases = tmp_path / "cases.jsonl"
    words = ("eval", "tasks", "--data", data, "--limit", "2", "--max-tokens", "4", "--base", shell.base)
    given = ("--hypernet", bundle, "--multitask", multi, "--per-task", tmp_path / "own", "--cases-file", cases)
    done = shell.run(*words, *given, "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    columns = [cost["name"] for cost in read["costs"]]
    assert columns == [name for name in COLUMNS if name not in EXTRA]
    assert len(cases.read_text().splitlines()) == 9 * 3 * 2 and read["skipped"] == []
    costs = {cost["name"]: cost for cost in read["costs"]}
    assert costs["multitask"]["adapter_weights"] == 2 * (SPEC.ffn + SPEC.hidden)
    assert costs["generated"]["making_gflops"] > 0 and costs["generated"]["adapter_weights"] > 0
    assert costs["few-shot"]["gflops_in_a_row"] < costs["few-shot"]["gflops"], "examples are read once"
    assert read["making"]["adapters"] == 3 and read["making"]["encode_gflops"] > 0
    assert read["run"]["hypernetwork_name"] == "tiny-tasks" and read["ratios"]["gflops"] > 1
    assert not list(get_paths(shell.home).adapters_dir.glob("*")), "the user's library stays as it is"
    table = shell.run(*words, "--columns", "few-shot,base")
    assert table.returncode == 0, table.stderr
    assert "mean over 3 tasks, 6 test instances" in table.stdout and "generated" not in table.stdout


def test_descriptions_read_by_an_embedder_become_adapters_too(shell: Shell, data: Path, tmp_path: Path) -> None:
    info = read_base_info(shell.base)
    path = write_task(
        tmp_path / "task.onnx", TinyTask(width=SPEC.hidden, hidden=SPEC.hidden, fingerprint=info.fingerprint)
    )
    words = (
        "eval",
        "tasks",
        "--data",
        data,
        "--limit",
        "1",
        "--max-tokens",
        "2",
        "--base",
        shell.base,
        "--hypernet",
        path,
    )
    missing = shell.run(*words)
    assert missing.returncode == 4 and "[embedder]" in missing.stderr
    folder = write_embedder(tmp_path / "embedder")
    get_paths(shell.home).create().models_file.write_text(ENTRY.format(folder=folder))
    done = shell.run(*words, "--columns", "generated,shuffled", "--json")
    assert done.returncode == 0, done.stderr
    making = json.loads(done.stdout)["making"]
    assert making["encode_gflops"] > 0 and making["generate_gflops"] > 0 and making["description_tokens"] > 2


def test_benchmarks_are_measured(shell: Shell, bundle: Path, tmp_path: Path, no_network: None) -> None:
    rows = [{"id": str(n), "question": f"{n} plus 1?", "choices": [str(n + 1), str(n)], "answer": 0} for n in range(4)]
    write_rows(tmp_path / "piqa.jsonl", *rows)
    write_rows(tmp_path / "piqa.train.jsonl", *rows)
    write_rows(
        tmp_path / "descriptions.jsonl", *({"task": name, "descriptions": ["Do it."]} for name in ("piqa", "boolq"))
    )
    words = ("eval", "bench", "--data", tmp_path, "--limit", "2", "--base", shell.base, "--hypernet", bundle)
    done = shell.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["suite"] == "bench" and {one["metric"] for one in read["columns"]} == {"accuracy"}
    assert [task["items"] for task in read["tasks"]] == [2]
    shown = shell.run(*words, "--columns", "base,generated")
    assert shown.returncode == 0 and "right % by task" in shown.stdout and "piqa" in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("tasks", "--data", "missing.jsonl"), 2, "`missing.jsonl` does not exist"),
        (("tasks", "--data", "TEXT"), 2, "not valid JSON"),
        (("tasks", "--data", "BARE"), 2, "`descriptions` must be a list"),
        (("tasks", "--data", "DATA", "--columns", "generate"), 2, "no column `generate`"),
        (("tasks", "--data", "DATA", "--columns", "multitask"), 2, "no multi-task LoRA is given"),
        (("tasks", "--data", "DATA", "--columns", "base", "--multitask", "OTHER"), 6, "other.gguf"),
        (("tasks", "--data", "DATA", "--columns", "base", "--multitask", "none.gguf"), 6, "none.gguf"),
        (("tasks", "--data", "DATA", "--columns", "base", "--per-task", "FOLDER"), 2, "has no file `capitals.gguf`"),
        (("tasks", "--data", "DATA", "--cases-file", "no/such/folder/x"), 2, "cannot be written"),
        (("bench", "--data", "FOLDER"), 2, "holds no benchmark"),
        (("bench", "--data", "missing.jsonl"), 2, "no test file of a benchmark"),
        (("bench", "--data", "piqa.jsonl"), 2, "`piqa.jsonl` does not exist"),
    ],
)
def test_bad_input_gets_one_line_and_a_hint(
    shell: Shell, data: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    other = write_tiny_gguf(tmp_path / "other-base.gguf", TinySpec(blocks=2, hidden=32, ffn=64, context=512))
    (tmp_path / "text.jsonl").write_text("plain words\n")
    (tmp_path / "folder").mkdir()
    files = {
        "DATA": data,
        "TEXT": tmp_path / "text.jsonl",
        "BARE": write_rows(tmp_path / "bare.jsonl", {"task": "a", "instances": [{"input": "a", "output": "b"}]}),
        "OTHER": write_lora(tmp_path / "other.gguf", other),
        "FOLDER": tmp_path / "folder",
    }
    done = shell.run("eval", *(str(files.get(word, word)) for word in words), "--base", shell.base)
    assert done.returncode == code, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told in error and any(line.startswith("hint: ") for line in done.stderr.splitlines())
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_own_examples_are_learnt_and_the_others_asked(shell: Shell, bundle: Path, tmp_path: Path) -> None:
    mail = tmp_path / "mail.csv"
    mail.write_text("input,output\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(7)), encoding="utf-8")
    words = ("eval", "examples", mail, "--shots", "4", "--max-tokens", "4", "--base", shell.base, "--hypernet", bundle)
    done = shell.run(*words, "--task", "Say [a] or b.", "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert [cost["name"] for cost in read["costs"]] == list(OWN_COLUMNS)
    assert (read["suite"], read["tasks"][0]["items"], len(read["tasks"][0]["texts"]["shots"])) == ("examples", 3, 4)
    assert read["making"]["learn_gflops"] > 0 and len(read["differences"]) == 2 * (len(OWN_COLUMNS) - 1)
    right = sum(read["items"]["exact"]["generated-examples"]["mail"])
    assert len(read["missed"]) == 3 - right
    table = shell.run(*words, "--columns", "base,examples")
    assert table.returncode == 0, table.stderr
    assert re.search(r"points that.*\n.* examples.*\n.*adds to it", table.stdout) and "by task" not in table.stdout
    few = shell.run(*words, "--shots", "7")
    assert few.returncode == 2 and "wanted at least 8" in few.stderr and "Traceback" not in few.stderr
    assert not list(get_paths(shell.home).adapters_dir.glob("*")), "the user's library stays as it is"


def test_a_hypernetwork_for_documents_is_refused(shell: Shell, data: Path) -> None:
    done = shell.run("eval", "tasks", "--data", data, *shell.models())
    assert done.returncode == 5 and "documents" in done.stderr and "Traceback" not in done.stderr
