"""Questions on passages that nobody has asked about, as a reading set: asked and answered by the base model itself.

A LoRA (`localhyper.export.question_tasks`) has the base ask about each sentence of a passage and answer itself. What
it then answers differently when it reads passage and question alone is left out (round-trip consistency: Alberti et
al. 2019, arXiv 1906.05416; PAQ, Lewis et al. 2021, arXiv 2102.07033).

    python -m localhyper.export.own_questions export/recipes/smollm2-135m-questions.toml RUN --base MODEL.gguf \
        --data DATA --out DATA/own_questions.jsonl.gz
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from localhyper.errors import ConfigError, LocalHyperError
from localhyper.evaluate.metrics import exact_match
from localhyper.export.checkpoints import load_run
from localhyper.export.command_line import data_parser, refuse
from localhyper.export.data_files import read_rows, write_rows
from localhyper.export.greedy import greedy_replies
from localhyper.export.own_summaries import WORD, Asked
from localhyper.export.prompts import read_prompt_format
from localhyper.export.question_tasks import asking
from localhyper.export.speed import fast_dtype
from localhyper.export.task_config import TaskRecipe, load_task_recipe
from localhyper.export.task_hypernetwork import LoraBank
from localhyper.export.texts import split_passage
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.torch_base import TorchBase

LONGEST_PROMPT = 420  # tokens of passage, sentence and the template round them
MOST_ASKED, MOST_ANSWER = 40, 16  # tokens of a question with its answer, and of an answer
LEAST_WORDS = 4  # of a sentence that is asked about


@dataclass(frozen=True)
class Answered(Asked):
    """A question about a passage with the answer that it was asked for."""

    answer: str


def merge_lora(base: TorchBase, run: Path, recipe: TaskRecipe) -> None:
    """Add a multi-task run's LoRA to the base's weights.

    Raises:
        ConfigError: The run has no checkpoint, or one of another shape.
    """
    bank, _ = load_run(LoraBank(recipe.hypernetwork), run)
    with torch.no_grad():
        for name, pair in bank().items():
            for block in range(recipe.hypernetwork.blocks):
                update = recipe.hypernetwork.scaling * pair.b[0, block] @ pair.a[0, block]
                base.weight(block, name).add_(update.to(base.cos.device))


def read_asked(passage: str, reply: str) -> Answered | None:
    """A reply that has a question and, on a line of its own, an answer that the passage spells; else None."""
    question, _, answer = reply.strip().partition("\n")
    question, answer = question.strip(), answer.strip()
    sound = question.endswith("?") and answer and "\n" not in answer and answer in passage
    # A question that says its answer teaches to repeat it.
    return Answered(passage, question, answer) if sound and answer.lower() not in question.lower() else None


def worth_asking(passage: str, most: int, rng: random.Random) -> list[str]:
    """At most `most` of a passage's sentences."""
    sentences = [one for one in split_passage(passage) if len(WORD.findall(one)) >= LEAST_WORDS]
    return rng.sample(sentences, min(most, len(sentences)))


def rows(titles: Mapping[str, str], kept: Iterable[Answered]) -> list[dict[str, object]]:
    """A row a passage, in the order of `titles` (passage to title), no question twice."""
    found: dict[str, dict[str, str]] = {passage: {} for passage in titles}
    for one in kept:
        found[one.passage].setdefault(one.question, one.answer)
    return [
        {"title": titles[passage], "context": passage, "qas": [{"question": q, "answers": [a]} for q, a in qas.items()]}
        for passage, qas in found.items()
        if qas
    ]


def read_passages(path: Path, limit: int, rng: random.Random) -> dict[str, str]:
    """Passages and their titles in the file's order; `limit` of them, where it is not 0.

    Raises:
        ConfigError: The file is missing, is no JSON Lines or has a line without `context`.
    """
    titles: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), 1):
        if "context" not in row:
            raise ConfigError(f"{path} line {number} has no key `context`", "one passage a line: {title, context}")
        titles[str(row["context"])] = str(row.get("title", ""))
    chosen = set(rng.sample(list(titles), min(limit or len(titles), len(titles))))
    return {passage: title for passage, title in titles.items() if passage in chosen}


class Asker:
    """A base model that was taught to ask and to answer."""

    def __init__(self, recipe: Path, run: Path, base: Path, device: str) -> None:
        made = TorchBase(base, fast_dtype(device)).to(device)
        merge_lora(made, run, load_task_recipe(recipe))
        self._base, self._tokenizer = made, load_tokenizer(base)
        self._prompts = read_prompt_format(base, "")

    def _replies(self, requests: Sequence[str], max_tokens: int, group: int) -> list[str]:
        return greedy_replies(
            self._base, self._tokenizer, self._prompts, requests, max_tokens, LONGEST_PROMPT, group=group
        )

    def ask(self, about: Sequence[tuple[str, str]], group: int) -> list[Answered]:
        """A question on each passage and sentence, where it comes to one."""
        replies = self._replies([asking(*one) for one in about], MOST_ASKED, group)
        found = [read_asked(passage, reply) for (passage, _), reply in zip(about, replies, strict=True)]
        return [one for one in found if one]

    def agreed(self, asked: Sequence[Answered], group: int) -> list[Answered]:
        """Those that it answers in the same way when it is only asked."""
        replies = self._replies([one.message for one in asked], MOST_ANSWER, group)
        return [one for one, reply in zip(asked, replies, strict=True) if exact_match(reply, one.answer)]


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = data_parser("own_questions", __doc__, "the passages", "a reading set")
    parser.add_argument("recipe", type=Path, help="recipe of the run")
    parser.add_argument("run", type=Path, help="folder of a run on question_tasks")
    parser.add_argument("--passages", default="passages.jsonl.gz", help="file of passages, inside it")
    parser.add_argument("--each", type=int, default=5, help="most sentences of a passage to ask about")
    parser.add_argument("--limit", type=int, default=0, help="passages to ask about; 0 = all")
    parser.add_argument("--group", type=int, default=256, help="requests at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    try:
        titles = read_passages(options.data / options.passages, options.limit, rng)
        pairs = [(passage, sentence) for passage in titles for sentence in worth_asking(passage, options.each, rng)]
        asker = Asker(options.recipe, options.run, options.base, options.device)
        asked = asker.ask(pairs, options.group)
        kept = asker.agreed(asked, options.group)
    except LocalHyperError as error:
        refuse(parser, error)
    made = rows(titles, kept)
    Console(stderr=True).print(
        f"{len(kept)} of {len(asked)} questions on {len(made)} passages agreed, {len(pairs)} tried"
    )
    write_rows(options.out, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
