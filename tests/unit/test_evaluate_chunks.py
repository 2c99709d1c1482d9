"""`eval chunks`: the scores of `ask` on documents whose chunks are known, and what is left out."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from localhyper.errors import Cancelled, ConfigError
from localhyper.evaluate.chunks import ChunkOptions, ChunkResult, joined, run
from localhyper.evaluate.reading_set import Passage, Question
from localhyper.evaluate.report_chunks import render_table, to_json, write_cases
from localhyper.hypernet import OnnxHypernetwork
from localhyper.progress import CancelToken
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, search_arrays, write

TINY = TinyBundle()


def words(letter: str) -> str:
    return " ".join(f"{letter}{number}" for number in range(16))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two contexts of one title, of two chunks each, one of another, and a short one."""
    rows = [
        ("Town", f"{words('a')} {words('b')}", [("a3 a4", ["A9"]), ("stranger", ["b7"]), ("a1", ["nowhere"])]),
        ("Town", f"{words('c')} {words('d')}", [("d2", ["d5"])]),
        ("Ship", f"{words('e')} {words('f')}", [("b2", ["f5"])]),
        ("", "just this", [("just", ["this"])]),
    ]
    path = tmp_path / "set.jsonl"
    with path.open("w") as out:
        for title, text, qas in rows:
            asked = [{"question": question, "answers": answers} for question, answers in qas]
            out.write(json.dumps({"title": title, "context": text, "qas": asked}) + "\n")
    return path


def network(folder: Path, *, head: bool = True) -> OnnxHypernetwork:
    tiny = replace(TINY, constants=search_arrays(TINY)) if head else TINY
    return OnnxHypernetwork.load(write(folder / "net.onnx", tiny), threads=1)


def engine() -> ScriptedEngine:
    made = ScriptedEngine()
    made.tokenize(" ".join(words(letter) for letter in "abcdef"))
    made._words["stranger"] = made._words["b4"]  # another word that the base model reads alike
    return made


def figures(result: ChunkResult) -> dict[str, float]:
    return {scores.name: round(scores.first.value, 3) for scores in result.columns}


def test_words_keys_and_both_are_measured_beside_blind_choice(tmp_path: Path, data: Path) -> None:
    result = run(ChunkOptions(data), engine(), network(tmp_path))
    assert (result.documents, result.questions, result.left_out) == (3, 4, 2), "`nowhere`, and the short document"
    assert result.mean_chunks == 2
    # By words: `a3 a4` and `d2` are found, `stranger` and `b2` share none, so the first chunk is taken.
    assert figures(result) == {"any chunk": 0.5, "words": 0.5, "keys": figures(result)["keys"], "both": 0.75}
    ranks = {(case.question, case.column): case.rank for case in result.cases}
    assert ranks["stranger", "words"] == 1 and ranks["stranger", "keys"] == ranks["stranger", "both"] == 0
    assert ranks["a3 a4", "any chunk"] == -1
    assert all(scores.among_three.value == 1 for scores in result.columns), "of two chunks"


def test_the_overview_is_a_chunk_that_holds_no_answer(tmp_path: Path, data: Path) -> None:
    result = run(ChunkOptions(data), engine(), network(tmp_path))
    general = [case for case in result.cases if case.column == "general"]
    assert len({case.question for case in general}) >= 15 and {case.document for case in general} == {"1", "2", "3"}
    # Tiny keys know whole words alone: questions with words of the overview's own find it.
    assert result.general is not None and 0.3 < result.general.value < 1 and result.astray is not None
    assert {case.rank for case in general if case.question == "Can you summarize this?"} != {0}
    assert result.astray.value == sum(case.astray for case in result.cases if case.column == "both") / 4 == 0
    without = run(ChunkOptions(data), engine(), network(tmp_path, head=False))
    assert (without.general, without.astray, without.unrelated, without.general_unrelated) == (None,) * 4


def test_questions_that_seem_to_be_about_something_else_are_counted(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(ChunkOptions(data), engine(), network(tmp_path))
    assert result.unrelated is not None and result.unrelated.value == 0, "as short as these are, nobody can tell"
    monkeypatch.setattr("localhyper.search_head.LEAST_SAID", 0.0)
    monkeypatch.setattr("localhyper.search_head.UNRELATED", 0.999)
    result = run(ChunkOptions(data), engine(), network(tmp_path))
    seem = {case.question for case in result.cases if case.column == "both" and case.unrelated}
    assert seem and "a3 a4" not in seem
    assert result.unrelated is not None and result.unrelated.value == len(seem) / 4
    assert result.general_unrelated is not None and result.general_unrelated.value == 1
    shown = io.StringIO()
    Console(file=shown, width=200).print(render_table(result))
    assert f"taken for questions about something else: {100 * len(seem) / 4:.1f} [" in shown.getvalue()


def test_contexts_of_a_title_become_one_document(tmp_path: Path, data: Path) -> None:
    result = run(ChunkOptions(data, joined=True), engine(), network(tmp_path))
    assert (result.documents, result.questions, result.left_out) == (1, 3, 1)
    assert result.mean_chunks == 4 and figures(result)["any chunk"] == 0.25
    assert figures(result)["both"] == 1.0
    one = Passage("1", "T", "x", (Question("q", ("a",)),))
    with pytest.raises(ConfigError, match="no two contexts"):
        joined([one, replace(one, title="U", text="y"), replace(one, title="", text="z")])


def test_without_a_head_words_alone_are_measured(tmp_path: Path, data: Path) -> None:
    used = engine()
    result = run(ChunkOptions(data), used, network(tmp_path, head=False))
    assert list(figures(result)) == ["any chunk", "words"] and not used.encoded


def test_what_cannot_be_measured_is_one_line_and_stopping_leaves_nothing(tmp_path: Path, data: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"context": "just this", "qas": [{"question": "just", "answers": ["this"]}]}) + "\n")
    with pytest.raises(ConfigError, match="has no question whose answer stands") as caught:
        run(ChunkOptions(short), engine(), network(tmp_path))
    assert "--joined" in caught.value.hint
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        run(ChunkOptions(data), engine(), network(tmp_path), cancel=token)


def test_the_result_is_shown_and_written(tmp_path: Path, data: Path) -> None:
    from rich.console import Console

    result = run(ChunkOptions(data, seed=3), engine(), network(tmp_path))
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(render_table(result))
    shown = capture.get()
    assert "4 questions on 3 documents of 2 chunks, set.jsonl" in shown and "2 questions were left out" in shown
    assert "75.0 [" in shown and "seed 3" in shown
    assert [column["name"] for column in json.loads(to_json(result))["columns"]] == [
        "any chunk",
        "words",
        "keys",
        "both",
    ]
    write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["column"] != "general"]) == 16


def test_chunks_may_be_smaller_than_the_hypernetwork_takes(tmp_path: Path, data: Path) -> None:
    net = OnnxHypernetwork.load(write(tmp_path / "big.onnx", replace(TINY, chunk_tokens=32)), threads=1)
    assert run(ChunkOptions(data, joined=True), engine(), net).mean_chunks == 2
    assert run(ChunkOptions(data, joined=True, chunk_tokens=16), engine(), net).mean_chunks > 2
