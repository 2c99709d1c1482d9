"""`eval squad` and `eval needle` on a tiny real model and bundle: command line to figures, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.evaluation import write_houses

pytestmark = pytest.mark.native


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_houses(tmp_path / "houses.jsonl")


def test_squad_measures_a_reading_set(shell: Shell, data: Path, tmp_path: Path, no_network: None) -> None:
    cases = tmp_path / "cases.jsonl"
    words = ("eval", "squad", "--data", data, "--limit", "4", "--max-tokens", "4", "--json", "--cases-file", cases)
    done = shell.run(*words, *shell.models())
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["options"]["max_tokens"] == 4
    assert [column["name"] for column in read["columns"]] == ["none", "context", "adapter", "shuffled"]
    assert read["attached"]["adapters"] == read["documents"]
    assert 1 <= read["attached"]["rank"] and 0 < read["attached"]["energy_kept"] <= 1
    assert len(cases.read_text().splitlines()) == 16
    columns = shell.run(*words[:6], "--columns", "adapter,none", "--documents", "1", *shell.models())
    assert columns.returncode == 0, columns.stderr
    assert "adapter - none" in columns.stdout and "shuffled" not in columns.stdout


def test_needle_leaves_out_what_does_not_fit(shell: Shell, no_network: None) -> None:
    words = ("eval", "needle", "--cases", "3", "--max-tokens", "4", "--values", "both", *shell.models())
    done = shell.run(*words, "--tokens", "150", "--json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert [column["name"] for column in read["columns"]] == ["none", "context", "adapter", "shuffled"]
    assert read["skipped"] == []
    done = shell.run(*words, "--tokens", "600")
    assert done.returncode == 0, done.stderr
    assert "context was not measured: a document of 600 tokens" in done.stdout


@pytest.mark.parametrize(
    ("words", "told", "hint"),
    [
        (("squad", "--data", "DATA", "--columns", "adaptor"), "no column `adaptor`", "did you mean `adapter`"),
        (("squad", "--data", "DATA", "--columns", ","), "no column", "known are"),
        (("squad", "--data", "DATA", "--documents", "1"), "1 passage", "--columns"),
        (("squad", "--data", "missing.jsonl"), "`missing.jsonl` does not exist", "name a"),
        (("squad", "--data", "DATA", "--cases-file", "no/such/folder/x"), "cannot be written", "folder that exists"),
        (("needle", "--values", "letters"), "--values is `letters`", "`digits`, `words` or `both`"),
        (("needle", "--cases", "1"), "1 document", "--columns"),
        (("needle", "--tokens", "900", "--columns", "context"), "does not fit", "--tokens"),
    ],
)
def test_bad_options_get_one_line_and_a_hint(
    shell: Shell, data: Path, words: tuple[str, ...], told: str, hint: str
) -> None:
    done = shell.run("eval", *(str(data) if word == "DATA" else word for word in words), *shell.models())
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    (help_line,) = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    assert told in error and hint in help_line
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--max-tokens", "--limit", "--documents", "--context-tokens", "--seed"])
def test_numbers_below_their_least_are_refused_by_name(shell: Shell, data: Path, option: str) -> None:
    done = shell.run("eval", "squad", "--data", data, option, "-1")
    assert done.returncode == 2
    assert option in done.stderr


def test_unrelated_compares_with_and_without_a_document(
    shell: Shell, data: Path, tmp_path: Path, no_network: None
) -> None:
    rows = [{"id": str(i), "question": f"{i} plus 1?", "choices": [str(i + 1), str(i)], "answer": 0} for i in range(4)]
    choices, prompts, cases = tmp_path / "sums.jsonl", tmp_path / "prompts.txt", tmp_path / "cases.jsonl"
    choices.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts.write_text("Tell me a joke.\nHow are you?\n", encoding="utf-8")
    words = ("--documents", data, "--data", choices, "--prompts", prompts, "--attached", "2", "--cases-file", cases)
    done = shell.run("eval", "unrelated", *words, "--json", *shell.models())
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["documents"] == 2 and read["skipped"] == 0
    assert read["all_choices"]["questions"] == 4 and read["chat"]["prompts"] == 2
    assert len(cases.read_text().splitlines()) == 2 * (4 + 2)
    done = shell.run("eval", "unrelated", "--documents", tmp_path / "none.txt", *shell.models())
    assert done.returncode != 0 and "none.txt" in done.stderr and "Traceback" not in done.stderr


def test_ranks_compares_budgets_with_the_exact_sum(shell: Shell, no_network: None) -> None:
    words = ("eval", "ranks", "--ranks", "4,8", "--tokens", "300", "--facts", "2", "--limit", "4", "--json")
    done = shell.run(*words, *shell.models())
    assert done.returncode == 0, done.stderr
    budgets = json.loads(done.stdout)["budgets"]
    assert [row["budget"] for row in budgets] == [4, 8, 0]
    assert [row["rank"] for row in budgets[:2]] == [4, 8] and budgets[2]["rank"] > 8
    done = shell.run("eval", "ranks", "--ranks", "4,x", *shell.models())
    assert done.returncode == 2 and "4,x" in done.stderr and "Traceback" not in done.stderr


def test_chunks_are_searched_without_making_adapters(shell: Shell, tmp_path: Path, no_network: None) -> None:
    rows = [
        {
            "title": "Sheds",
            "context": f"Shed {number} is {'old ' * 30}.",
            "qas": [{"question": f"Shed {number}?", "answers": [f"Shed {number}"]}],
        }
        for number in range(12)
    ]
    data = tmp_path / "sheds.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = shell.run("eval", "chunks", "--data", data, "--joined", "--json", *shell.models())
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert (read["suite"], read["documents"], read["questions"]) == ("chunks", 1, 12)
    assert [column["name"] for column in read["columns"]][:2] == ["any chunk", "words"]
    data.write_text(json.dumps({"context": "A shed.", "qas": [{"question": "What?", "answers": ["shed"]}]}) + "\n")
    alone = shell.run("eval", "chunks", "--data", data, *shell.models())
    assert alone.returncode == 2 and "--joined" in alone.stderr and "Traceback" not in alone.stderr
