"""Two tasks made of reading sets: to ask about a sentence of a passage, and to answer a question about a passage.

What `localhyper.export.own_questions` wants the base model to do it does not do by itself. One LoRA that is trained on
these two (recipe `smollm2-135m-questions.toml`) asks as people did, and answers in a few words of the passage, which
tells whether a question was a good one.

    python -m localhyper.export.question_tasks --base MODEL.gguf --data DATA --out DATA/question_tasks.jsonl.gz
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console

from localhyper.errors import LocalHyperError
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.data_files import read_reading, write_rows
from localhyper.export.data_sets import ASKED
from localhyper.export.own_summaries import PASSAGE, WORD, Asked
from localhyper.export.texts import Example, split_passage
from localhyper.export.tokenizer import load_tokenizer

ASK = "{passage}\n\nAsk a question that this sentence of the text answers, and answer it: {sentence}"
SHARD = 1000  # rows that count as a task of their own, so that some can be held out


def asking(passage: str, sentence: str) -> str:
    """The request for a question about a sentence of a passage."""
    return ASK.format(passage=passage, sentence=sentence)


def answering(passage: str, question: str) -> str:
    """The request for a question's answer."""
    return Asked(passage, question).message


def sentence_asked(text: str, question: str, answer: str) -> str | None:
    """The sentence with the answer that shares most words with the question; None where it is in none."""
    asked = {word.lower() for word in WORD.findall(question)}
    holding = [sentence for sentence in split_passage(text) if answer in sentence]
    return max(holding, key=lambda s: len(asked & {w.lower() for w in WORD.findall(s)}), default=None)


def instances(examples: Sequence[Example]) -> Iterator[tuple[str, str, str]]:
    """Task, input and output of all questions on the examples."""
    for example in examples:
        for pair in example.pairs:
            yield "answer", answering(example.text, pair.question), pair.answer
            sentence = sentence_asked(example.text, pair.question, pair.answer)
            if sentence:
                yield "ask", asking(example.text, sentence), f"{pair.question}\n{pair.answer}"


def task_rows(found: Sequence[tuple[str, str, str]]) -> Iterator[dict[str, object]]:
    """Rows of a task file (`docs/data.md`), each of at most `SHARD` instances."""
    for task in ("ask", "answer"):
        made = [{"input": given, "output": wanted} for kind, given, wanted in found if kind == task]
        for number, start in enumerate(range(0, len(made), SHARD)):
            name = f"{task}_{number:03}"
            shown = made[start : start + SHARD]
            yield {"name": name, "definition": task, "descriptions": [task], "instances": shown}


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("question_tasks", __doc__, "the reading sets", "a task file")
    parser.add_argument("--sets", nargs="*", default=list(ASKED), help="reading sets, inside it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        tokenizer = load_tokenizer(options.base)
        examples = [one for name in options.sets for one in read_reading(options.data / name, tokenizer, PASSAGE)]
        found = list(instances(examples))
        random.Random(options.seed).shuffle(found)
        write_rows(options.out, task_rows(found))
    except LocalHyperError as error:
        refuse(parser, error)
    Console(stderr=True).print(f"{len(found)} instances on {len(examples)} passages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
