"""Small tasks made by program, whose answer follows from the description: more of them than any collection holds.

Many tasks are given the very same inputs, so that nothing but the description tells what to do with them. What the
tasks do stands in `made_lists`, `made_spelling` and so on, how they are asked for in `made_tasks.toml`.

The tasks of instruction_induction are what training is measured by and stay unseen. None of these is made, neither as
such nor dressed up: antonyms, synonyms, plurals, difference or sum of two numbers, first or second letter of a word,
the larger of two animals, a word's letters with spaces between, negation, numbers in words, words that start with a
given letter, positive or negative sentiment, word in context.

    python -m localhyper.export.made_tasks --out data/made_tasks.jsonl.gz
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localhyper.errors import ConfigError, LocalHyperError
from localhyper.export import (
    made_actions,
    made_dates,
    made_facts,
    made_letters,
    made_lists,
    made_numbers,
    made_records,
    made_reviews,
    made_sentences,
    made_spelling,
)
from localhyper.export.command_line import refuse
from localhyper.export.data_files import write_rows
from localhyper.export.made_describe import Describer, Wrap, wordings, wraps
from localhyper.export.made_family import Family, Source, Task

SUBJECTS = (
    made_lists,
    made_spelling,
    made_sentences,
    made_records,
    made_numbers,
    made_dates,
    made_facts,
    made_reviews,
    made_actions,
    made_letters,
)
FAMILIES: Mapping[str, Family] = {family.name: family for subject in SUBJECTS for family in subject.FAMILIES}
BANK = 600  # draws of inputs that all tasks of a source choose from
SEPARATORS = {", ": "separated by commas", " ": "separated by spaces", "\n": "each on a line of its own"}


def make_tasks(seed: int, instances: int) -> list[dict[str, Any]]:
    """All tasks, as rows of the file.

    Raises:
        ConfigError: Less than one instance is asked for.
    """
    if instances < 1:
        raise ConfigError("a task needs at least one instance", "give --instances 1 or more")
    sources = {family.source.name: family.source for family in FAMILIES.values()}
    banks = {name: _bank(random.Random(f"{seed}/bank/{name}"), source) for name, source in sources.items()}
    return [
        _row(random.Random(f"{seed}/{family.name}/{index}"), family, index, banks[family.source.name], instances)
        for family in FAMILIES.values()
        for index in range(len(family.tasks) + family.wraps)
    ]


def _bank(rng: random.Random, source: Source) -> list[Any]:
    """Items that all look different."""
    items = [source.draw(rng) for _ in range(BANK)]
    return list({_joined(source.show(item), " "): item for item in items}.values())


def _row(rng: random.Random, family: Family, index: int, bank: Sequence[Any], instances: int) -> dict[str, Any]:
    """A task of a family; those after the last one are the first ones again with the answer dressed up."""
    task, wrapped = family.tasks[index % len(family.tasks)], index >= len(family.tasks)
    separators = list(SEPARATORS)
    if family.source.listed and family.one_separator and rng.random() < 0.5:
        separators = [rng.choice(separators)]
    pairs = _pairs(rng, family.source, task, separators, bank, instances)
    noun = family.source.noun + (f", {SEPARATORS[separators[0]]}" if len(separators) == 1 else "")
    wrap = _wrap(rng, list(pairs.values())) if wrapped else None
    describer = Describer(rng, wordings()[family.name], task.fill, task.also, noun, wrap)
    definition, descriptions, kept = describer.make()
    name = f"made_{family.name}_{index}"
    return {
        "task": name,
        "name": name,
        "split": "train",
        "category": "Made",
        "definition": definition,
        "descriptions": descriptions,
        "eval_descriptions": kept,
        "instances": [
            {"input": given, "output": wrap.dress(wanted) if wrap else wanted} for given, wanted in pairs.items()
        ],
    }


def _pairs(
    rng: random.Random, source: Source, task: Task, separators: Sequence[str], bank: Sequence[Any], instances: int
) -> dict[str, str]:
    """Inputs and outputs of a task."""
    pairs: dict[str, str] = {}
    for item in rng.sample(bank, len(bank)):
        if len(pairs) == instances:
            break
        answer, separator = task.work(item), rng.choice(separators)
        if answer:
            pairs[_joined(source.show(item), separator)] = _joined(answer, separator)
    return pairs


def _wrap(rng: random.Random, answers: Sequence[str]) -> Wrap:
    """A way to dress answers up that changes some of them."""
    return rng.choice([wrap for wrap in wraps() if any(wrap.dress(answer) != answer for answer in answers)])


def _joined(text: str | Sequence[str], separator: str) -> str:
    return text if isinstance(text, str) else separator.join(text)


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m localhyper.export.made_tasks", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines in the schema of tasks, gzip'd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instances", type=int, default=120, help="most instances of a task; there may be fewer words")
    options = parser.parse_args(argv)
    try:
        tasks = make_tasks(options.seed, options.instances)
    except LocalHyperError as error:
        refuse(parser, error)
    write_rows(options.out, tasks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
