"""The columns of the task suites: what stands in the prompt and which adapter acts, and which of them can be measured.

The user's message is the input in all columns, put into the model's own chat template with no instruction added; what a
column puts before it says its row of `COLUMNS`. Knows no scores; `task_frame` runs the columns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from localhyper.config import did_you_mean
from localhyper.engine import ChatMessage
from localhyper.errors import ConfigError
from localhyper.evaluate.columns import Skipped
from localhyper.evaluate.task_items import Shot, Subject
from localhyper.task_examples import TaskExample, described

SHOTS = 3  # unless `--shots` says otherwise
Adapter = Literal["", "multitask", "per-task", "own", "other", "random"]
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Column:
    """One way to answer.

    Attributes:
        title: For people.
        adapter: Empty = none; `multitask` one LoRA of all training tasks, `per-task` one that was trained on the task,
            and of those that the hypernetwork makes: `own` of the task's description, `other` of another task's,
            `random` of random words.
        described: Whether the task's description stands before the first message, inside it.
        shown: Whether examples stand before the input, as turns of the conversation.
        learnt: Whether the adapter is taught the same examples.
        alone: Whether it is made of examples without a description.
    """

    title: str
    adapter: Adapter = ""
    described: bool = False
    shown: bool = False
    learnt: bool = False
    alone: bool = False

    @property
    def generated(self) -> bool:
        """Whether the hypernetwork makes its adapter."""
        return self.adapter in ("own", "other", "random")

    @property
    def needs_description(self) -> bool:
        """Whether there must be a description of the task."""
        return self.described or (self.generated and not self.alone)


COLUMNS = {
    "base": Column("input alone"),
    "described": Column("description in the prompt", described=True),
    "few-shot": Column("examples in the prompt", shown=True),
    "few-shot-described": Column("description and examples in the prompt", described=True, shown=True),
    "multitask": Column("multi-task LoRA", "multitask"),
    "multitask-described": Column("multi-task LoRA, description in the prompt", "multitask", described=True),
    "per-task": Column("LoRA trained on the task", "per-task"),
    "generated": Column("generated", "own"),
    "generated-described": Column("generated, description in the prompt", "own", described=True),
    "generated-examples": Column("generated from the description, examples learnt", "own", learnt=True),
    "examples": Column("examples learnt, no description", "own", learnt=True, alone=True),
    "shuffled": Column("generated, another task's description", "other"),
    "shuffled-examples": Column("generated, another task's description and examples", "other", learnt=True),
    "random": Column("generated, random words as description", "random"),
}
GENERATED = "generated"
# Measured only when asked for.
EXTRA = ("few-shot-described", "generated-described", "generated-examples", "examples", "shuffled-examples")


@dataclass(frozen=True)
class Available:
    """What a run was given.

    Attributes:
        hypernetwork: Whether descriptions become adapters.
        multitask: Whether there is a multi-task LoRA.
        per_task: Whether there are LoRAs of the tasks.
        shots: How many examples are shown, or learnt.
    """

    hypernetwork: bool = True
    multitask: bool = False
    per_task: bool = False
    shots: int = SHOTS


def needs_hypernetwork(names: Collection[str]) -> bool:
    """Whether one of the columns generates; no name = all that can be measured."""
    return not names or any(COLUMNS[name].generated for name in names)


def parse_columns(text: str) -> tuple[str, ...]:
    """Names with commas between them, each once, in the order of `COLUMNS`; empty text = none named.

    Raises:
        ConfigError: A name that is no column.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if text and not names:
        raise ConfigError("no column to measure is named", did_you_mean("", tuple(COLUMNS)))
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"there is no column `{name[:40]}`", did_you_mean(name, tuple(COLUMNS)))
    return tuple(name for name in COLUMNS if name in names)


