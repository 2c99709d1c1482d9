"""The reading suite and the columns on a scripted engine that knows exactly what its adapter or its prompt says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.engine import AdapterUse
from localhyper.errors import Cancelled, ConfigError
from localhyper.evaluate import squad
from localhyper.evaluate.columns import USUAL_COLUMNS
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from tests.evaluation import COLOURS, WellReadEngine, hypernetwork, write_houses, write_text
from tests.fakes import FakeEngine


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_houses(tmp_path / "set.jsonl")


def run_squad(options: squad.SquadOptions, engine: FakeEngine | None = None) -> squad.SquadResult:
    return squad.run(options, engine or WellReadEngine(), hypernetwork(), make_adapter=write_text)


def test_squad_gives_each_column_its_due(data: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=0))
    assert (result.documents, result.questions, result.shortened) == (6, 12, 0)
    scores = dict(zip(USUAL_COLUMNS, result.columns, strict=True))
    assert [column.name for column in result.columns] == list(USUAL_COLUMNS)
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


def test_rouge_l_stands_beside_f1_and_both_have_their_ratios(data: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=0))
    rouge = {scores.name: scores.rouge_l.value for scores in result.columns if scores.rouge_l is not None}
    held = {scores.name: scores.contained.value for scores in result.columns if scores.contained is not None}
    assert held == rouge
    assert rouge == {"none": 0.0, "context": 1.0, "adapter": 1.0, "shuffled": 0.0}
    assert result.rouge_l_ratio is not None and result.rouge_l_ratio.value == 1.0
    # Another document's adapter brought nothing at all: there is nothing to divide by.
    assert (result.f1_shuffled_ratio, result.rouge_l_shuffled_ratio) == (None, None)


def test_over_the_shuffled_control_is_a_ratio_of_means(data: Path) -> None:
    class HalfRight(WellReadEngine):
        def _known(self, prompt: str) -> str:
            # Each reply holds the right colour; without the document it is one word of four, F1 = 2/5.
            known = super()._known(prompt)
            number = int(prompt.rpartition("house ")[2].rstrip("?"))
            sure = f"House {number} " in known
            return f"House is {COLOURS[number]}{'' if sure else ' or so perhaps'}."

    result = run_squad(squad.SquadOptions(data, limit=0), HalfRight())
    for ratio in (result.f1_shuffled_ratio, result.rouge_l_shuffled_ratio):
        assert ratio is not None
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.5, 2.5, 2.5))


def test_only_the_columns_asked_for_are_measured(data: Path) -> None:
    engine, made = WellReadEngine(), []

    def make(document: Document, folder: Path) -> Path:
        made.append(document.title)
        return write_text(document, folder)

    options = squad.SquadOptions(data, limit=0, columns=("none", "context"))
    result = squad.run(options, engine, hypernetwork(), make_adapter=make)
    assert [scores.name for scores in result.columns] == ["none", "context"]
    assert (result.differences, result.f1_ratio, result.f1_shuffled_ratio, result.attached) == ((), None, None, None)
    assert (made, len(engine.prompts)) == ([], 24)
    result = run_squad(squad.SquadOptions(data, limit=0, columns=("none", "adapter")))
    assert [difference.name for difference in result.differences] == ["adapter - none"]
    assert result.context is None
    assert result.attached is not None and result.attached.adapters == 6


def test_each_document_is_attached_once_however_many_are_its_questions(data: Path) -> None:
    result = run_squad(squad.SquadOptions(data, limit=0))
    assert result.attached is not None
    assert (result.attached.adapters, result.questions) == (6, 12)
    sizes = [len(f"House 0 is {colour}.") for colour in COLOURS]
    assert result.attached.size_bytes == pytest.approx(sum(sizes) / 6)
    assert (result.attached.rank, result.attached.energy_kept) == (None, None)  # a scripted adapter does not say


def test_one_document_will_do_without_the_shuffled_control(data: Path) -> None:
    options = squad.SquadOptions(data, limit=0, documents=1, columns=("none", "adapter"))
    result = run_squad(options)
    assert (result.documents, result.questions) == (1, 2)
    with pytest.raises(ConfigError, match="at least 2"):
        run_squad(replace(options, columns=USUAL_COLUMNS))


def test_the_prompt_holds_at_most_the_tokens_asked_for(data: Path) -> None:
    engine = WellReadEngine()
    result = run_squad(squad.SquadOptions(data, limit=0, context_tokens=8, columns=("context",)), engine)
    assert all(message.partition("\n\n")[0] in {f"House {number} " for number in range(6)} for message in engine.scored)
    context = result.context
    assert context is not None and result.shortened == context.shortened == context.documents == 6
    assert context.shortened_to == 8
    assert context.tokens == context.shortened_from == pytest.approx(sum(map(len, COLOURS)) / 6 + 12)


def test_an_answer_longer_than_the_longest_reply_is_scored_whole(tmp_path: Path) -> None:
    answers = ["It is a very long story about a house and those who live in it", "Nobody knows"]
    rows = [{"context": f"{i} is {a}.", "qas": [{"question": "What?", "answers": [a]}]} for i, a in enumerate(answers)]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_squad(squad.SquadOptions(path, max_tokens=5))
    for case in result.cases:
        assert case.answer_tokens == len(case.answers[0])
        assert case.reply is not None and len(case.reply) <= 5
        assert case.f1 is not None and case.f1 < 1


def test_control_tokens_in_the_data_reach_the_engine_as_messages(tmp_path: Path) -> None:
    path = tmp_path / "control.jsonl"
    rows = [{"context": f"{i} is <|im_end|>.", "qas": [{"question": "?", "answers": ["<|im_end|>"]}]} for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_squad(squad.SquadOptions(path))
    assert {case.answer_tokens for case in result.cases} == {len("<|im_end|>")}


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 0},
        {"context_tokens": -1},
        {"columns": ()},
        {"columns": ("all",)},
        {"limit": -1},
        {"documents": -1},
    ],
)
def test_squad_options_out_of_range_are_refused(data: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run_squad(replace(squad.SquadOptions(data), **changes))  # type: ignore[arg-type]


def test_no_evaluation_opens_a_connection(data: Path, no_network: None) -> None:
    assert run_squad(squad.SquadOptions(data, limit=4)).questions == 4
