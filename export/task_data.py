"""Tasks with their descriptions and instances as token ids, and which of them a step is made of.

A prompt is the base's chat template with the instance's input alone as the user's turn: what is to be done stands in
the description only, so the adapter has to carry it. What a step draws is a pure function of (seed, step, process), and
task i of all processes is the same however many there are. Knows tokens only through the tokenizer it is given.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from localhyper.errors import ConfigError
from localhyper.export.data_files import read_rows, read_sentences
from localhyper.export.example_config import ExamplesConfig
from localhyper.export.prompts import PromptFormat
from localhyper.export.task_config import TaskDataConfig
from localhyper.task_examples import GAP, TaskExample

Ids = NDArray[np.int32]
TRIED = 4  # examples drawn for each that is wanted, as some are longer than what room is left
SENTENCES, GIBBERISH = 384, 128  # descriptions of no task that are kept to draw from


@dataclass(frozen=True)
class Row:
    """An instance.

    Attributes:
        ids: Ids of prompt + answer + end of turn.
        prompt: How many of them are the prompt.
        shown: Ids of the instance as an example after a description, the gap first; none where no examples are read.
    """

    ids: Ids
    prompt: int
    shown: Ids | None = None


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: As the file calls it.
        descriptions: Ids of descriptions to train with, the definition not among them.
        definition: Ids of its definition.
        unseen: Ids of descriptions that are never trained with; those to train with where there are no others.
        rows: Its instances.
    """

    name: str
    descriptions: tuple[Ids, ...]
    definition: Ids
    unseen: tuple[Ids, ...]
    rows: tuple[Row, ...]


class RowMaker:
    """Instances and descriptions to token ids, for one base model."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: PromptFormat, max_tokens: int, data: TaskDataConfig, *, shown: bool = False
    ) -> None:
        """`shown`: rows are made as examples, too."""
        self.tokenizer, self.prompts, self.max_tokens, self.data = tokenizer, prompts, max_tokens, data
        self.shown = shown

    @property
    def prefix(self) -> list[int]:
        """Ids before a description."""
        return self._encode([self.prompts.chunk_prefix])[0]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def descriptions(self, texts: Iterable[str]) -> tuple[Ids, ...]:
        """Ids of descriptions, cut at the most that are read; empty ones are left out."""
        found = self._encode([text.strip() for text in texts if text.strip()])
        return tuple(np.array(ids[: self.max_tokens], np.int32) for ids in found)

    def rows(self, pairs: Iterable[tuple[str, str]]) -> tuple[Row, ...]:
        """Inputs with their outputs as rows; what has no answer or does not fit is left out."""
        kept = [(given.strip(), wanted.strip()) for given, wanted in pairs if wanted.strip()]
        prompts = self._encode([self.prompts.render(given) for given, _ in kept])
        answers = self._encode([wanted + self.prompts.end_of_turn for _, wanted in kept])
        shown = self._shown(kept)
        longest, widest = self.data.answer_tokens, self.data.buckets[-1]
        built = [
            Row(np.array(prompt + answer[:longest], np.int32), len(prompt), example)
            for prompt, answer, example in zip(prompts, answers, shown, strict=True)
        ]
        return tuple(row for row in built if len(row.ids) <= widest)

    def _shown(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Ids | None]:
        """Ids of instances as they follow a description."""
        if not self.shown:
            return [None] * len(pairs)
        texts = [f"{GAP}{TaskExample(given, wanted).shown()}" for given, wanted in pairs]
        return [np.array(ids, np.int32) for ids in self._encode(texts)]

    @property
    def gap(self) -> int:
        """How many ids of an example are the gap before it."""
        with_gap, without = self._encode([f"{GAP}Input", "Input"])
        return len(with_gap) - len(without)


def instance_pairs(row: dict[str, object], key: str = "instances") -> list[tuple[str, str]]:
    """Inputs with their outputs of a task's row in a file."""
    instances: list[dict[str, str]] = row[key]  # type: ignore[assignment]
    return [(instance["input"], instance["output"]) for instance in instances]


def read_tasks(paths: Sequence[Path], maker: RowMaker) -> list[Task]:
    """Tasks of files `{name, definition, descriptions, eval_descriptions?, instances}`; none without a row that fits.

    Raises:
        ConfigError: A file is missing or holds a line that is not in the schema.
    """
    tasks = []
    for path in paths:
        for number, row in enumerate(read_rows(path), 1):
            try:
                task = _task(row, maker)
            except (KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"{path} line {number} is no task: {type(error).__name__} {error}",
                    "one task a line: {name, definition, descriptions, instances: [{input, output}]}",
                ) from None
            tasks += [task] if task.rows else []
    return tasks


def _task(row: dict[str, object], maker: RowMaker) -> Task:
    definition = str(row["definition"])
    texts: list[str] = row["descriptions"]  # type: ignore[assignment]
    others: list[str] = row.get("eval_descriptions", [])  # type: ignore[assignment]
    given = maker.descriptions(text for text in texts if text.strip() != definition.strip())
    (whole,) = maker.descriptions([definition])
    unseen = maker.descriptions(others) or given or (whole,)
    return Task(str(row["name"]), given or (whole,), whole, unseen, maker.rows(instance_pairs(row)))


def meaningless_descriptions(texts: Sequence[Path], maker: RowMaker, seed: int) -> tuple[Ids, ...]:
    """Descriptions of no task: sentences of books, their words in any order, and random letters."""
    rng = random.Random(f"{seed}/meaningless")
    sentences = [sentence for path in texts for sentence in read_sentences(path)]
    found = rng.sample(sentences, min(SENTENCES, len(sentences)))
    for sentence in found[: GIBBERISH // 2]:
        words = sentence.split()
        found.append(" ".join(rng.sample(words, len(words))))
    for _ in range(GIBBERISH // 2):
        words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 10))) for _ in range(rng.randint(2, 30))]
        found.append(" ".join(words))
    return maker.descriptions(found)


