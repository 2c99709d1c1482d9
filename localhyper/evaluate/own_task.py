"""A person's own examples of a task as a task to measure: some are shown or learnt, the others are asked.

Knows no model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from localhyper.errors import ConfigError
from localhyper.evaluate.task_set import Example, Task
from localhyper.example_files import read_examples
from localhyper.task_examples import TaskExample, read_task_text


def own_task(path: Path, description: str, shots: int, seed: int) -> Task:
    """The examples of a file: `shots` of them, drawn evenly of all outputs, are shown or learnt, the others asked.

    An input that comes several times is one example, and each of its outputs is right: what is asked is never among
    what was learnt.

    Args:
        path: As `attach --examples` takes it.
        description: Of the task; may be empty.
        shots: How many are shown or learnt.
        seed: Of the draw.

    Raises:
        SourceError: The file cannot be read or holds no examples.
        ConfigError: There are too few of them, or some are in the description.
    """
    if read_task_text(description).examples:
        raise ConfigError("the description has examples in it", f"put them into `{path.name}`, of which some are asked")
    examples = _by_input(read_examples(path))
    if len(examples) <= shots:
        raise ConfigError(
            f"`{path}` has {len(examples)} examples with different inputs, wanted at least {shots + 1}: {shots} to "
            "learn and one to ask",
            "give more of them, or learn fewer with --shots",
        )
    drawn = _in_turn(random.Random(f"{seed}/own").sample(examples, len(examples)))
    told = (description,) if description else ()
    return Task(path.stem, path.stem, told, (), tuple(drawn[:shots]), tuple(drawn[shots:]))


def _in_turn(examples: Sequence[Example]) -> list[Example]:
    """One of each output in turn, as who chooses examples of some labels would: a rare label is learnt, too."""
    turns: Counter[str] = Counter()
    places = []
    for place, example in enumerate(examples):
        places.append((turns[example.outputs[0]], place))
        turns[example.outputs[0]] += 1
    return [examples[place] for _, place in sorted(places)]


def _by_input(examples: Sequence[TaskExample]) -> list[Example]:
    outputs: dict[str, list[str]] = {}
    for example in examples:
        outputs.setdefault(example.input, []).append(example.output)
    return [Example(given, tuple(dict.fromkeys(wanted))) for given, wanted in outputs.items()]
