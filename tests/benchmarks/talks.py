"""`python -m tests.benchmarks.talks [DOCUMENTS] [TASK]`: questions on one document, one after the other in a chat.

Documents of 256 tokens with four facts, two attributes of two names each, digits and words in turn. A chat asks three
of them in full and the fourth by a follow-up ("And of Berlin?"); earlier replies are the model's own, right or wrong.
Each question is also asked in a chat of its own. TASK describes a task that is in force beside the document.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

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
from localhyper.evaluate.metrics import holds_value
from localhyper.workbench import Workbench
from tests.benchmarks.shipped import attached_task, on_shipped_models, share

DOCUMENTS, TOKENS, REPLY = 40, 256, 32
TURNS = ("first question", "second", "third", "follow-up")


@dataclass(frozen=True)
class Talk:
    """A document and what is asked of it: question, its value, and the values of the other facts."""

    text: str
    questions: tuple[tuple[str, str], ...]


def make_talk(index: int, sentences: Sequence[str], tokenize: Tokenize) -> Talk:
    """The talk of this number."""
    rng, digits = random.Random(f"talk/{index}"), index % 2 == 0
    first, second = rng.sample(DIGIT_ATTRIBUTES if digits else WORD_ATTRIBUTES, 2)
    one = make_name(rng, "test")
    other = next(name for name in iter(lambda: make_name(rng, "test"), "") if name != one)
    values = rng.sample(
        [str(number) for number in range(1000, 10_000)] if digits else sorted(set(pool(NOUNS, "test"))), 4
    )
    facts = dict(zip([(first, one), (first, other), (second, other), (second, one)], values, strict=True))
    asked = [(f"What is the {attribute} of {name}?", value) for (attribute, name), value in facts.items()]
    asked[-1] = (f"{rng.choice(('And of', 'And for', 'What about'))} {one}?", values[-1])
    statements = [
        rng.choice(STATEMENTS).format(attribute=attribute, name=name, value=value)
        for (attribute, name), value in facts.items()
    ]
    filler: list[str] = []
    start = rng.randrange(len(sentences))
    depths = [rng.random() for _ in statements]
    while len(tokenize(text := insert(filler, statements, depths))) < TOKENS - 24:
        filler.append(sentences[(start + len(filler)) % len(sentences)])
    return Talk(text, tuple(asked))


def replies(bench: Workbench, documents: int, task: str) -> dict[str, list[list[tuple[bool, bool]]]]:
    """Column and turn to whether each reply holds its value, and whether it holds another one."""
    engine, sentences = bench.engine(), read_sentences(None)
    always = ChunkChooser(lambda: bench.library, standalone=False)
    columns: dict[str, Choose] = {"in a chat, all of it read": always, "**as in `chat`**": bench.choose}
    found: dict[str, list[list[tuple[bool, bool]]]] = {
        name: [[] for _ in TURNS] for name in ("in a chat of its own", *columns)
    }
    beside = [attached_task(bench, task, "task")] if task else []
    for index in track(range(documents), "asking", console=Console(stderr=True)):
        talk = make_talk(index, sentences, engine.tokenize)
        made = bench.attach(make_document(f"talk {index}", talk.text), bench.options(f"talk-{index}"))
        uses = [AdapterUse(made.result.adapter.path), *beside]
        for name, turns in found.items():
            session = ChatSession(
                engine, adapters=uses, sampling=Sampling(max_tokens=REPLY), choose=columns.get(name, bench.choose)
            )
            for turn, (question, value) in zip(turns, talk.questions, strict=True):
                if name not in columns:
                    session.reset()
                reply = "".join(piece.text for piece in session.ask(question))
                others = [other for _, other in talk.questions if other != value]
                turn.append((holds_value(reply, value), any(holds_value(reply, other) for other in others)))
    return found


def report(bench: Workbench, documents: int, task: str) -> None:
    """Measure, and print the table."""
    print(f"| {documents} documents of four facts, right value (another one), % | {' | '.join(TURNS)} |")
    print(f"|---|{'---|' * len(TURNS)}")
    for name, turns in replies(bench, documents, task).items():
        print(f"| {name} | {' | '.join(map(_cell, turns))} |")


def _cell(turn: Sequence[tuple[bool, bool]]) -> str:
    others = sum(other for _, other in turn) / len(turn)
    return f"{share([right for right, _ in turn])} ({100 * others:.0f})"


def main(documents: int = DOCUMENTS, task: str = "") -> int:
    """Print the table; the exit code."""
    return on_shipped_models(lambda bench: report(bench, documents, task))


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else DOCUMENTS, *given[1:]))
