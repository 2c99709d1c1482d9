"""Both suites on a scripted engine that knows exactly what its adapter or its prompt says."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from localhyper.bundle import BundleInfo
from localhyper.engine import AdapterUse, CaptureSpec, ChatMessage, FloatArray
from localhyper.errors import Cancelled, ConfigError
from localhyper.evaluate import needle, report, squad
from localhyper.evaluate.columns import COLUMNS, AdapterRing, fit_document, make_document
from localhyper.evaluate.facts import FIRST_NAMES, pool
from localhyper.hypernet import Hypernetwork
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from tests.fakes import FakeEngine, fake_info


@dataclass
class NamedHypernetwork:
    """Only its description is asked for: adapters are made by `write_text`."""

    info: BundleInfo

    def generate(self, activations: object) -> object:
        raise AssertionError("adapters are scripted")

    bias = metrics = generate


def hypernetwork() -> Hypernetwork:
    info = BundleInfo(
        path=Path("b.onnx"), sha256="5" * 64, name="scripted", kind="document", base_architecture="llama",
        base_block_count=4, base_hidden_size=16, base_fingerprint="f" * 64, capture=CaptureSpec((0,)),
        targets={"ffn_down": (0,)}, rank=1, chunk_tokens=256, prefix="", suffix="", licence="", card={},
    )  # fmt: skip
    return NamedHypernetwork(info)  # type: ignore[return-value]


class WellReadEngine(FakeEngine):
    """Quotes the text of its adapter or of its prompt; a token costs 1 nat unless the text holds the answer."""

    def __init__(self, n_ctx: int = 4096) -> None:
        super().__init__(self._quote, info=fake_info(context=n_ctx), n_ctx=n_ctx)

    def _known(self, prompt: str) -> str:
        return "".join(use.path.read_text() for use in self.adapters) or prompt.partition("\n\n")[0]

    def _quote(self, messages: Sequence[ChatMessage]) -> str:
        known = self._known(messages[-1].content)
        return known.rpartition(" is ")[2].split(".")[0]

    def score(self, prompt: str, continuation: str) -> FloatArray:
        each = -0.25 if continuation in self._known(prompt) else -1.0
        return np.full(len(continuation), each, np.float32)


def write_text(document: Document, folder: Path) -> Path:
    path = folder / "adapter.gguf"
    path.write_text(document.text)
    return path


COLOURS = ("red", "green", "blue", "pink", "grey", "white")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {
            "id": colour,
            "title": f"Houses {colour}",
            "context": f"House {number} is {colour}.",
            "qas": [{"question": f"Which colour has house {number}?", "answers": [colour, f"a {colour} one"]}] * 2,
        }
        for number, colour in enumerate(COLOURS)
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_squad(options: squad.SquadOptions, engine: FakeEngine | None = None) -> squad.SquadResult:
    return squad.run(options, engine or WellReadEngine(), hypernetwork(), make_adapter=write_text)


def test_squad_gives_each_column_its_due(data: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=0))
    assert (result.documents, result.questions, result.shortened) == (6, 12, 0)
    scores = dict(zip(COLUMNS, result.columns, strict=True))
    assert [column.name for column in result.columns] == list(COLUMNS)
    for name, right in (("none", 0.0), ("context", 1.0), ("adapter", 1.0), ("shuffled", 0.0)):
        exact, f1 = scores[name].exact, scores[name].f1
        assert exact is not None and f1 is not None
        assert (exact.value, f1.value) == (right, right), name
        assert scores[name].token_log_likelihood.value == pytest.approx(-0.25 if right else -1.0)
    letters = sum(map(len, COLOURS)) / len(COLOURS)
    assert scores["none"].answer_log_likelihood.value == pytest.approx(-letters)
    assert scores["adapter"].answer_log_likelihood.value == pytest.approx(-letters / 4)


def test_squad_differences_are_paired_and_the_ratio_is_given(data: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=0))
    assert [difference.name for difference in result.differences] == ["adapter - none", "adapter - shuffled"]
    for difference in result.differences:
        gain = difference.token_log_likelihood
        assert (gain.value, gain.low, gain.high) == pytest.approx((0.75, 0.75, 0.75))
    assert result.f1_ratio is not None
    assert result.f1_ratio.value == 1.0


def test_squad_shows_the_engine_the_prompts_the_docs_promise(data: Path) -> None:
    engine = WellReadEngine()
    run_squad(squad.SquadOptions(data, limit=2, seed=3), engine)
    questions = [prompt.split("user\n")[1].split("<|im_end|>")[0] for prompt in engine.prompts]
    assert len(questions) == 8
    for none, context, adapter, shuffled in (questions[:4], questions[4:]):
        assert none == adapter == shuffled
        number = none.removeprefix("Which colour has house ").removesuffix("?")
        assert context == f"House {number} is {COLOURS[int(number)]}.\n\n{none}"
    assert {(s.temperature, s.max_tokens) for s in engine.samplings} == {(0.0, 32)}


def test_squad_without_generation_measures_likelihood_only(data: Path) -> None:
    engine = WellReadEngine()
    result = run_squad(squad.SquadOptions(data, limit=0, generate=False), engine)
    assert engine.prompts == []
    assert result.f1_ratio is None
    assert all(scores.f1 is None and scores.exact is None for scores in (*result.columns, *result.differences))
    assert result.columns[2].token_log_likelihood.value == pytest.approx(-0.25)
    assert all(case.reply is None for case in result.cases)


def test_squad_repeats_with_its_seed(data: Path) -> None:
    def figures(seed: int) -> squad.SquadResult:
        result = run_squad(squad.SquadOptions(data, limit=5, seed=seed))
        return replace(result, run=replace(result.run, seconds=0.0))

    assert figures(1) == figures(1)
    assert figures(1).cases != figures(2).cases


def test_squad_puts_the_users_adapters_back_even_after_a_stop(data: Path, tmp_path: Path) -> None:
    own = AdapterUse(tmp_path / "own.gguf", 0.5)
    engine, cancel = WellReadEngine(), CancelToken()
    engine.set_adapters([own])

    def stop(progress: Progress) -> None:
        assert progress.stage == "evaluate" and progress.total == 6
        if progress.done == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        squad.run(squad.SquadOptions(data, limit=0), engine, hypernetwork(), stop, cancel, write_text)
    assert engine.adapters == (own,)
    assert 0 < len(engine.prompts) < 48


def test_documents_longer_than_the_window_are_cut_in_the_context_column_only(tmp_path: Path) -> None:
    rows = [
        {"context": f"{'blah ' * 200}{i} is {colour}.", "qas": [{"question": "Which?", "answers": [colour]}]}
        for i, colour in enumerate(COLOURS[:2])
    ]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_squad(squad.SquadOptions(path), WellReadEngine(n_ctx=256))
    assert result.shortened == 2
    exact = {scores.name: scores.exact.value for scores in result.columns if scores.exact is not None}
    assert exact == {"none": 0.0, "context": 0.0, "adapter": 1.0, "shuffled": 0.0}


def test_a_text_that_fits_is_shown_whole_and_a_longer_one_fills_the_window() -> None:
    engine = FakeEngine(n_ctx=256)
    assert fit_document(engine, "short", ["Why?"], 32) == "short"
    cut = fit_document(engine, "x" * 1000, ["Why?", "Why not?"], 32)
    prompt = engine.tokenize(engine.render([ChatMessage("user", f"{cut}\n\nWhy not?")]), special=True)
    assert 256 - 32 - 17 <= len(prompt) <= 256 - 32


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_ring_never_gives_a_document_its_own_control_and_keeps_few_files(tmp_path: Path, count: int) -> None:
    documents = [make_document("", f"text {number}") for number in range(count)]
    made: list[str] = []

    def make(document: Document, folder: Path) -> Path:
        made.append(document.text)
        return write_text(document, folder)

    ring, controls = AdapterRing(documents, make, tmp_path), []
    for index in range(count):
        assert ring.own(index).read_text() == f"text {index}"
        controls.append(ring.other(index).read_text())
        assert len(list(tmp_path.glob("*/adapter.gguf"))) <= 3
        ring.finish(index)
    assert controls == [f"text {(index + 1) % count}" for index in range(count)]
    assert sorted(made) == sorted(document.text for document in documents)


def run_needle(**changes: object) -> needle.NeedleResult:
    options = replace(needle.NeedleOptions(tokens=600, cases=12), **changes)  # type: ignore[arg-type]
    return needle.run(options, NeedleReader(), hypernetwork(), make_adapter=write_text)


class NeedleReader(WellReadEngine):
    """Replies with everything it knows, so that the value is found exactly where it can be known."""

    def _quote(self, messages: Sequence[ChatMessage]) -> str:
        return self._known(messages[-1].content)


@pytest.mark.parametrize("values", ["digits", "words"])
def test_needle_finds_the_value_where_it_is_and_only_there(values: str) -> None:
    result = run_needle(values=values, max_tokens=2000)
    found = {scores.name: scores.exact.value for scores in result.columns}
    assert (found["none"], found["context"], found["adapter"]) == (0.0, 1.0, 1.0)
    assert found["shuffled"] < 0.3  # a word may stand in another document too
    assert 500 < result.mean_tokens <= 600
    for scores in result.columns:
        assert sum(scores.by_depth_cases) == 12
        assert all(
            (part is None) == (cases == 0) for part, cases in zip(scores.by_depth, scores.by_depth_cases, strict=True)
        )


def test_a_case_depends_on_the_seed_and_its_number_only() -> None:
    few, many = run_needle(cases=4).cases, run_needle(cases=8).cases
    assert few[:12] == many[:12]
    assert run_needle(seed=1).cases[:4] != few[:4]


def test_haystacks_hold_their_fact_at_its_depth_and_keep_their_length() -> None:
    sentences = [f"This is filler sentence number {number} of many." for number in range(50)]
    engine = FakeEngine()
    maker = needle.HaystackMaker(sentences, engine.tokenize, needle.NeedleOptions(tokens=800))
    for index in range(40):
        haystack = maker.make(index)
        assert 800 - 60 < haystack.tokens == len(haystack.text.encode()) <= 800
        before, found, after = haystack.text.partition(haystack.fact.statement)
        assert found and haystack.fact.value in found
        assert abs(len(before) / len(before + after) - haystack.depth) < 0.1


def test_long_documents_go_on_from_the_start_of_the_filler() -> None:
    maker = needle.HaystackMaker(
        ["One short sentence of filler."], FakeEngine().tokenize, needle.NeedleOptions(tokens=900)
    )
    assert maker.make(0).tokens > 840


def test_needle_facts_come_from_the_test_pool() -> None:
    train_only = set(pool(FIRST_NAMES, "train"))
    questions = " ".join(case.question for case in run_needle(cases=40).cases)
    assert not train_only & set(questions.replace("?", " ").replace(".", " ").split())


def test_the_shipped_filler_is_usable_prose() -> None:
    sentences = needle.read_sentences(None)
    assert len(sentences) > 30
    assert not any(character.isdigit() for character in "".join(sentences))


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"short.", "no sentence"), (b"\x1f\x8b...", "damaged"), (None, "does not exist")],
)
def test_unusable_filler_is_refused(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "filler.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        needle.read_sentences(path)


@pytest.mark.parametrize("changes", [{"tokens": 10}, {"cases": 1}, {"values": "letters"}, {"max_tokens": 0}])
def test_needle_options_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run_needle(**changes)


def test_json_holds_options_run_and_figures_and_no_cases(data: Path) -> None:
    for result in (run_squad(squad.SquadOptions(data, limit=4)), run_needle(cases=3)):
        read = json.loads(report.to_json(result))
        assert "cases" not in read
        assert read["suite"] in ("squad", "needle")
        assert read["options"]["seed"] == 0
        assert read["run"]["base_fingerprint"] == fake_info().fingerprint
        assert (read["run"]["hypernetwork_name"], read["run"]["hypernetwork_sha256"]) == ("scripted", "5" * 64)
        assert read["run"]["seconds"] >= 0
        assert [column["name"] for column in read["columns"]] == list(COLUMNS)
        exact = result.columns[2].exact
        assert exact is not None
        assert read["columns"][2]["exact"] == {"value": exact.value, "low": exact.low, "high": exact.high}


def test_cases_are_written_one_a_line(data: Path, tmp_path: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=4))
    report.write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16 == len(result.cases)
    assert [row["reply"] for row in rows] == [case.reply for case in result.cases]
    assert {row["column"] for row in rows} == set(COLUMNS)


def test_tables_show_every_column_and_the_figures(data: Path) -> None:
    def shown(result: report.Result) -> str:
        console = Console(width=160, file=io.StringIO(), force_terminal=False)
        with console.capture() as capture:
            console.print(report.render_table(result))
        return capture.get()

    text = shown(run_squad(squad.SquadOptions(data, limit=0)))
    assert all(
        name in text for name in (*COLUMNS, "adapter - shuffled", "100.0 [100.0, 100.0]", "12 questions", "1.00 [")
    )
    text = shown(run_needle())
    assert all(name in text for name in (*COLUMNS, "80-100 %", "12 needles (digits)", "scripted"))
