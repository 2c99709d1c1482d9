"""What families of made tasks are made of: sources of inputs, tasks, and functions that several families share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Answer = str | Sequence[str] | None
Work = Callable[[Any], Answer]


@dataclass(frozen=True)
class Source:
    """Where inputs come from.

    Attributes:
        name: Seeds what is drawn.
        noun: What such an input is called.
        draw: An item; what a task's work is given.
        show: The item as the user writes it; its entries if it is a list.
        listed: Whether it is a list.
    """

    name: str
    noun: str
    draw: Callable[[random.Random], Any]
    show: Callable[[Any], str | Sequence[str]] = str
    listed: bool = False


@dataclass(frozen=True)
class Task:
    """What one task does and how its family's wordings are filled in for it.

    Attributes:
        work: Item to answer; several entries for a list, None where the item does not fit.
        fill: What stands for the names in braces of the wordings.
        also: Phrasings for it alone.
    """

    work: Work
    fill: dict[str, str]
    also: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """Tasks that are asked for in the same words.

    Attributes:
        name: Under which its wordings stand in `made_tasks.toml`.
        source: What draws its inputs.
        tasks: What it can be asked to do.
        wraps: How many more tasks ask for the same with the answer dressed up.
        one_separator: Whether a task may have its lists parted in one way only; not where the task is about that.
    """

    name: str
    source: Source
    tasks: Sequence[Task]
    wraps: int = 0
    one_separator: bool = True


def task(work: Work, *, also: Sequence[str] = (), **fill: str | int) -> Task:
    """A task, with what is filled into its family's wordings by name."""
    return Task(work, {name: str(value) for name, value in fill.items()}, also)


def either(true: Callable[[Any], bool], labels: Iterable[tuple[str, str]]) -> list[Task]:
    """A task for each pair of labels, which answers the first where something is true of the item."""
    return [task(_label(true, yes, no), a=yes, b=no) for yes, no in labels]


def _label(true: Callable[[Any], bool], yes: str, no: str) -> Work:
    return lambda item: yes if true(item) else no


def entry_of(name: str, noun: str, entries: Sequence[str]) -> Source:
    """One of the entries."""
    return Source(name, noun, lambda rng: rng.choice(entries))


def first_of_entry(name: str, noun: str, entries: Sequence[tuple[str, ...]]) -> Source:
    """One of the entries, of which only the first part is shown."""
    return Source(name, noun, lambda rng: rng.choice(entries), lambda item: str(item[0]))


def text_with_parts(name: str, noun: str, draw: Callable[[random.Random], dict[str, str]]) -> Source:
    """A text, drawn together with what stands in it; the text is the part `text`."""
    return Source(name, noun, draw, part("text"))


def part(name: str) -> Callable[[dict[str, str]], str]:
    """Gives the part of an item with that name."""
    return lambda item: item[name]


def template(text: str) -> Callable[[dict[str, str]], str]:
    """Fills the parts of an item into a text."""
    return lambda item: text.format_map(item)


def of_length(words: Sequence[str], best: Callable[[Iterable[int]], int]) -> str | None:
    """The word whose length is the best, if only one has it."""
    length = best(map(len, words))
    found = [word for word in words if len(word) == length]
    return found[0] if len(found) == 1 else None