def choose_columns(
    wanted: Sequence[str], available: Available, subjects: Sequence[Subject], others: Sequence[Subject]
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """The columns to measure, those wanted or with none wanted all but `EXTRA`; and those of them that cannot be.

    Args:
        wanted: Names of columns, may be empty.
        available: What the run was given.
        subjects: The tasks to measure.
        others: Tasks that the control may take a description from.

    Raises:
        ConfigError: The input of a wanted column is missing.
    """
    chosen: list[str] = []
    skipped: list[Skipped] = []
    for name in wanted or [name for name in COLUMNS if name not in EXTRA]:
        missing = _missing(COLUMNS[name], available, subjects, others)
        if not missing:
            chosen.append(name)
        elif wanted:
            raise ConfigError(f"column `{name}` cannot be measured: {missing[0]}", missing[1])
        else:
            skipped.append(Skipped(name, missing[0]))
    return tuple(chosen), tuple(skipped)


def _missing(
    column: Column, available: Available, subjects: Sequence[Subject], others: Sequence[Subject]
) -> tuple[str, str] | None:
    """What a column lacks and what to do about it; None where it lacks nothing."""
    given = (
        (column.adapter == "multitask", available.multitask, "no multi-task LoRA is given", "--multitask FILE"),
        (column.adapter == "per-task", available.per_task, "no LoRAs of the tasks are given", "--per-task FOLDER"),
        (column.generated, available.hypernetwork, "there is no hypernetwork for tasks", "choose one with --hypernet"),
    )
    for needed, there, what, hint in given:
        if needed and not there:
            return what, hint
    for subject in subjects:
        if column.needs_description and not subject.descriptions:
            return f"no descriptions of task `{subject.name}`", "put descriptions.jsonl.gz beside the data"
        if (column.shown or column.learnt) and len(subject.shots) < available.shots:
            found = f"{len(subject.shots)} training rows of task `{subject.name}`, wanted {available.shots} examples"
            return found, "put NAME.train.jsonl.gz beside the data"
        if column.adapter == "other" and not _others(subject, others):
            return f"no other task than `{subject.name}` has a description", "give data with more tasks"
    return None


@dataclass(frozen=True)
class Texts:
    """What the columns of a task are made of, drawn by the seed.

    Attributes:
        description: Of the task, unseen in training; empty where there is none.
        other_task: The task that `other` describes.
        other: The description of that task; empty where there is none.
        random: As many random words as the description has.
        shots: Examples for the prompt, or to be learnt.
        other_shots: Examples of the other task.
    """

    description: str
    other_task: str
    other: str
    random: str
    shots: tuple[Shot, ...]
    other_shots: tuple[Shot, ...] = ()


def draw_texts(subject: Subject, others: Sequence[Subject], seed: int, shots: int = SHOTS) -> Texts:
    """Draw what the columns need; a task's draw depends on the seed and on names, not on which tasks are measured."""
    description = _description(subject, seed)
    candidates = sorted(_others(subject, others), key=lambda other: other.name)
    other = random.Random(f"{seed}/{subject.name}/other").choice(candidates) if candidates else None
    rng = random.Random(f"{seed}/{subject.name}/words")
    words = rng.choices(_words(), k=max(1, len(description.split())))
    return Texts(
        description=description,
        other_task=other.name if other else "",
        other=_description(other, seed) if other else "",
        random=f"{' '.join(words).capitalize()}.",
        shots=_shots(subject, seed, shots),
        other_shots=_shots(other, seed, shots) if other else (),
    )


def _shots(subject: Subject, seed: int, count: int) -> tuple[Shot, ...]:
    rng = random.Random(f"{seed}/{subject.name}/shots")
    return tuple(rng.sample(subject.shots, min(count, len(subject.shots))))


def _description(subject: Subject, seed: int) -> str:
    rng = random.Random(f"{seed}/{subject.name}/description")
    return rng.choice(subject.descriptions) if subject.descriptions else ""


def _others(subject: Subject, others: Sequence[Subject]) -> list[Subject]:
    """Described tasks of other groups, or where there are none, of other names."""
    named = [other for other in others if other.descriptions and other.name != subject.name]
    return [other for other in named if other.group != subject.group] or named


@cache
def _words() -> tuple[str, ...]:
    """Words of everyday English: each different one of the package's filler text once."""
    text = resources.files("localhyper.evaluate").joinpath("filler.txt").read_text(encoding="utf-8")
    return tuple(sorted({word.lower() for word in _WORD.findall(text) if len(word) > 1}))


def conversation(column: Column, texts: Texts, message: str) -> list[ChatMessage]:
    """The messages before the reply; `message` is the input."""
    shots = texts.shots if column.shown else ()
    told = [text for shot in shots for text in (shot.message, shot.reply)] + [message]
    if column.described:
        told[0] = f"{texts.description}\n\n{told[0]}"
    return [ChatMessage("assistant" if number % 2 else "user", text) for number, text in enumerate(told)]


def description_for(column: Column, texts: Texts) -> str:
    """What the adapter of a generated column is made of."""
    told = {"own": texts.description, "other": texts.other, "random": texts.random}[column.adapter]
    if not column.learnt:
        return told
    if column.alone:
        told = ""
    shots = texts.other_shots if column.adapter == "other" else texts.shots
    return described(told, [TaskExample(shot.message, shot.reply) for shot in shots])
