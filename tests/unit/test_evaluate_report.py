"""What the suites' results look like: JSON, cases, tables."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from localhyper.evaluate import needle, report, squad
from localhyper.evaluate.columns import USUAL_COLUMNS
from tests.evaluation import NeedleReader, WellReadEngine, hypernetwork, write_houses, write_text
from tests.fakes import fake_info


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_houses(tmp_path / "set.jsonl")


def run_squad(options: squad.SquadOptions) -> squad.SquadResult:
    return squad.run(options, WellReadEngine(), hypernetwork(), make_adapter=write_text)


def run_needle(n_ctx: int = 4096, **changes: object) -> needle.NeedleResult:
    options = replace(needle.NeedleOptions(tokens=600, cases=12), **changes)  # type: ignore[arg-type]
    return needle.run(options, NeedleReader(n_ctx), hypernetwork(), make_adapter=write_text)


def shown(result: report.Result) -> str:
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report.render_table(result))
    return capture.get()


def test_json_holds_options_run_and_figures_and_no_cases(data: Path) -> None:
    for result in (run_squad(squad.SquadOptions(data, limit=4)), run_needle(cases=3)):
        read = json.loads(report.to_json(result))
        assert "cases" not in read
        assert read["suite"] in ("squad", "needle")
        assert read["options"]["seed"] == 0
        assert read["run"]["base_fingerprint"] == fake_info().fingerprint
        assert (read["run"]["hypernetwork_name"], read["run"]["hypernetwork_sha256"]) == ("scripted", "5" * 64)
        assert read["run"]["seconds"] >= 0
        assert [column["name"] for column in read["columns"]] == list(USUAL_COLUMNS)
        exact = result.columns[2].exact
        assert exact is not None
        assert read["columns"][2]["exact"] == {"value": exact.value, "low": exact.low, "high": exact.high}


def test_cases_are_written_one_a_line(data: Path, tmp_path: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=4))
    report.write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16 == len(result.cases)
    assert [row["reply"] for row in rows] == [case.reply for case in result.cases]
    assert {row["column"] for row in rows} == set(USUAL_COLUMNS)


def test_tables_show_every_column_and_the_figures(data: Path) -> None:
    text = shown(run_squad(squad.SquadOptions(data, limit=0)))
    assert all(
        name in text
        for name in (*USUAL_COLUMNS, "adapter - shuffled", "100.0 [100.0, 100.0]", "12 questions", "1.00 [")
    )
    text = shown(run_needle())
    assert all(name in text for name in (*USUAL_COLUMNS, "80-100 %", "12 needles (digits)", "scripted"))


def test_tables_say_what_was_cut_and_what_was_left_out(data: Path) -> None:
    text = shown(run_squad(squad.SquadOptions(data, limit=0, context_tokens=8)))
    assert "6 of 6 documents were cut at the end in the prompt, from 16 to 8 tokens on average" in text
    assert "another document's adapter: F1 too many zeros to say" in text
    assert "6 adapters made, each on average:" in text and "ROUGE-L %" in text
    text = shown(run_needle(640, tokens=620, values="both"))
    assert "context was not measured: a document of 620 tokens does not fit into the window of 640" in text
    assert all(name in text for name in ("person", "city", "code name", "digits", "words"))


def test_one_document_is_said_to_give_no_interval(data: Path) -> None:
    alone = shown(run_squad(squad.SquadOptions(data, documents=1, columns=("none", "adapter"))))
    assert "95 % confidence intervals, which one document cannot give" in alone
    assert "cannot give" not in shown(run_squad(squad.SquadOptions(data, documents=2)))


@pytest.mark.parametrize("columns", [("none",), ("context",), ("adapter",), ("none", "shuffled")])
def test_any_choice_of_columns_can_be_shown(data: Path, columns: tuple[str, ...]) -> None:
    for result in (
        run_squad(squad.SquadOptions(data, limit=3, columns=columns)),
        run_squad(squad.SquadOptions(data, limit=3, columns=columns, generate=False)),
        run_needle(cases=2, columns=columns),
    ):
        assert all(name in shown(result) for name in columns)
        read = json.loads(report.to_json(result))
        assert [column["name"] for column in read["columns"]] == list(columns)
        assert read["options"]["columns"] == list(columns)


def test_json_tells_skipped_columns_and_what_attaching_took() -> None:
    read = json.loads(report.to_json(run_needle(640, tokens=620, cases=3)))
    assert [column["name"] for column in read["skipped"]] == ["context"]
    assert set(read["attached"]) == {"adapters", "seconds", "size_bytes", "rank", "energy_kept"}
    kinds = read["columns"][0]["by_kind"]
    assert [(part["name"], part["cases"]) for part in kinds] == [("person", 1), ("city", 1), ("code name", 1)]
    assert read["columns"][0]["by_value"][1] == {"name": "words", "cases": 0, "exact": None}
