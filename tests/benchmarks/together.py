"""`python -m tests.benchmarks.together`: a document's and a task's adapter at once, on the shipped hypernetworks.

Needle documents of 256 tokens; the task asks for one word. The document's adapter alone knows the value and answers in
a sentence; the task's alone answers in a word and knows nothing; both should answer with the value and no more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from localhyper.evaluate.haystack import HaystackMaker, read_sentences
from localhyper.evaluate.metrics import holds_value
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import ask_chosen, attached_task, needles, on_shipped_models, share

TASK = "Answer the question with one word only."
CASES, TOKENS, REPLY = 40, 256, 32
COLUMNS = ("document", "task", "both", "both, task at 0.5")


@dataclass(frozen=True)
class Reply:
    """One reply.

    Attributes:
        right: The value is in it.
        alone: It is a single word, whatever stands round it.
    """

    right: bool
    alone: bool

    @property
    def both(self) -> bool:
        """The fact in the form of the task."""
        return self.right and self.alone


def replies(bench: Workbench, cases: int) -> dict[str, list[Reply]]:
    """Column to the replies of all cases."""
    engine, found = bench.engine(), dict[str, list[Reply]]({name: [] for name in COLUMNS})
    form = attached_task(bench, TASK, "task")
    maker = HaystackMaker(read_sentences(None), engine.tokenize, TOKENS, seed=7)
    for document, fact in track(needles(bench, maker, cases), "asking", cases, console=Console(stderr=True)):
        columns = ([document], [form], [document, form], [document, replace(form, scale=0.5)])
        for name, uses in zip(COLUMNS, columns, strict=True):
            reply = ask_chosen(engine, bench.choose([fact.question], uses, engine), fact.question, REPLY)
            found[name].append(Reply(holds_value(reply, fact.value), len(reply.split()) == 1))
    return found


def report(bench: Workbench, cases: int) -> None:
    """Measure, and print the table."""
    found = replies(bench, cases)
    print(f"| {cases} documents of {TOKENS} tokens | right value, % | one word, % | the right value and no more, % |")
    print("|---|---|---|---|")
    for name, given in found.items():
        cells = ([r.right for r in given], [r.alone for r in given], [r.both for r in given])
        print(f"| {name} | {' | '.join(map(share, cells))} |")


def main(cases: int = CASES) -> int:
    """Print the table; the exit code."""
    return on_shipped_models(lambda bench: report(bench, cases))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES))
