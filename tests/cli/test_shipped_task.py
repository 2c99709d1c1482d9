"""A hypernetwork for tasks that is shipped beside the one for documents: a file, an entry, and no option is needed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from localhyper import model_specs, registry
from localhyper.gguf_adapter import read_adapter
from localhyper.model_specs import shipped_models_file
from tests.cli.conftest import Shell
from tests.conftest import DEFAULT_BASE

pytestmark = pytest.mark.native
NAME = "smollm2-135m-task"
TARGETS = {"attn_q", "attn_v", "ffn_down"}
RANK = 16


@pytest.fixture
def without(shipped: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The same, as if no hypernetwork for tasks were known."""
    table = shipped_models_file().read_text(encoding="utf-8")
    start = table.index(f"[hypernetwork.{NAME}]")
    models = tmp_path / "models.toml"
    models.write_text(table[:start] + table[table.index("\n\n", start) :], encoding="utf-8")
    monkeypatch.setattr(model_specs, "shipped_models_file", lambda: models)
    monkeypatch.setattr(registry, "shipped_models_file", lambda: models, raising=False)
    return shipped


def test_a_task_is_attached_and_used_without_an_option(shipped: Shell) -> None:
    done = shipped.run("attach", "--task", "Answer in one word.", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["hypernet_name"], row["rank"], row["energy_kept"]) == ("task", NAME, RANK, 1.0)
    weights, _ = read_adapter(Path(row["path"]))
    assert set(weights.targets) == TARGETS
    other = json.loads(shipped.run("attach", "--task", "Write a poem about the sea.", "--json").stdout)[0]
    second = read_adapter(Path(other["path"]))[0].targets["attn_q"].b
    assert not np.allclose(weights.targets["attn_q"].b, second), "each description makes its own"
    note = shipped.home / "note.txt"
    note.write_text("The keeper of the lighthouse is Tomas Brekkeli.")
    done = shipped.run(
        "ask", "Who keeps it?", "--document", note, "--task", "Answer in one word.", "--max-tokens", "4", "--json"
    )
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)["answers"][0]["adapters"]
    assert [use["name"] for use in used] == ["note", "answer-in-one-word"]
    merged = shipped.run("adapters", "merge", "note", "answer@0.5", "--name", "both")
    assert merged.returncode == 0 and "of the energy kept" in merged.stderr, merged.stderr


@pytest.mark.parametrize(
    ("task", "reply"),
    [
        ("Answer the question with one word only.", "4817"),
        ("Reply in JSON.", '{"answer": "4817"}'),
        ("Give the answer as a bullet in a list.", "- 4817"),
    ],
)
def test_a_documents_fact_comes_in_the_form_of_the_task(shipped: Shell, task: str, reply: str) -> None:
    note = shipped.home / "harbour.txt"
    note.write_text("The access code of Marlow Station is 4817. The harbour of Tarn opens in April.", encoding="utf-8")
    done = shipped.run("ask", "What is the access code of Marlow Station?", "--document", note, "--task", task)
    assert (done.returncode, done.stdout.strip()) == (0, reply), done.stderr


TABLE = """input,output
My parcel never came.,delivery
The zip of this jacket broke after a day.,quality
I was charged twice this month.,billing
When will my order arrive?,delivery
The colour faded in the first wash.,quality
Why is my invoice higher than the quote?,billing
"""


def test_examples_of_a_file_are_learnt(shipped: Shell) -> None:
    table = shipped.home / "mail.csv"
    table.write_text(TABLE, encoding="utf-8")
    task = ("--task", "Sort the customer's message into a category.", "--examples", table)
    done = shipped.run("attach", *task, "--name", "mail")
    assert done.returncode == 0 and "task, 6 examples learnt, rank " in done.stdout, done.stderr
    (row,) = json.loads(shipped.run("attach", *task, "--json").stdout)
    assert (row["reused"], row["name"], row["notes"], row["title"]) == (True, "mail", [], task[1])
    for question, label in (("Please refund the double payment.", "billing"), ("When does my order come?", "delivery")):
        assert shipped.run("ask", question, "--with", "mail").stdout.strip() == label
    alone = shipped.run("ask", "The parcel is late.", "--examples", table, "--json")
    (answer,) = json.loads(alone.stdout)["answers"]
    assert answer["text"].strip() in ("delivery", "quality", "billing"), alone.stdout
    assert len(answer["adapters"]) == 1


