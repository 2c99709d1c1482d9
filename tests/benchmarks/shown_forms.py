"""`python -m tests.benchmarks.shown_forms [DOCUMENTS] [EXAMPLES]`: forms that no training has, shown by examples.

Needle documents of 256 tokens, digits, and tasks in forms that the shipped hypernetwork does not know: by their
description alone, and with examples, which are learnt: questions of what everybody knows, answered in that form.
"""

from __future__ import annotations

import random
import re
import sys

from rich.console import Console
from rich.progress import track

from localhyper.evaluate.haystack import HaystackMaker, read_sentences
from localhyper.evaluate.metrics import holds_value
from localhyper.export.known_facts import known_facts
from localhyper.task_examples import TaskExample, described
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import ask_with, attached_task, needles, on_shipped_models, share

DOCUMENTS, EXAMPLES, TOKENS, REPLY = 20, 10, 256, 48
FORMS = {
    "({})": "Put the answer in parentheses.",
    "answer = {}": "Write the answer as answer = …",
    "<{}>": "Put the answer between angle brackets.",
    "-> {}": "Write an arrow and then the answer.",
    "Result: {};": "Write Result, a colon, the answer and a semicolon.",
    "{} is what I found.": "Say the answer and that this is what you found.",
}
COLUMNS = ("description", "description and examples", "another form's, both")


def examples(form: str, count: int) -> list[TaskExample]:
    """Questions and answers in a form, the same questions for all forms."""
    pairs = random.Random(4).sample(known_facts(), count)
    return [TaskExample(pair.question, form.format(pair.value)) for pair in pairs]


def report(bench: Workbench, documents: int, count: int) -> None:
    """Measure, and print the tables."""
    engine = bench.engine()
    plain = {form: attached_task(bench, text, f"plain-{n}") for n, (form, text) in enumerate(FORMS.items())}
    shown = {
        form: attached_task(bench, described(text, examples(form, count)), f"shown-{n}")
        for n, (form, text) in enumerate(FORMS.items())
    }
    others = dict(zip(FORMS, [*list(shown.values())[1:], next(iter(shown.values()))], strict=True))
    found: dict[str, dict[str, list[tuple[bool, bool]]]] = {name: {form: [] for form in FORMS} for name in COLUMNS}
    maker = HaystackMaker(read_sentences(None), engine.tokenize, TOKENS, "digits", seed=12)
    for document, fact in track(needles(bench, maker, documents), "asking", documents, console=Console(stderr=True)):
        chunk, *_ = bench.choose([fact.question], [document], engine).uses or (document,)
        for form in FORMS:
            for name, tasks in zip(COLUMNS, (plain, shown, others), strict=True):
                reply = ask_with(engine, [chunk, tasks[form]], fact.question, REPLY)
                pattern = r"\S+".join(re.escape(part) for part in form.split("{}"))
                found[name][form].append((holds_value(reply, fact.value), re.fullmatch(pattern, reply) is not None))
    print(f"{documents} documents of {TOKENS} tokens, {len(FORMS)} forms never trained with, {count} examples\n")
    print("| | right value, % | in the form, % | both, % |\n|---|---|---|---|")
    for name, by_form in found.items():
        every = [both for of_form in by_form.values() for both in of_form]
        cells = ([right for right, _ in every], [formed for _, formed in every], [all(both) for both in every])
        print(f"| {name} | {' | '.join(map(share, cells))} |")
    print(f"\n| both, % | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for form in FORMS:
        cells_of = (100 * sum(map(all, found[name][form])) / documents for name in COLUMNS)
        print(f"| `{form.format('…')}` | {' | '.join(f'{value:.0f}' for value in cells_of)} |")


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]] or [DOCUMENTS]
    counts = (*given, EXAMPLES)[:2]
    sys.exit(on_shipped_models(lambda bench: report(bench, *counts)))
