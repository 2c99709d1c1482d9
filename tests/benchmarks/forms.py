"""`python -m tests.benchmarks.forms [DOCUMENTS] [BUNDLE] [VALUES]`: a document's fact in the form that a task asks for.

Needle documents of 256 tokens; forms of `export/answer_forms.toml`, asked for by descriptions that no training has
seen, and two forms that none has either. The rival needs no task hypernetwork: the document's adapter, and the
description before the question in the prompt. BUNDLE is a task hypernetwork in the place of the shipped one ("" = that
one), VALUES "digits" or "words" in the place of both.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from string import Formatter
from typing import get_args

from rich.console import Console
from rich.progress import track

from localhyper.evaluate.haystack import HaystackMaker, Values, read_sentences
from localhyper.evaluate.metrics import holds_value
from localhyper.export.answer_forms import AnswerForm, answer_forms
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import ask_with, attached_task, needles, on_shipped_models, share

DOCUMENTS, TOKENS, REPLY = 20, 256, 48
SENTENCE = r"\S+(?: \S+){3,}"  # four words or more
COLUMNS = ("document", "description in the prompt", "task", "another form's task")


@dataclass(frozen=True)
class Reply:
    """One reply: whether it holds the right value, and whether it has the form asked for."""

    form: AnswerForm
    right: bool
    formed: bool

    @property
    def both(self) -> bool:
        """The fact in the form."""
        return self.right and self.formed


def has_form(form: AnswerForm, reply: str, question: str) -> bool:
    """Whether a reply is in the form, whatever its value."""
    known = {"value": r"\S+", "json": r'"[^"\n]+"', "sentence": SENTENCE, "question": re.escape(question)}
    parts = [(re.escape(text), known.get(field or "", "")) for text, field, *_ in Formatter().parse(form.answer)]
    pattern = "".join(text + field for text, field in parts)
    cased = {"": reply, "upper": reply.upper(), "lower": reply.lower()}[form.case]
    return reply == cased and re.fullmatch(pattern, reply) is not None


def replies(bench: Workbench, count: int, bundle: str, values: Values) -> dict[str, list[Reply]]:
    """Column to the replies of all documents and forms."""
    engine, found, forms = bench.engine(), dict[str, list[Reply]]({name: [] for name in COLUMNS}), answer_forms()
    tasks = {
        text: attached_task(bench, text, f"task-{place}-{number}", bundle)
        for place, form in enumerate(forms)
        for number, text in enumerate(form.unseen)
    }
    maker = HaystackMaker(read_sentences(None), engine.tokenize, TOKENS, values, seed=11)
    cases = track(needles(bench, maker, count), "asking", count, console=Console(stderr=True))
    for index, (document, fact) in enumerate(cases):
        texts = [form.unseen[index % len(form.unseen)] for form in forms]
        chunk, *_ = bench.choose([fact.question], [document], engine).uses or (document,)
        alone = ask_with(engine, [chunk], fact.question, REPLY)
        for place, (form, text) in enumerate(zip(forms, texts, strict=True)):
            given = (
                alone,
                ask_with(engine, [chunk], f"{text}\n\n{fact.question}", REPLY),
                ask_with(engine, [chunk, tasks[text]], fact.question, REPLY),
                ask_with(engine, [chunk, tasks[texts[place - 1]]], fact.question, REPLY),
            )
            for name, reply in zip(COLUMNS, given, strict=True):
                right = holds_value(reply, fact.value)
                found[name].append(Reply(form, right, has_form(form, reply, fact.question)))
    return found


def report(bench: Workbench, count: int, bundle: str, values: Values) -> None:
    """Measure, and print the tables."""
    found, forms = replies(bench, count, bundle, values), answer_forms()
    print(
        f"{count} documents of {TOKENS} tokens, {sum(not form.test for form in forms)} forms that training has seen\n"
    )
    print("| | right value, % | in the form, % | both, % |\n|---|---|---|---|")
    for name, given in found.items():
        known = [reply for reply in given if not reply.form.test]
        cells = ([r.right for r in known], [r.formed for r in known], [r.both for r in known])
        print(f"| {name} | {' | '.join(map(share, cells))} |")
    print(f"\n| form, both, % | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for form in forms:
        of_form = [[reply.both for reply in given if reply.form == form] for given in found.values()]
        name = f"{form.name} (never trained)" if form.test else form.name
        print(f"| {name} | {' | '.join(f'{100 * sum(flags) / len(flags):.0f}' for flags in of_form)} |")


def main(count: int = DOCUMENTS, bundle: str = "", values: str = "both") -> int:
    """Print the tables; the exit code."""
    kinds: dict[str, Values] = {kind: kind for kind in get_args(Values)}
    if values not in kinds:
        print(f"error: VALUES is {values!r}, wanted one of {', '.join(kinds)}", file=sys.stderr)
        return 2
    return on_shipped_models(lambda bench: report(bench, count, bundle, kinds[values]))


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else DOCUMENTS, *given[1:]))
