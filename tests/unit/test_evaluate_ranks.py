"""`eval ranks`: adapters of all budgets from one encoding are those of `attach`, and figures are what was scripted."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from localhyper.database import Database
from localhyper.engine import Activations, AdapterUse, ChatMessage, Engine, EngineConfig
from localhyper.errors import Cancelled, ConfigError
from localhyper.evaluate import report_adapters
from localhyper.evaluate.attach_once import AttachOnce
from localhyper.evaluate.columns import make_document
from localhyper.evaluate.fact_documents import FactDocuments
from localhyper.evaluate.haystack import read_sentences
from localhyper.evaluate.ranks import SPEED_PROMPT, RanksOptions, RanksResult, run
from localhyper.gguf_adapter import read_adapter, read_metadata
from localhyper.hypernet import Hypernetwork, OnnxHypernetwork
from localhyper.library import Library
from localhyper.lora import LoraWeights
from localhyper.pipeline import AttachOptions, attach_document
from localhyper.progress import CancelToken, Progress
from localhyper.registry import load_registry
from localhyper.sources.document import Document
from tests.fakes import FakeEngine, fake_info
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, write

INFO = fake_info(blocks=4, hidden=8, ffn=12, context=2048)
OPTIONS = RanksOptions(ranks=(4, 8), tokens=400, facts=2, limit=6, speed_rounds=2)


def check_same(document: Document, engine: Engine, network: Hypernetwork, folder: Path, ranks: Sequence[int]) -> None:
    """Every budget's file holds what an attach of its own with `--rank` writes."""
    (folder / "once").mkdir()
    once = AttachOnce(document, engine, network, folder / "once", CancelToken())
    for rank in ranks:
        library = Library(Database(folder / f"{rank}.sqlite3"), folder / f"own-{rank}")
        options = AttachOptions(rank=rank, name="evaluated", whole=True)
        own = attach_document(document, engine, network, library, options).adapter
        found = once.adapter(rank)
        (one, about_one), (two, about_two) = read_adapter(found.path), read_adapter(own.path)
        assert replace(about_one, made_at="") == replace(about_two, made_at="")
        assert (found.rank, found.energy_kept, found.size_bytes) == (own.rank, own.energy_kept, own.size_bytes)
        assert one.targets.keys() == two.targets.keys()
        for name, target in one.targets.items():
            assert target.layers == two.targets[name].layers
            assert np.array_equal(target.a, two.targets[name].a)
            assert np.array_equal(target.b, two.targets[name].b)


