"""`python -m tests.benchmarks.talks [DOCUMENTS] [TASK] [SET]`: questions on one document, asked one by one in a chat.

Documents of 256 tokens with four facts, two attributes of two names each, digits and words in turn. A chat asks three
of them in full and the fourth by a follow-up ("And of Berlin?"). With SET, a file of a reading set, passages of it, of
four questions each. Earlier replies are the model's own, right or wrong. Each question is also asked in a chat of its
own. TASK describes a task that is in force beside the document ("" = none).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import track

from localhyper.chat import ChatSession
from localhyper.chunk_choice import Choose
from localhyper.chunk_chooser import ChunkChooser
from localhyper.engine import AdapterUse, Sampling
from localhyper.evaluate.columns import make_document
from localhyper.evaluate.fact_documents import Tokenize, insert
from localhyper.evaluate.facts import DIGIT_ATTRIBUTES, NOUNS, STATEMENTS, WORD_ATTRIBUTES, make_name, pool
from localhyper.evaluate.haystack import read_sentences
from localhyper.evaluate.metrics import best, f1, holds_value
from localhyper.evaluate.reading_set import read_reading_set
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import attached_task, on_shipped_models, share

DOCUMENTS, TOKENS, REPLY, QUESTIONS = 40, 256, 32, 4
ALONE = "in a chat of its own"
Replies = dict[str, list[list[str]]]  # column, document, turn


@dataclass(frozen=True)
class Talk:
    """A document, and what is asked of it: questions with their answers."""

    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def invented(count: int, sentences: Sequence[str], tokenize: Tokenize) -> Iterator[Talk]:
    """Talks about invented facts; each has one answer."""
    for index in range(count):
        rng, digits = random.Random(f"talk/{index}"), index % 2 == 0
        first, second = rng.sample(DIGIT_ATTRIBUTES if digits else WORD_ATTRIBUTES, 2)
        one = other = make_name(rng, "test")
        while other == one:
            other = make_name(rng, "test")
        words = sorted(set(pool(NOUNS, "test")))
        values = rng.sample([str(number) for number in range(1000, 10_000)] if digits else words, QUESTIONS)
        facts = dict(zip([(first, one), (first, other), (second, other), (second, one)], values, strict=True))
        asked = [(f"What is the {attribute} of {name}?", (value,)) for (attribute, name), value in facts.items()]
        asked[-1] = (f"{rng.choice(('And of', 'And for', 'What about'))} {one}?", (values[-1],))
        statements = [
            rng.choice(STATEMENTS).format(attribute=attribute, name=name, value=value)
            for (attribute, name), value in facts.items()
        ]
        filler: list[str] = []
        start, depths = rng.randrange(len(sentences)), [rng.random() for _ in statements]
        while len(tokenize(text := insert(filler, statements, depths))) < TOKENS - 24:
            filler.append(sentences[(start + len(filler)) % len(sentences)])
        yield Talk(text, tuple(asked))


def of_set(path: Path, count: int) -> list[Talk]:
    """Talks about passages of a reading set that have questions enough."""
    passages = [passage for passage in read_reading_set(path) if len(passage.questions) >= QUESTIONS]
    rng = random.Random(0)
    return [
        Talk(
            passage.text,
            tuple((question.text, question.answers) for question in rng.sample(passage.questions, QUESTIONS)),
        )
        for passage in rng.sample(passages, min(count, len(passages)))
    ]


def replies(bench: Workbench, talks: Iterable[Talk], count: int, task: str) -> Replies:
    """What each column replies to each question of each document."""
    engine = bench.engine()
    always = ChunkChooser(lambda: bench.library, standalone=False)
    columns: dict[str, Choose] = {
        ALONE: bench.choose, "in a chat, all of it read": always, "**as in `chat`**": bench.choose,
    }  # fmt: skip
    found: Replies = {name: [] for name in columns}
    beside = [attached_task(bench, task, "task")] if task else []
    for index, talk in enumerate(track(talks, "asking", count, console=Console(stderr=True))):
        made = bench.attach(make_document(f"talk {index}", talk.text), bench.options(f"talk-{index}"))
        uses = [AdapterUse(made.result.adapter.path), *beside]
        for name, choose in columns.items():
            session = ChatSession(engine, adapters=uses, sampling=Sampling(max_tokens=REPLY), choose=choose)
            turns = []
            for question, _ in talk.questions:
                if name == ALONE:
                    session.reset()
                turns.append("".join(piece.text for piece in session.ask(question)))
            found[name].append(turns)
    return found


def report_facts(bench: Workbench, count: int, task: str) -> None:
    """Right values by turn, and in brackets how often it was another fact's."""
    talks = list(invented(count, read_sentences(None), bench.engine().tokenize))
    print(f"| {count} documents of four facts, right value (another one), % | first | second | third | follow-up |")
    print("|---|---|---|---|---|")
    for name, documents in replies(bench, talks, count, task).items():
        cells = []
        for turn in range(QUESTIONS):
            said = [(turns[turn], talk) for turns, talk in zip(documents, talks, strict=True)]
            values = [[value for _, (value,) in talk.questions] for _, talk in said]
            right = [holds_value(reply, of[turn]) for (reply, _), of in zip(said, values, strict=True)]
            others = [
                any(holds_value(reply, value) for value in of if value != of[turn])
                for (reply, _), of in zip(said, values, strict=True)
            ]
            cells.append(f"{share(right)} ({100 * mean(others):.0f})")
        print(f"| {name} | {' | '.join(cells)} |")


def report_set(bench: Workbench, path: Path, count: int, task: str) -> None:
    """F1 by turn."""
    talks = of_set(path, count)
    print(f"| {len(talks)} passages, F1 % | first question | second | third | fourth | all |")
    print("|---|---|---|---|---|---|")
    for name, documents in replies(bench, talks, len(talks), task).items():
        scores = [
            [best(f1, turns[turn], talk.questions[turn][1]) for turns, talk in zip(documents, talks, strict=True)]
            for turn in range(QUESTIONS)
        ]
        means = [mean(of_turn) for of_turn in scores]
        cells = [f"{100 * value:.1f}" for value in (*means, mean(means))]
        print(f"| {name} | {' | '.join(cells)} |")


def main(documents: int = DOCUMENTS, task: str = "", reading: str = "") -> int:
    """Print the table; the exit code."""
    if reading:
        return on_shipped_models(lambda bench: report_set(bench, Path(reading), documents, task))
    return on_shipped_models(lambda bench: report_facts(bench, documents, task))


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else DOCUMENTS, *given[1:]))
