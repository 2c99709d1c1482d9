"""The demonstration: attach a sample document, ask about it without and with its adapter, print what the model says.

Nothing is chosen or improved: every reply is the model's own, right or wrong, and is marked as what it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from localhyper.chat import ChatSession
from localhyper.cli_output import ProgressView, beside, chunks, own_adapter, seconds, size, stage_times
from localhyper.engine import AdapterUse
from localhyper.errors import ConfigError
from localhyper.jobs import JobRequest
from localhyper.progress import CancelToken
from localhyper.workbench import Attached, Workbench

SAMPLES = ("harbour-note", "harbour-office")  # one chunk, several chunks
REPLY_TOKENS = 40
Print = Callable[[str], None]


@dataclass(frozen=True)
class SampleQuestion:
    """A question about the sample; `about_document` is False for one that has nothing to do with it."""

    question: str
    answer: str
    about_document: bool = True


def sample_path(sample: str) -> Path:
    """A sample document in the package."""
    return Path(str(files("localhyper") / "samples" / f"{sample}.txt"))


def sample_questions(sample: str) -> list[SampleQuestion]:
    """The questions that belong to a sample, an unrelated one last."""
    text = (files("localhyper") / "samples" / f"{sample}.questions.json").read_text(encoding="utf-8")
    data = json.loads(text)
    about = [SampleQuestion(item["question"], item["answer"]) for item in data["questions"]]
    return about + [SampleQuestion(item["question"], item["answer"], False) for item in data["unrelated"]]


def run_demo(bench: Workbench, sample: str, put: Print, note: Print, token: CancelToken) -> None:
    """Attach, ask, print.

    Args:
        bench: Models and library.
        sample: One of `SAMPLES`.
        put: Takes lines for stdout.
        note: Takes lines for stderr.
        token: Stops between tokens and chunks.

    Raises:
        ConfigError: There is no such sample.
        LocalHyperError: Whatever attaching or asking raises.
    """
    if sample not in SAMPLES:
        raise ConfigError(f"there is no sample `{sample[:40]}`", f"choose one of {', '.join(SAMPLES)}")
    base = bench.base_info
    put(f"base model      {base.name}, {base.quantization}, {size(base.size_bytes)}")
    put(f"hypernetwork    {bench.bundle.name}, {size(bench.bundle.path.stat().st_size)}")
    attached = _attach(bench, sample, token)
    _show_adapter(attached, put)
    right = _ask_all(bench, sample, attached, put, token)
    for label, (count, total) in right.items():
        put(f"{label:<17} {count} of {total} answers hold what the document says")
    adapter = attached.result.adapter
    note(f'\nmore: localhyper ask "Who keeps the lighthouse?" --with {adapter.name} --compare')


def _attach(bench: Workbench, sample: str, token: CancelToken) -> Attached:
    with ProgressView() as view:
        document = bench.read(JobRequest(source=str(sample_path(sample))), progress=view, cancel=token)
        return bench.attach(document, bench.options(), progress=view, cancel=token)


def _show_adapter(attached: Attached, put: Print) -> None:
    adapter, result = attached.result.adapter, attached.result
    put(f"document        {adapter.title}: {adapter.tokens:,} tokens in {chunks(adapter.chunks)}")
    made = f"made in {seconds(sum(result.timings.values()))} ({stage_times(result.timings)})"
    lines = [*filter(None, (own_adapter(adapter), beside(adapter)))]
    put(f"adapter         {adapter.name}: {lines[0]}")
    for line in (*lines[1:], "attached before, nothing to do" if result.reused else made):
        put(f"                {line}")
    put(f"file            {adapter.place}")


def _ask_all(
    bench: Workbench, sample: str, attached: Attached, put: Print, token: CancelToken
) -> dict[str, tuple[int, int]]:
    """Every question without and with the adapter; right answers about the document are counted."""
    sampling = replace(bench.sampling, temperature=0.0, max_tokens=REPLY_TOKENS)
    session = ChatSession(bench.engine(), sampling=sampling, choose=bench.choose)
    ways: dict[str, list[AdapterUse]] = {
        "without adapter": [],
        "with adapter": [AdapterUse(attached.result.adapter.path)],
    }
    questions = sample_questions(sample)
    right = dict.fromkeys(ways, 0)
    for question in questions:
        put(f"\nQ  {question.question}" + ("" if question.about_document else "   (not in the document)"))
        for label, uses in ways.items():
            reply, took = _reply(session, question.question, uses, token)
            chunk, left_out = session.choice.chunk, session.choice.left_out
            by = f", {chunk.short}" if chunk is not None else ", not about it" if left_out else ""
            put(f"   {label:<16} {' '.join(reply.split())}   [{seconds(took)}{by}]")
            right[label] += question.about_document and question.answer.casefold() in reply.casefold()
        put(f"   {'document says' if question.about_document else 'right':<16} {question.answer}")
    put("")
    total = sum(question.about_document for question in questions)
    return {label: (count, total) for label, count in right.items()}


def _reply(session: ChatSession, question: str, uses: list[AdapterUse], token: CancelToken) -> tuple[str, float]:
    """The reply in a conversation of its own, and the seconds it took."""
    session.use(uses)
    session.reset()
    started = time.perf_counter()
    reply = "".join(piece.text for piece in session.ask(question, cancel=token))
    token.check()
    return reply, time.perf_counter() - started