def test_an_adapter_of_every_budget_is_what_attach_makes(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx", TinyBundle()), threads=1)
    # 700 tokens in chunks of 16: small budgets fold on the way, the exact sum keeps a rank of 702.
    document = make_document("T", " ".join(f"word{number % 40}" for number in range(700)))
    check_same(document, ScriptedEngine(), network, tmp_path, (1, 3, 8, 100, 0))


def test_a_document_is_encoded_once_for_all_budgets(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx", TinyBundle()), threads=1)
    engine = ScriptedEngine()
    made: list[int] = []
    generate = network.generate

    def counted(activations: Activations, chunks: int = 1) -> LoraWeights:
        made.append(1)
        return generate(activations, chunks)

    network.generate = counted  # type: ignore[method-assign]
    document = make_document("T", " ".join(f"word{number}" for number in range(64)))
    once = AttachOnce(document, engine, network, tmp_path, CancelToken())
    infos = [once.adapter(rank) for rank in (2, 4, 0)]
    assert [info.rank for info in infos] == [2, 4, 66]
    assert (len(engine.encoded), len(made)) == (4, 4)


@pytest.mark.native
@pytest.mark.slow
def test_the_shipped_bundle_gives_the_same_adapter_either_way(tmp_path: Path, default_model_path: Path) -> None:
    from localhyper.llama_engine import LlamaEngine

    text = " ".join(read_sentences(None))[:1600]
    with LlamaEngine.load(default_model_path, EngineConfig(n_ctx=512, threads=1, threads_batch=1)) as engine:
        bundle = load_registry().find_hypernetwork(engine.info.fingerprint, "document")
        network = OnnxHypernetwork.load(bundle, threads=1, expected_base=engine.info)
        check_same(make_document("Filler", text), engine, network, tmp_path, (64, 0))


class RankReader(FakeEngine):
    """Knows the facts of a run, and says them only under adapters of rank 8 or more."""

    def __init__(self, options: RanksOptions, *, brief: bool = False) -> None:
        super().__init__(self._reply, info=INFO, n_ctx=2048)
        documents = FactDocuments(
            read_sentences(options.filler), self.tokenize, options.tokens, options.facts, options.values, options.seed
        )
        passages = [documents.make(index) for index in range(options.limit)]
        self._values = {question.text: question.answers[-1] for p in passages for question in p.questions}
        self._brief = brief

    def _reply(self, messages: Sequence[ChatMessage]) -> str:
        question = messages[-1].content
        if question == SPEED_PROMPT:
            return "brief" if self._brief and self.adapters else "x" * 48
        knows = read_metadata(self.adapters[0].path).rank >= 8
        return f"It is {self._values[question]}." if knows else "No idea."


def network_of(folder: Path) -> OnnxHypernetwork:
    bundle = TinyBundle(fingerprint=INFO.fingerprint, chunk_tokens=64)
    return OnnxHypernetwork.load(write(folder / "tiny.onnx", bundle), threads=1)


def run_with(folder: Path, options: RanksOptions = OPTIONS, engine: FakeEngine | None = None) -> RanksResult:
    return run(options, engine or RankReader(options), network_of(folder))


def test_each_budget_gets_its_figures(tmp_path: Path) -> None:
    result = run_with(tmp_path)
    assert (result.metric, result.documents, result.questions) == ("exact", 3, 6)
    assert 300 < result.mean_tokens <= 400
    four, eight, exact = result.budgets
    assert (four.budget, eight.budget, exact.budget) == (4, 8, 0)
    assert (four.rank, eight.rank) == (4, 8) and exact.rank > 300
    assert (four.score.value, eight.score.value, exact.score.value) == (0.0, 1.0, 1.0)
    assert four.difference is not None and eight.difference is not None and exact.difference is None
    assert (four.difference.value, four.difference.high, eight.difference.low) == (-1.0, -1.0, 0.0)
    assert four.energy_kept < eight.energy_kept == pytest.approx(1.0) and exact.energy_kept == 1.0
    assert four.memory_bytes == 4 * (8 + 12) * 2 * 2  # rank, both widths, two blocks, half precision
    assert four.file_bytes > four.memory_bytes
    assert [scores.decode_ratio for scores in result.budgets] == [1.0, 1.0, 1.0]
    assert four.token_log_likelihood.value == pytest.approx(-0.5)


def test_replies_that_end_early_give_no_decode_speed(tmp_path: Path) -> None:
    result = run_with(tmp_path, engine=RankReader(OPTIONS, brief=True))
    assert [scores.decode_ratio for scores in result.budgets] == [None] * 3


def test_questions_are_counted_not_documents(tmp_path: Path) -> None:
    options = replace(OPTIONS, limit=5, speed_rounds=0)
    result = run_with(tmp_path, options)
    assert (result.documents, result.questions) == (3, 5)
    assert len(result.cases) == 5 * 3
    assert [scores.decode_ratio for scores in result.budgets] == [None] * 3


def test_a_reading_set_is_scored_by_f1(tmp_path: Path) -> None:
    rows = [
        {"context": f"Rain fell {n} times. " * 9, "qas": [{"question": "?", "answers": ["x", "a b"]}]} for n in "12"
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = FakeEngine(["a b c"], info=INFO, n_ctx=2048)
    result = run_with(tmp_path, replace(OPTIONS, data=path, limit=0, speed_rounds=0), engine)
    assert (result.metric, result.documents, result.questions) == ("f1", 2, 2)
    assert [scores.score.value for scores in result.budgets] == pytest.approx([2 / 3] * 3)  # articles don't count
    assert {len(case.answers) for case in result.cases} == {2}


def test_it_repeats_with_its_seed_and_puts_the_users_adapters_back(tmp_path: Path) -> None:
    def figures(seed: int) -> RanksResult:
        options = replace(OPTIONS, seed=seed)
        engine = RankReader(options)
        engine.set_adapters([AdapterUse(tmp_path / "own.gguf")])
        result = run_with(tmp_path, options, engine)
        assert engine.adapters == (AdapterUse(tmp_path / "own.gguf"),)
        return replace(result, run=replace(result.run, seconds=0.0))

    assert figures(1) == figures(1)
    assert figures(1).cases != figures(2).cases


def test_a_stop_ends_it(tmp_path: Path) -> None:
    engine, cancel = RankReader(OPTIONS), CancelToken()

    def stop(progress: Progress) -> None:
        if progress.done == 1:
            cancel.cancel()

    with pytest.raises(Cancelled):
        run(OPTIONS, engine, network_of(tmp_path), stop, cancel)
    assert engine.adapters == ()


def test_documents_hold_their_facts_in_their_length() -> None:
    documents = FactDocuments(read_sentences(None), FakeEngine().tokenize, 900, 5, "digits", 3)
    for index in range(20):
        passage = documents.make(index)
        assert passage == documents.make(index)
        assert 400 < len(passage.text.encode()) <= 900
        assert len(passage.questions) == 5
        assert all(question.answers[-1] in passage.text for question in passage.questions)
    places = [documents.make(i).text.index(documents.make(i).questions[0].answers[-1]) / 900 for i in range(20)]
    assert min(places) < 0.3 and max(places) > 0.6
    with pytest.raises(ConfigError, match="cannot hold 5 facts"):
        FactDocuments(read_sentences(None), FakeEngine().tokenize, 60, 5, "digits", 3).make(0)


@pytest.mark.parametrize(
    "changes",
    [{"ranks": (-1,)}, {"ranks": (5000,)}, {"facts": 0}, {"facts": 17, "values": "words"}, {"values": "letters"},
     {"limit": 0}, {"max_tokens": 0}, {"speed_tokens": 1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run_with(tmp_path, replace(OPTIONS, **changes), FakeEngine())  # type: ignore[arg-type]


def test_json_cases_and_table_hold_the_figures(tmp_path: Path) -> None:
    result = run_with(tmp_path)
    read = json.loads(report_adapters.to_json(result))
    assert "cases" not in read and read["suite"] == "ranks"
    assert [budget["budget"] for budget in read["budgets"]] == [4, 8, 0]
    assert read["budgets"][0]["difference"]["value"] == -1.0 and read["budgets"][2]["difference"] is None
    report_adapters.write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 18 and sum(row["score"] for row in rows) == 12
    console = Console(width=140, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report_adapters.render_table(result))
    text = capture.get()
    assert all(part in text for part in ("exact sum", "-100.0 [-100.0, -100.0]", "6 questions on 3 documents", "1.00"))
