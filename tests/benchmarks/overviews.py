"""`python -m tests.benchmarks.overviews SET [DOCUMENTS]`: what documents with titles say that they are about.

A reply is right that has the title's words, one after the other; nothing else in a question or prompt has them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from localhyper.chunk_choice import whole
from localhyper.engine import AdapterUse
from localhyper.evaluate.columns import make_document
from localhyper.evaluate.metrics import holds_value
from localhyper.evaluate.reading_set import Passage, read_reading_set
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import ask_with, on_shipped_models, share

QUESTIONS = ("What is this document about?", "What is it about?", "Summarize this document.", "Give me an overview.")
DOCUMENTS, REPLY, MOST_CHARACTERS = 20, 40, 20_000
COLUMNS = ("no adapter", "all chunks at once", "as in `ask`")


def titled(path: Path, count: int) -> list[Passage]:
    """Passages of different titles, with spaces for underscores in them."""
    passages = [p for p in read_reading_set(path) if p.title and len(p.text) <= MOST_CHARACTERS]
    random.Random(0).shuffle(passages)
    by_title = {p.title.replace("_", " "): p for p in passages}
    return [replace(p, title=title) for title, p in list(by_title.items())[:count]]


def replies(bench: Workbench, passages: Sequence[Passage]) -> dict[str, list[bool]]:
    """Column to whether the reply to each question on each document names it."""
    engine, found = bench.engine(), dict[str, list[bool]]({name: [] for name in COLUMNS})
    for number, passage in enumerate(track(passages, "asking", console=Console(stderr=True))):
        document = make_document(passage.title, passage.text)
        made = bench.attach(document, bench.options(f"document-{number}")).result.adapter
        uses = (AdapterUse(bench.made_whole(made).path),)
        for question in QUESTIONS:
            asked = ((), whole([question], uses, engine).uses, bench.choose([question], uses, engine).uses)
            for name, chosen in zip(COLUMNS, asked, strict=True):
                found[name].append(holds_value(ask_with(engine, chosen, question, REPLY), passage.title))
    return found


def report(bench: Workbench, path: Path, documents: int) -> None:
    """Measure, and print the table."""
    passages = titled(path, documents)
    found = replies(bench, passages)
    print(f"| {len(QUESTIONS)} questions on each of {len(passages)} documents | replies with the title, % |\n|---|---|")
    for name, flags in found.items():
        print(f"| {name} | {share(flags)} |")


def main(path: Path, documents: int = DOCUMENTS) -> int:
    """Print the table; the exit code."""
    return on_shipped_models(lambda bench: report(bench, path, documents))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:3])))