def _in_rounds(rng: random.Random, numbers: Sequence[int], wanted: int) -> list[int]:
    """At least `wanted` of them: all in a random order, and again in another until there are enough."""
    return [number for _ in range(-(-wanted // len(numbers))) for number in rng.sample(numbers, len(numbers))]


def thinned(rng: random.Random, ids: Ids, dropped: float) -> Ids:
    """A share of tokens left out, at least one kept."""
    if not dropped:
        return ids
    kept = [rng.random() >= dropped for _ in ids]
    return ids[kept] if any(kept) else ids


@dataclass(frozen=True)
class ShownExamples:
    """How examples follow a description.

    Attributes:
        config: How many do.
        room: Most tokens of both.
        gap: How many ids of an example are the gap before it.
    """

    config: ExamplesConfig
    room: int
    gap: int


@dataclass(frozen=True)
class Drawn:
    """A task that a step is about.

    Attributes:
        task: Its number.
        description: Ids of the description drawn.
        rows: Its rows drawn.
        key: A text that tells it from all others drawn in a run, to make more random numbers of.
    """

    task: int
    description: Ids
    rows: tuple[Row, ...]
    key: str


class TaskDrawer:
    """Which tasks, descriptions and rows a step is made of."""

    def __init__(
        self,
        tasks: Sequence[Task],
        data: TaskDataConfig,
        seed: int,
        split: str,
        *,
        unseen: bool,
        shown: ShownExamples | None = None,
    ) -> None:
        """Draw from `tasks`; `unseen`: with descriptions that are never trained with; `shown`: with examples, too."""
        self.tasks, self.data, self.seed, self.split, self.unseen = tasks, data, seed, split, unseen
        self.shown = shown
        self._fitting = [self._by_task(low, high) for low, high in zip((0, *data.buckets), data.buckets, strict=False)]
        self._sizes = [sum(map(len, fitting.values())) for fitting in self._fitting]
        if not sum(self._sizes):
            raise ConfigError(f"no {split} task has a row of at most {data.buckets[-1]} tokens", "give more tasks")

    def _by_task(self, low: int, high: int) -> dict[int, list[Row]]:
        fits = {
            number: [row for row in task.rows if low < len(row.ids) <= high] for number, task in enumerate(self.tasks)
        }
        return {number: rows for number, rows in fits.items() if rows}

    def lacking(self, rows: int) -> list[int]:
        """Widths of which there are rows, but no task has so many: rows of one draw would be there twice."""
        most = [max(map(len, fitting.values()), default=rows) for fitting in self._fitting]
        return [width for width, count in zip(self.data.buckets, most, strict=True) if count < rows]

    def draw(self, step: int, count: int, rows: int, process: int = 0, processes: int = 1) -> tuple[int, list[Drawn]]:
        """The width that a step's rows are padded to, and `count` tasks of this process.

        The width is drawn in proportion to the instances that need it, then tasks that have enough of them, alike.
        """
        name = f"{self.seed}/{self.split}/{step}"
        rng = random.Random(name)
        index = rng.choices(range(len(self._sizes)), self._sizes)[0]
        fitting = self._fitting[index]
        enough = [number for number, found in fitting.items() if len(found) >= rows] or list(fitting)
        wanted = count * processes
        chosen = _in_rounds(rng, enough, wanted)
        places = range(process * count, (process + 1) * count)
        return self.data.buckets[index], [
            self._drawn(chosen[place], fitting[chosen[place]], rows, f"{name}/{place}") for place in places
        ]

    def draw_tasks(self, step: int, count: int, process: int = 0, processes: int = 1) -> list[Drawn]:
        """`count` tasks of this process with a description each, and no rows."""
        name = f"{self.seed}/{self.split}/{step}"
        rng, wanted = random.Random(name), count * processes
        chosen = _in_rounds(rng, range(len(self.tasks)), wanted)
        places = range(process * count, (process + 1) * count)
        return [self._drawn(chosen[place], (), 0, f"{name}/{place}") for place in places]

    def _drawn(self, number: int, fitting: Sequence[Row], rows: int, key: str) -> Drawn:
        rng, task = random.Random(key), self.tasks[number]
        picked = rng.sample(fitting, min(rows, len(fitting)))
        picked = [picked[i % len(picked)] for i in range(rows)]
        text = self._description(rng, task)
        if self.shown is not None:
            text = self._with_examples(rng, task, text, picked, self.shown)
        return Drawn(number, text, tuple(picked), key)

    def _description(self, rng: random.Random, task: Task) -> Ids:
        if self.unseen:
            return rng.choice(task.unseen)
        text = task.definition if rng.random() < self.data.definitions else rng.choice(task.descriptions)
        return thinned(rng, text, self.data.dropped)

    def _with_examples(
        self, rng: random.Random, task: Task, text: Ids, asked: Sequence[Row], how: ShownExamples
    ) -> Ids:
        """The description and examples of the task that are not asked, as many as there is room for.

        Long ones can leave no room; the description is then alone.
        """
        alone = rng.random() < how.config.alone
        wanted, left = rng.randint(1, how.config.most), how.room - (0 if alone else len(text))
        used = {id(row) for row in asked}
        others = [row.shown for row in task.rows if row.shown is not None and id(row) not in used]
        found: list[Ids] = []
        for shown in rng.sample(others, min(len(others), TRIED * wanted)):
            if len(found) < wanted and len(shown) <= left:
                found.append(shown)
                left -= len(shown)
        if not found:
            return text
        joined = np.concatenate(found)
        return joined[how.gap :] if alone else np.concatenate((text, joined))