def test_the_form_that_examples_show_reaches_a_documents_facts(shipped: Shell) -> None:
    note = shipped.home / "harbour.txt"
    note.write_text("The access code of Marlow Station is 4817. The harbour of Tarn opens in April.", encoding="utf-8")
    shown = {"What is the capital of France?": "Paris", "How many days are in a week?": "7", "What barks?": "a dog"}
    shown |= {"What colour is snow?": "white", "Who wrote Hamlet?": "William Shakespeare"}
    task = shipped.home / "task.txt"
    pairs = (f"Input: {question}\nOutput: answer = {value}" for question, value in shown.items())
    task.write_text("\n\n".join(["Write the answer as answer = …", *pairs]), encoding="utf-8")
    asked = ("ask", "What is the access code of Marlow Station?", "--document", note)
    assert shipped.run(*asked, "--task", f"@{task}").stdout.strip() == "answer = 4817"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("--examples", "none.csv"), 3, "cannot be read"),
        (("--examples", "half.csv"), 3, "example 1 of `half.csv` has no output"),
        (("--task", "Sort.\n\nInput: a\nOutput: b\n\nInput: c"), 3, "example 2 of the task has no output"),
        (("note.txt", "--examples", "half.csv"), 2, "a task stands alone"),
    ],
)
def test_examples_that_cannot_be_learnt_are_one_line(
    shipped: Shell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, line: str
) -> None:
    (shipped.home / "half.csv").write_text("input,output\na,\n")
    monkeypatch.chdir(shipped.home)
    done = shipped.run("attach", *arguments)
    assert done.returncode == code and line in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not done.stdout


def test_lists_and_doctor_show_both_kinds(shipped: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(shipped.run("models", "list", "--json").stdout)}
    assert (rows[NAME]["kind"], rows[NAME]["base"], rows[NAME]["path"] is not None) == ("task", DEFAULT_BASE, True)
    line = next(line for line in shipped.run("models", "list").stdout.splitlines() if line.startswith(f"{NAME} "))
    assert line.split()[1:3] == ["task", DEFAULT_BASE]
    shown = shipped.run("hypernet", "show", NAME).stdout
    assert "task: turns task descriptions into adapters" in shown and f"for            {DEFAULT_BASE}\n" in shown
    checks = {check["name"]: check for check in json.loads(shipped.run("doctor", "--json").stdout)}
    assert checks[f"hypernetwork {NAME}"]["status"] == "ok"
    detail = f"{DEFAULT_BASE}: documents by smollm2-135m-document, task descriptions by {NAME}"
    assert (checks["attach"]["status"], checks["attach"]["detail"], checks["attach"]["hint"]) == ("ok", detail, "")


def test_without_one_a_line_says_how_to_get_one(without: Shell) -> None:
    done = without.run("attach", "--task", "Answer in one word.")
    assert done.returncode == 5 and not done.stdout
    assert f"error: no task hypernetwork for the base model `{DEFAULT_BASE}` is on this machine\n" in done.stderr
    assert "`localhyper models add FILE.onnx`" in done.stderr
    assert "published for gemma-2-2b-it, mistral-7b-instruct-v0.2, llama-3.1-8b-instruct" in done.stderr
    checks = {check["name"]: check for check in json.loads(without.run("doctor", "--json").stdout)}
    assert checks["attach"]["status"] == "ok" and "no task descriptions" in checks["attach"]["detail"]
    assert "models add FILE.onnx" in checks["attach"]["hint"]


def test_a_set_hypernetwork_goes_first_and_a_missing_one_is_named(shipped: Shell) -> None:
    from localhyper.paths import get_paths

    paths = get_paths(shipped.home)
    paths.config_file.write_text('[hypernet]\ntask = "gone"\n')
    done = shipped.run("attach", "--task", "Answer in one word.")
    assert done.returncode == 5 and "no hypernetwork is named `gone`" in done.stderr
    checks = {check["name"]: check for check in json.loads(shipped.run("doctor", "--json").stdout)}
    assert "no task descriptions" in checks["attach"]["detail"] and checks["attach"]["hint"]


@pytest.mark.parametrize(
    ("review", "verdict"),
    [
        ("A wonderful film, I laughed from start to end.", "positive"),
        ("Two hours of my life that I will never get back.", "negative"),
    ],
)
def test_a_review_is_judged_as_its_description_says(shipped: Shell, review: str, verdict: str) -> None:
    task = "Say whether the sentiment of the movie review is positive or negative."
    done = shipped.run("ask", review, "--task", task, "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().lower() == verdict
    plain = shipped.run("ask", review, "--max-tokens", "8").stdout
    assert plain.strip().lower() != verdict, "the base model does not know the task"


def test_a_document_answers_in_the_form_of_a_task(shipped: Shell) -> None:
    note = shipped.home / "note.txt"
    note.write_text("The access code of Marlow Station is 4817. The harbour of Tarn opens in April.", encoding="utf-8")
    document = ("--document", note)
    task = ("--task", "Answer the question with one word only.")
    question = "What is the access code of Marlow Station?"
    both = shipped.run("ask", question, *document, *task, "--max-tokens", "24").stdout.strip()
    assert both == "4817"
    sentence = shipped.run("ask", question, *document, "--max-tokens", "24").stdout
    assert "4817" in sentence and len(sentence.split()) > 3
    word = shipped.run("ask", question, *task, "--max-tokens", "24").stdout
    assert "4817" not in word and len(word.split()) < 3
