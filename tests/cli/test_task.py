"""`localhyper attach --task`: the vector by an embedder or by hand, reuse, what is missing, and bad descriptions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from localhyper.base_header import read_base_info
from localhyper.gguf_adapter import read_adapter
from localhyper.paths import get_paths
from tests.cli.conftest import SPEC, Shell
from tests.tiny_onnx import TinyBundle, write
from tests.tiny_task import MODEL, TinyEmbedder, TinyTask, state, task_matrices, write_embedder, write_task

TASK = "Sort the words alphabetically"
IDS = [1, 3, 4, 5, 6, 11, 2]  # with its full stop
WIDTH = SPEC.hidden
ENTRY = """
[embedder.tiny]
files = ["onnx/model.onnx", "tokenizer.json"]
path = "{folder}"
hub = {{ repo = "owner/tiny-embedder" }}
"""


@dataclass(frozen=True)
class TaskShell:
    """A shell, a bundle for tasks and the folder of its embedder, which models.toml names."""

    shell: Shell
    tiny: TinyTask
    bundle: Path
    folder: Path

    def attach(self, task: str, *arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
        options = ("--base", self.shell.base, "--hypernet", self.bundle)
        done = self.shell.run("attach", "--task", task, *options, *arguments, stdin=stdin)
        return done.returncode, done.stdout, done.stderr

    def row(self, task: str, *arguments: str | Path, stdin: str = "") -> dict[str, object]:
        code, out, err = self.attach(task, "--json", *arguments, stdin=stdin)
        assert code == 0, err
        (row,) = json.loads(out)
        return dict(row)

    def error(self, task: str, *arguments: str | Path) -> tuple[int, str]:
        code, out, err = self.attach(task, *arguments)
        assert code != 0 and not out and "Traceback" not in err
        return code, err


@pytest.fixture
def tasks(shell: Shell, tmp_path: Path) -> TaskShell:
    info = read_base_info(shell.base)
    tiny = TinyTask(width=WIDTH, hidden=WIDTH, fingerprint=info.fingerprint)
    folder = write_embedder(tmp_path / "embedder")
    paths = get_paths(shell.home).create()
    paths.models_file.write_text(ENTRY.format(folder=folder))
    return TaskShell(shell, tiny, write_task(tmp_path / "task.onnx", tiny), folder)


def test_a_task_becomes_an_adapter_and_the_second_time_costs_nothing(tasks: TaskShell) -> None:
    row = tasks.row(TASK)
    assert (row["name"], row["title"], row["kind"]) == ("sort-the-words-alphabetically", TASK, "task")
    assert (row["rank"], row["tokens"], row["chunks"], row["energy_kept"]) == (2, len(IDS), 1, 1.0)
    timings = row["timings"]
    assert isinstance(timings, dict) and set(timings) == {"read", "load", "embed", "generate", "write"}
    weights, metadata = read_adapter(Path(str(row["path"])))
    vector = state(TinyEmbedder(), IDS)[0]
    target = weights.targets["attn_output"]
    for got, matrix in zip((target.a, target.b), task_matrices(tasks.tiny), strict=True):
        np.testing.assert_allclose(got.reshape(-1), matrix @ vector, atol=2e-3)
    assert (metadata.source_title, metadata.source_kind) == (TASK, "task")
    again = tasks.row(TASK, "--name", "another")
    assert (again["id"], again["reused"], again["name"]) == (row["id"], True, row["name"])
    assert tasks.row(TASK + "?")["id"] != row["id"]
    code, out, _ = tasks.attach(TASK)
    assert code == 0 and out.splitlines() == [f"{row['name']}  attached before, nothing to do", row["path"]]


def test_task_and_document_adapters_answer_together(tasks: TaskShell, lease: Path) -> None:
    assert tasks.attach(TASK, "--name", "sort")[0] == 0
    assert tasks.shell.attach(lease).returncode == 0
    done = tasks.shell.run(
        "ask", "b a?", "--with", "sort", "--with", "lease@0.5", "--base", tasks.shell.base, "--max-tokens", "4"
    )
    assert done.returncode == 0, done.stderr
    shown = tasks.shell.run("adapters", "show", "sort", "--text")
    assert TASK in shown.stdout


def test_the_vector_can_be_given_by_hand(tasks: TaskShell, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(1, 7).astype(np.float32))
    (tmp_path / "v.json").write_text("[6, 5, 4, 3, 2, 1]")
    tasks.folder.joinpath("tokenizer.json").unlink()  # the embedder is not asked
    first, second = (
        tasks.row(TASK, "--embedding", tmp_path / "v.npy"),
        tasks.row(TASK, "--embedding", tmp_path / "v.json"),
    )
    assert first["id"] != second["id"] and first["tokens"] == 0
    assert tasks.row(TASK, "--embedding", tmp_path / "v.npy")["reused"] is True
    (tmp_path / "v.json").write_text("[1, 2]")
    code, err = tasks.error(TASK, "--embedding", tmp_path / "v.json")
    assert code == 2 and "must hold 6 numbers, got shape [2]" in err


def test_without_embedder_and_vector_both_ways_out_are_named(tasks: TaskShell) -> None:
    tasks.folder.joinpath("tokenizer.json").unlink()
    code, err = tasks.error(TASK)
    assert code == 4 and f"`tiny-task` reads descriptions through `{MODEL}`, which is not on this machine" in err
    assert "`localhyper models pull tiny`" in err and "--embedding FILE (.npy or .json, 6 numbers)" in err
    get_paths(tasks.shell.home).models_file.write_text("")
    code, err = tasks.error(TASK)
    assert code == 4 and "no [embedder] of models.toml describes" in err and "--embedding FILE" in err


@pytest.mark.parametrize("embedding", [{"size": 6}, {"size": 6, "model": "owner/other"}])
def test_a_bundle_whose_vector_localhyper_cannot_make_says_so(tasks: TaskShell, embedding: dict[str, object]) -> None:
    write_task(tasks.bundle, TinyTask(**{**vars(tasks.tiny), "metadata": {"embedding": embedding}}))
    code, err = tasks.error(TASK)
    assert code == 5 and "in a way that localhyper does not know" in err and "--embedding FILE" in err


def test_descriptions_come_from_files_and_pipes_too(tasks: TaskShell, tmp_path: Path) -> None:
    row = tasks.row(TASK)
    (tmp_path / "task.txt").write_text(f"\ufeff{TASK}\r\n")
    for given, piped in ((f"@{tmp_path / 'task.txt'}", ""), ("-", f"  {TASK}\n\n")):
        again = tasks.row(given, stdin=piped)
        assert (again["id"], again["reused"]) == (row["id"], True)
    code, err = tasks.error(f"@{tmp_path / 'none.txt'}")
    assert code == 3 and "none.txt" in err


@pytest.mark.parametrize("task", ["", "   \n\t", "...", "\x1b\x00\x07", "@", "@/"])
def test_descriptions_without_words_are_refused(tasks: TaskShell, task: str) -> None:
    code, err = tasks.error(task)
    assert code == 3 and "error: " in err and "hint: " in err
    assert tasks.shell.run("adapters", "list", "--json").stdout.strip() == "[]"


def test_unusual_descriptions_work(tasks: TaskShell) -> None:
    assert tasks.row("sort")["name"] == "sort"
    assert tasks.row("Übersetze ins Französische")["name"] == "übersetze-ins-französische"
    assert tasks.row("単語を並べ替える")["title"] == "単語を並べ替える"
    row = tasks.row("Sort \x1b[31mthe\x00 words\nin\treverse\udce9")
    assert row["title"] == "Sort [31mthe words in reverse"


def test_ten_thousand_words_are_cut_with_a_note_and_far_more_refused(tasks: TaskShell) -> None:
    text = " ".join(["sort the words"] * 3334)
    row = tasks.row(text)
    assert row["tokens"] == 16 and row["notes"] == ["only the first 16 tokens of the description were read"]
    assert len(str(row["title"])) == 160 and len(str(row["name"])) <= 64
    code, _, err = tasks.attach(text + " reverse")
    assert code == 0 and "note: only the first 16 tokens" in err
    code, err = tasks.error("sort " * 50_000)
    assert code == 3 and "at most 200,000" in err


def test_options_that_do_not_go_together_are_refused(tasks: TaskShell, lease: Path) -> None:
    for arguments, wanted in (
        ((lease,), "stands alone"),
        (("--text", "x"), "stands alone"),
        (("--rank", "4"), "--rank"),
    ):
        code, err = tasks.error(TASK, *arguments)
        assert code == 2 and wanted in err
    done = tasks.shell.attach(lease, "--embedding", lease)
    assert done.returncode == 2 and "--embedding goes with --task" in done.stderr


def test_a_name_that_is_taken_is_refused(tasks: TaskShell, lease: Path) -> None:
    assert tasks.shell.attach(lease).returncode == 0
    code, err = tasks.error(TASK, "--name", "lease")
    assert code == 8 and "an adapter named `lease` already" in err


def test_documents_and_tasks_need_their_own_hypernetworks(tasks: TaskShell, lease: Path) -> None:
    shell = tasks.shell
    done = shell.run("attach", lease, "--base", shell.base, "--hypernet", tasks.bundle)
    assert done.returncode == 5 and "`tiny-task` turns task descriptions into adapters, not documents" in done.stderr
    done = shell.run("attach", "--task", TASK, *shell.models())
    assert done.returncode == 5 and "`tiny` turns documents into adapters, not task descriptions" in done.stderr
    done = shell.run("attach", "--task", TASK, "--base", shell.base)
    assert done.returncode == 5 and "no task hypernetwork for the base model" in done.stderr
    assert "import one with `localhyper hypernet import`" in done.stderr


def test_a_bundle_in_localhypers_folder_is_found_by_its_base(tasks: TaskShell) -> None:
    folder = get_paths(tasks.shell.home).hypernetworks_dir
    tasks.bundle.rename(folder / "mine.onnx")
    done = tasks.shell.run("attach", "--task", TASK, "--base", tasks.shell.base, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["hypernet_name"] == "tiny-task", done.stderr


def test_the_hint_names_the_published_hypernetwork_of_a_base(shell: Shell) -> None:
    paths = get_paths(shell.home).create()
    (paths.models_dir / "mistral-7b-instruct-v0.2.Q4_K_M.gguf").symlink_to(shell.base)
    done = shell.run("attach", "--task", TASK, "--base", "mistral-7b-instruct-v0.2")
    assert done.returncode == 5 and "no task hypernetwork for the base model `mistral-7b-instruct-v0.2`" in done.stderr
    assert (
        "models pull text-to-lora-mistral-7b`, then `localhyper hypernet import text-to-lora-mistral-7b`" in done.stderr
    )


def test_a_task_hypernetwork_that_reads_activations_takes_the_same_command(shell: Shell, tmp_path: Path) -> None:
    tiny = TinyBundle(
        hidden=SPEC.hidden, ffn=SPEC.ffn, blocks=SPEC.blocks, fingerprint=read_base_info(shell.base).fingerprint,
        chunk_tokens=128, gain=0.002, metadata={"kind": "task", "name": "tiny-reader"},
    )  # fmt: skip
    bundle = write(tmp_path / "reader.onnx", tiny)
    models = ("--base", shell.base, "--hypernet", bundle)
    done = shell.run("attach", "--task", TASK, *models, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["title"], row["hypernet_name"], row["chunks"]) == ("task", TASK, "tiny-reader", 1)
    (again,) = json.loads(shell.run("attach", "--task", TASK, *models, "--json").stdout)
    assert again["reused"] and again["id"] == row["id"]
    long = "Sort the words. " * 60
    (cut,) = json.loads(shell.run("attach", "--task", long, "--name", "long", *models, "--json").stdout)
    assert cut["chunks"] == 1 and 0 < cut["tokens"] <= 128, "parts of a description are no tasks to be added up"
    assert cut["notes"] == [f"only the first {cut['tokens']} tokens of the description were read"]
    assert shell.run("adapters", "show", "long", "--text").stdout.strip() == long.strip()
    (tmp_path / "v.json").write_text("[1, 2]")
    done = shell.run("attach", "--task", TASK, *models, "--embedding", tmp_path / "v.json")
    assert done.returncode == 5 and "reads activations, not a vector" in done.stderr


def test_examples_need_a_hypernetwork_that_reads_activations(tasks: TaskShell, tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("pear fig\tfig pear\n")
    code, err = tasks.error(TASK, "--examples", table)
    assert code == 3 and "reads a vector" in err and "leave the examples out" in err, err


def test_hypernet_show_says_what_vector_is_read(tasks: TaskShell) -> None:
    done = tasks.shell.run("hypernet", "show", tasks.bundle)
    assert done.returncode == 0 and MODEL in done.stdout and '"pooling": "first"' in done.stdout
    facts = json.loads(tasks.shell.run("hypernet", "show", tasks.bundle, "--json").stdout)
    assert facts["embedding"]["size"] == 6 and facts["kind"] == "task"
