"""Does an attached document change what has nothing to do with it? Multiple choice and everyday chat.

Everything is asked twice through the shipped path:

    none       no adapter
    adapter    an unrelated document's adapter; several documents share the questions, so that none decides alone

The adapter is in force whatever is asked, as an exported one is. `ask` leaves documents out that a question is not
about: how many of the questions it would answer with the document in force is counted beside.

Knows no printing; `report_adapters` does that.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from localhyper.chunk_choice import Choose, whole
from localhyper.engine import AdapterUse, ChatMessage, Engine
from localhyper.errors import ConfigError, SourceError
from localhyper.evaluate.choice_set import ChoiceQuestion, read_prompts, sample_choices
from localhyper.evaluate.columns import (
    MakeAdapter,
    Reporter,
    RunInfo,
    ask,
    attach_maker,
    chooser_in,
    make_document,
    run_info,
)
from localhyper.evaluate.intervals import Estimate
from localhyper.evaluate.metrics import rouge_l
from localhyper.evaluate.reading_set import read_reading_set
from localhyper.evaluate.unrelated_scores import (
    ChatCase,
    ChatScores,
    ChoiceCase,
    ChoiceScores,
    chat_scores,
    choice_scores,
    share_asked,
)
from localhyper.hypernet import Hypernetwork
from localhyper.pipeline import DEFAULT_CHUNK_RANK, DEFAULT_RANK
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress
from localhyper.sources.document import Document

COLUMNS = ("none", "adapter")


@dataclass(frozen=True)
class UnrelatedOptions:
    """What to run.

    Attributes:
        documents: What is attached: a reading-set file, a folder of documents, or one document.
        choices: Multiple-choice files; may be empty.
        prompts: Chat prompts; None = the list in the package.
        limit: Questions drawn at random from each file of `choices`; 0 = all.
        attached: Documents drawn at random; one is attached at a time.
        document_tokens: Longest document; the rest is cut off. 0 = whole.
        chat: Whether to ask the chat prompts.
        seed: Seed of all draws and of the bootstrap.
        rank: Rank budget of the adapters; 0 = no recompression.
        max_tokens: Longest chat reply.
    """

    documents: Path
    choices: tuple[Path, ...] = ()
    prompts: Path | None = None
    limit: int = 50
    attached: int = 16
    document_tokens: int = 0
    chat: bool = True
    seed: int = 0
    rank: int = DEFAULT_RANK
    max_tokens: int = 64


@dataclass(frozen=True)
class UnrelatedResult:
    """Figures of a run.

    Attributes:
        documents: Documents attached, one at a time.
        mean_tokens: Their mean length.
        skipped: Files of the folder that could not be read.
        all_choices: Over all multiple-choice questions; None without any.
        choice_sets: File by file.
        chat: None where chat was not asked.
        asked: Share of all questions that `ask` would answer with the document in force, unrelated as it is.
        cases: Every question in both columns.
    """

    options: UnrelatedOptions
    run: RunInfo
    documents: int
    mean_tokens: float
    skipped: int
    all_choices: ChoiceScores | None
    choice_sets: tuple[ChoiceScores, ...]
    chat: ChatScores | None
    asked: Estimate
    cases: tuple[ChoiceCase | ChatCase, ...] = field(repr=False)
    suite: str = "unrelated"


def run(
    options: UnrelatedOptions,
    engine: Engine,
    hypernetwork: Hypernetwork,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
    make_adapter: MakeAdapter | None = None,
) -> UnrelatedResult:
    """Ask everything in both columns; the arguments are those of `squad.run`.

    Raises:
        ConfigError: A file is not in its schema, or an option is out of range.
        SourceError: No document can be read.
        Cancelled: `cancel` was set; nothing is kept.
    """
    started = time.monotonic()
    _check(options)
    cancel = cancel or CancelToken()
    questions = sample_choices(options.choices, options.limit, options.seed)
    prompts = read_prompts(options.prompts) if options.chat else []
    documents, skipped = read_documents(options, engine, cancel)
    documents = documents[: max(len(questions), len(prompts))]
    make_adapter = make_adapter or attach_maker(
        engine, hypernetwork, options.rank, cancel, DEFAULT_CHUNK_RANK, whole=True
    )
    suite = _Suite(options, engine, questions, prompts, Reporter(progress, 2 * (len(questions) + len(prompts))), cancel)
    before = engine.adapters
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-eval-") as folder:
            cases = tuple(suite.cases(documents, make_adapter, Path(folder)))
    finally:
        engine.set_adapters(before)
    names = sorted({question.set_name for question in questions})
    return UnrelatedResult(
        options=options,
        run=run_info(engine, hypernetwork.info, started),
        documents=len(documents),
        mean_tokens=sum(len(engine.tokenize(document.text)) for document in documents) / len(documents),
        skipped=skipped,
        all_choices=choice_scores("all", cases, names, options.seed) if questions else None,
        choice_sets=tuple(choice_scores(name, cases, [name], options.seed) for name in names),
        chat=chat_scores(cases, options.seed) if prompts else None,
        asked=share_asked(cases, options.seed),
        cases=cases,
    )


def _check(options: UnrelatedOptions) -> None:
    if not options.choices and not options.chat:
        raise ConfigError("nothing to ask", "name a multiple-choice file or leave the chat prompts in")
    for name, value, least in (
        ("documents", options.attached, 1),
        ("tokens of a document", options.document_tokens, 0),
        ("tokens of a reply", options.max_tokens, 1),
    ):
        if value < least:
            raise ConfigError(f"{value} {name}, wanted at least {least}")


def read_documents(options: UnrelatedOptions, engine: Engine, cancel: CancelToken) -> tuple[list[Document], int]:
    """The documents to attach, in random order, and how many files of a folder could not be read.

    Raises:
        ConfigError: The reading set is not in its schema.
        SourceError: Nothing readable there.
    """
    path, rng, skipped = options.documents, random.Random(f"{options.seed}/documents"), 0
    if ".jsonl" in path.suffixes:
        passages = read_reading_set(path)
        chosen = rng.sample(passages, min(options.attached, len(passages)))
        documents = [make_document(passage.title or passage.id, passage.text) for passage in chosen]
    elif path.is_dir():
        documents, skipped = _read_files(path, options.attached, rng, cancel)
    else:
        documents = [_read_file(path, cancel)]
    return [_cut(document, options.document_tokens, engine) for document in documents], skipped


def _read_files(folder: Path, count: int, rng: random.Random, cancel: CancelToken) -> tuple[list[Document], int]:
    """Up to `count` readable files of a folder, its subfolders left out."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    rng.shuffle(files)
    documents: list[Document] = []
    skipped = 0
    for file in files:
        if len(documents) == count:
            break
        try:
            documents.append(_read_file(file, cancel))
        except SourceError:
            skipped += 1
    if not documents:
        raise SourceError(f"no file in `{folder}` can be read", "name a folder with text documents")
    return documents, skipped


