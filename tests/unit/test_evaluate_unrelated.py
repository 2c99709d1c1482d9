"""`eval unrelated` on a scripted engine whose preferences, with and without an adapter, are written down."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from localhyper import cli_eval_adapters
from localhyper.bundle import BundleInfo
from localhyper.chunk_choice import Choice
from localhyper.engine import AdapterUse, CaptureSpec, ChatMessage, FloatArray
from localhyper.errors import Cancelled, ConfigError, SourceError
from localhyper.evaluate import report_adapters, unrelated
from localhyper.evaluate.choice_set import read_choices, read_prompts, sample_choices
from localhyper.evaluate.unrelated import UnrelatedOptions, UnrelatedResult, read_documents, run
from localhyper.hypernet import Hypernetwork
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from tests.fakes import FakeEngine


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


def write_text(document: Document, folder: Path) -> Path:
    path = folder / "adapter.gguf"
    path.write_text(document.text)
    return path


class Swayed(FakeEngine):
    """Finds `no` likelier as a whole and `certainly` likelier by the byte; with an adapter, `yes` above all.

    Attributes:
        asked: Prompt, scored text and the adapter's text of every `score` call.
    """

    def __init__(self, reply: Callable[[str, str], str] = lambda prompt, known: f"{prompt} {known}".strip()) -> None:
        super().__init__(lambda messages: reply(messages[-1].content, self._known()), n_ctx=4096)
        self.asked: list[tuple[str, str, str]] = []

    def _known(self) -> str:
        return "".join(use.path.read_text() for use in self.adapters)

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        self.asked.append((text, continuation, self._known()))
        if continuation == "yes":
            return np.array([-0.1 if self.adapters else -9.0], np.float32)
        totals = {"no": -2.0, "certainly": -4.5}
        if continuation in totals:
            return np.array([totals[continuation] / 2] * 2, np.float32)
        return np.full(len(continuation), -0.75 if self.adapters else -0.5, np.float32)


def choice_file(folder: Path, name: str, answers: Sequence[int], **extra: str) -> Path:
    rows = [
        {"id": f"{name}-{i}", "question": f"Is {name} {i}?", "choices": ["no", "certainly", "yes"], "answer": a} | extra
        for i, a in enumerate(answers)
    ]
    path = folder / f"{name}.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    rows = [{"context": f"text {i}", "qas": [{"question": "?", "answers": ["!"]}]} for i in range(6)]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_with(options: UnrelatedOptions, engine: FakeEngine | None = None) -> UnrelatedResult:
    return run(options, engine or Swayed(), hypernetwork(), make_adapter=write_text)


def test_accuracy_is_what_the_likelihoods_say(tmp_path: Path, documents: Path) -> None:
    paths = (choice_file(tmp_path, "a", [0] * 6 + [2] * 2), choice_file(tmp_path, "b", [1, 1, 1, 2]))
    result = run_with(UnrelatedOptions(documents, paths, limit=0, attached=3, chat=False))
    a, b = result.choice_sets
    assert (a.name, a.questions, b.name, b.questions) == ("a", 8, "b", 4)
    assert (a.acc.none.value, a.acc_norm.none.value, a.acc.adapter.value) == (6 / 8, 0.0, 2 / 8)
    assert (b.acc.none.value, b.acc_norm.none.value, b.acc_norm.adapter.value) == (0.0, 3 / 4, 1 / 4)
    assert result.all_choices is not None and result.all_choices.questions == 12
    difference = result.all_choices.acc.difference
    assert difference.value == pytest.approx(3 / 12 - 6 / 12)
    assert difference.low <= difference.value <= difference.high
    assert result.chat is None


def test_every_question_meets_one_document_and_every_document_its_share(tmp_path: Path, documents: Path) -> None:
    engine = Swayed()
    options = UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0] * 12),), limit=0, attached=4, chat=False)
    result = run_with(options, engine)
    assert (result.documents, result.skipped) == (4, 0)
    assert len(engine.asked) == 12 * 3 * 2
    known: dict[str, set[str]] = {}
    for prompt, _, text in engine.asked:
        known.setdefault(prompt, set()).add(text)
    assert all(len(texts) == 2 and "" in texts for texts in known.values())
    shares = [next(text for text in texts if text) for texts in known.values()]
    assert sorted(shares.count(text) for text in set(shares)) == [3, 3, 3, 3]
    assert {case.column for case in result.cases} == {"none", "adapter"}


def test_no_more_documents_are_attached_than_questions_asked(tmp_path: Path, documents: Path) -> None:
    options = UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0, 1]),), chat=False)
    assert run_with(options).documents == 2


def test_equal_columns_lose_no_points(tmp_path: Path, documents: Path) -> None:
    class Steady(Swayed):
        def set_adapters(self, adapters: Sequence[AdapterUse]) -> None:
            super().set_adapters([])

    result = run_with(UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0, 1, 2, 0]),), attached=2), Steady())
    assert result.all_choices is not None and result.chat is not None
    for pair in (result.all_choices.acc, result.all_choices.acc_norm, result.chat.token_log_likelihood):
        assert (pair.difference.value, pair.difference.low, pair.difference.high) == (0.0, 0.0, 0.0)
    assert (result.chat.same.value, result.chat.rouge_l.value) == (1.0, 1.0)


def test_a_single_document_is_no_reason_for_an_interval_without_width(tmp_path: Path, documents: Path) -> None:
    options = UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0, 2] * 10),), attached=1, chat=False)
    difference = run_with(options).choice_sets[0].acc.difference
    assert difference.low < difference.value == 0.0 < difference.high


def test_chat_is_compared_with_what_the_base_says(tmp_path: Path, documents: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello there\n\nhello there\nHow are you\nsay it\n")

    def reply(prompt: str, known: str) -> str:
        return "" if known and prompt == "say it" else prompt if prompt == "How are you" else f"{prompt} {known}"

    result = run_with(UnrelatedOptions(documents, prompts=prompts, attached=2), Swayed(reply))
    chat = result.chat
    assert chat is not None and result.all_choices is None and result.choice_sets == ()
    assert chat.prompts == 3
    assert chat.same.value == pytest.approx(1 / 3)
    assert chat.rouge_l.value == pytest.approx((1.0 + 2 * 2 / (2 + 4) + 0.0) / 3)
    assert chat.words.none.value == pytest.approx(7 / 3)
    assert chat.words.difference.value == pytest.approx((2 + 0 - 2) / 3)
    likelihood = chat.token_log_likelihood
    assert (likelihood.none.value, likelihood.adapter.value) == pytest.approx((-0.5, -0.75))
    assert (likelihood.difference.low, likelihood.difference.high) == pytest.approx((-0.25, -0.25))


def test_the_likelihood_is_that_of_the_bases_own_reply(documents: Path, tmp_path: Path) -> None:
    prompts, engine = tmp_path / "prompts.jsonl", Swayed()
    prompts.write_text('{"question": "Why?", "answers": ["x"]}\n')
    run_with(UnrelatedOptions(documents, prompts=prompts), engine)
    assert [text for _, text, _ in engine.asked] == ["Why?", "Why?"]
    assert [bool(known) for _, _, known in engine.asked] == [False, True]


def test_it_repeats_with_its_seed_and_puts_the_users_adapters_back(tmp_path: Path, documents: Path) -> None:
    path, own = choice_file(tmp_path, "a", [0, 1, 2] * 5), AdapterUse(tmp_path / "own.gguf", 0.5)

    def figures(seed: int) -> UnrelatedResult:
        engine = Swayed()
        engine.set_adapters([own])
        result = run_with(UnrelatedOptions(documents, (path,), limit=7, attached=3, seed=seed), engine)
        assert engine.adapters == (own,)
        return replace(result, run=replace(result.run, seconds=0.0))

    assert figures(1) == figures(1)
    assert figures(1).cases != figures(2).cases


def test_a_stop_ends_it_and_puts_the_users_adapters_back(tmp_path: Path, documents: Path) -> None:
    engine, cancel, seen = Swayed(), CancelToken(), []

    def stop(progress: Progress) -> None:
        seen.append(progress.done)
        assert (progress.stage, progress.total) == ("evaluate", 2 * 10)
        if progress.done == 6:
            cancel.cancel()

    options = UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0] * 10),), chat=False)
    with pytest.raises(Cancelled):
        run(options, engine, hypernetwork(), stop, cancel, write_text)
    assert seen == list(range(7))
    assert engine.adapters == ()


def test_a_passage_stands_before_its_question_and_choices_are_whole_replies(tmp_path: Path) -> None:
    question = read_choices(choice_file(tmp_path, "boolq", [0], passage="All of it."))[0]
    assert question.message == "All of it.\n\nIs boolq 0?"
    assert question.parts("yes") == ("", "yes")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The _ are weak.", ("The bags", " are weak.")),
        ("Is it _'s car, asked Ann.", ("Is it bags", "'s car, asked Ann.")),
        ("Ann has the _", ("", "bags")),
        ("snake_case and ___ and O_{2}", ("", "bags")),
        ("The _ or the _ fell.", ("", "bags")),
    ],
)
def test_a_blank_is_filled_and_the_rest_is_scored(tmp_path: Path, text: str, parts: tuple[str, str]) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps({"id": 1, "question": text, "choices": ["bags", "cats"], "answer": 0}))
    assert read_choices(path)[0].parts("bags") == parts


def test_the_filled_sentence_opens_the_turn(tmp_path: Path, documents: Path) -> None:
    path, engine = tmp_path / "w.jsonl", Swayed()
    path.write_text(json.dumps({"question": "The _ are old.", "choices": ["bags", "cats"], "answer": 0}))
    run_with(UnrelatedOptions(documents, (path,), chat=False), engine)
    opened = engine.render([ChatMessage("user", "The _ are old.")])
    assert [(prompt, text) for prompt, text, _ in engine.asked[:2]] == [
        (f"{opened}The bags", " are old."),
        (f"{opened}The cats", " are old."),
    ]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("{", "line 2: not valid JSON"),
        ("[]", "must be an object"),
        ('{"question": "?", "choices": ["a"], "answer": 0}', "at least 2"),
        ('{"question": "?", "choices": ["a", ""], "answer": 0}', r"choices\[1\]"),
        ('{"question": "?", "choices": ["a", "b"], "answer": 2}', "from 0 to 1"),
        ('{"question": "?", "choices": ["a", "b"], "answer": true}', "from 0 to 1"),
        ('{"question": 5, "choices": ["a", "b"], "answer": 0}', "`question`"),
        ('{"question": "?", "choices": ["a", "b"], "answer": 0, "passage": 1}', "`passage`"),
    ],
)
def test_lines_out_of_the_schema_are_refused_by_number(tmp_path: Path, row: str, named: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "a\u2028b", "choices": ["a", "b"], "answer": 0}\n' + row + "\n")
    with pytest.raises(ConfigError, match=named):
        read_choices(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"\n", "no questions"), (b"\x1f\x8b...", "damaged"), (None, "does not exist")],
)
def test_unusable_files_are_refused(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        read_choices(path)


def test_files_are_drawn_from_alike_and_named_once(tmp_path: Path) -> None:
    paths = [choice_file(tmp_path, "a", [0] * 30), choice_file(tmp_path, "b", [0] * 5)]
    drawn = sample_choices(paths, 10, 0)
    assert [sum(question.set_name == name for question in drawn) for name in "ab"] == [10, 5]
    assert len({question.id for question in drawn}) == 15
    with pytest.raises(ConfigError, match="named `a`"):
        sample_choices([paths[0], paths[0]], 10, 0)


def test_the_shipped_prompts_are_many_and_different() -> None:
    prompts = read_prompts(None)
    assert len(set(prompts)) == len(prompts) >= 24


def test_documents_come_from_a_folder_without_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"This is the text of document {number}.")
    (folder / "bad.txt").write_bytes(b"")
    found, skipped = read_documents(UnrelatedOptions(folder, document_tokens=12), FakeEngine(), CancelToken())
    assert skipped == 1
    assert sorted(document.text for document in found) == ["This is the "] * 3
    with pytest.raises(SourceError):
        read_documents(UnrelatedOptions(tmp_path / "nothing.txt"), FakeEngine(), CancelToken())


@pytest.mark.parametrize("changes", [{"attached": 0}, {"max_tokens": 0}, {"chat": False}, {"limit": -1}])
def test_options_out_of_range_are_refused(documents: Path, changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        run_with(replace(UnrelatedOptions(documents), **changes))  # type: ignore[arg-type]


def test_json_cases_and_tables_hold_the_figures(tmp_path: Path, documents: Path) -> None:
    result = run_with(UnrelatedOptions(documents, (choice_file(tmp_path, "boolq", [0, 0, 2, 1]),), attached=2))
    read = json.loads(report_adapters.to_json(result))
    assert "cases" not in read and read["suite"] == "unrelated"
    assert read["all_choices"]["acc"]["none"]["value"] == read["choice_sets"][0]["acc"]["none"]["value"] == 0.5
    assert read["chat"]["token_log_likelihood"]["difference"]["value"] == pytest.approx(-0.25)
    report_adapters.write_cases(result, tmp_path / "cases.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 2 * (4 + 24) and {row["kind"] for row in rows} == {"choice", "chat"}
    console = Console(width=140, file=io.StringIO(), force_terminal=False)
    with console.capture() as capture:
        console.print(report_adapters.render_table(result))
    text = capture.get()
    assert all(part in text for part in ("boolq", "acc_norm", "-25.0 [", "24 chat prompts", "-0.250 [", "scripted"))


def test_the_commands_are_registered_under_their_names() -> None:
    app = typer.Typer()
    cli_eval_adapters.register(app)
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names == ["unrelated", "ranks", "chunks"]
    for text in ("", "16,x", "1;2"):
        with pytest.raises(ConfigError, match="--ranks"):
            cli_eval_adapters.ranks(budgets=text)
    with pytest.raises(ConfigError, match="cannot be written"):
        cli_eval_adapters.unrelated(Path("set.jsonl"), cases_file=Path("/nowhere/at/all/cases.jsonl"))


def test_it_is_counted_how_many_questions_ask_would_put_to_the_document(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: object) -> Choice:
        return Choice(tuple(uses), left_out=("x",) if "1" in questions[-1] else ())

    monkeypatch.setattr(unrelated, "chooser_in", lambda folder: choose)
    options = UnrelatedOptions(documents, (choice_file(tmp_path, "a", [0] * 4),), limit=0, attached=2, chat=False)
    result = run_with(options)
    assert result.asked.value == 3 / 4
    assert [case.asked for case in result.cases if case.column == "none"] == [False] * 4
    shown = io.StringIO()
    Console(file=shown, width=200).print(report_adapters.render_table(result))
    assert "`ask` would put 75.0 [" in shown.getvalue()
    assert json.loads(report_adapters.to_json(result))["asked"]["value"] == 0.75