def _read_file(path: Path, cancel: CancelToken) -> Document:
    from localhyper.sources import read_source

    return read_source(path, cancel=cancel)


def _cut(document: Document, tokens: int, engine: Engine) -> Document:
    ids = engine.tokenize(document.text)
    if not tokens or len(ids) <= tokens:
        return document
    return make_document(document.title, engine.detokenize(ids[:tokens]).rstrip("\ufffd"))


@dataclass
class _Suite:
    """One run under way."""

    options: UnrelatedOptions
    engine: Engine
    questions: Sequence[ChoiceQuestion]
    prompts: Sequence[str]
    reporter: Reporter
    cancel: CancelToken
    choose: Choose = whole
    done: int = 0

    def cases(
        self, documents: Sequence[Document], make_adapter: MakeAdapter, folder: Path
    ) -> Iterator[ChoiceCase | ChatCase]:
        """Document by document: its share of questions and prompts, all without and then all with its adapter."""
        for index, document in enumerate(documents):
            own = folder / str(index)
            own.mkdir()
            use = AdapterUse(make_adapter(document, own))
            self.choose = chooser_in(own)
            questions, prompts = self.questions[index :: len(documents)], self.prompts[index :: len(documents)]
            replies: dict[str, str] = {}
            for column in COLUMNS:
                uses = [use] if column == "adapter" else []
                self.engine.set_adapters(uses)
                for question in questions:
                    yield self._choice(question, index, document.title, column, self._asked(question.message, uses))
                for prompt in prompts:
                    yield self._chat(prompt, index, document.title, column, self._asked(prompt, uses), replies)
            shutil.rmtree(own, ignore_errors=True)
        self.reporter.report(self.done, "")

    def _step(self, title: str) -> None:
        self.cancel.check()
        self.reporter.report(self.done, title)
        self.done += 1

    def _asked(self, text: str, uses: Sequence[AdapterUse]) -> bool:
        """Whether `ask` would put this question to the document."""
        return bool(uses) and not self.choose([text], uses, self.engine).left_out

    def _choice(self, question: ChoiceQuestion, document: int, title: str, column: str, asked: bool) -> ChoiceCase:
        self._step(title)
        messages = [ChatMessage("user", question.message)]
        totals, lengths = [], []
        for choice in question.choices:
            lead, scored = question.parts(choice)
            prompt = self.engine.render(messages) + lead if lead else messages
            totals.append(float(np.sum(self.engine.score(prompt, scored), dtype=np.float64)))
            lengths.append(len(scored.encode()))
        likeliest = int(np.argmax(totals))
        likeliest_norm = int(np.argmax(np.array(totals) / np.array(lengths)))
        right, right_norm = likeliest == question.answer, likeliest_norm == question.answer
        where = (question.set_name, question.id, document, title, column)
        return ChoiceCase(*where, tuple(totals), question.answer, right, right_norm, asked)

    def _chat(
        self, prompt: str, document: int, title: str, column: str, asked: bool, replies: dict[str, str]
    ) -> ChatCase:
        """`replies` holds what the base says without adapter; its column comes first."""
        self._step(title)
        reply = ask(self.engine, prompt, self.options.max_tokens, self.cancel)
        own = replies.setdefault(prompt, reply)
        scores = self.engine.score([ChatMessage("user", prompt)], own)
        total = float(np.sum(scores, dtype=np.float64))
        same = reply == own
        alike = 1.0 if same else rouge_l(reply, own)  # ROUGE-L knows ASCII words only, and there may be none
        return ChatCase(prompt, document, title, column, reply, total, len(scores), same, alike, asked)
