"""Examples of a task beside its description, as one text: a paragraph each, `Input: …`, then `Output: …`.

Training, evaluation and attaching share this file, so what is written is what is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from localhyper.errors import SourceError

GAP = "\n\n"  # between paragraphs
MOST_EXAMPLES = 1000
UNDESCRIBED = "Answer as the examples do."  # what the hypernetwork reads where examples stand alone
_INPUT = re.compile(r"^Input:", re.MULTILINE)
_OUTPUT = re.compile(r"^Output:", re.MULTILINE)
_LABEL = re.compile(r"^(?=(?:Input|Output):)", re.MULTILINE)
HINT = "an example is a paragraph of two lines, `Input: …` and `Output: …`"


@dataclass(frozen=True)
class TaskExample:
    """An input of a task with the answer to it."""

    input: str
    output: str

    def shown(self) -> str:
        """The example as a paragraph; a line of it that looks like a label is put in by a space."""
        given, wanted = (_LABEL.sub(" ", text.strip()) for text in self.pair)
        return f"Input: {given}\nOutput: {wanted}"

    @property
    def pair(self) -> tuple[str, str]:
        """Input and output."""
        return self.input, self.output


def described(description: str, examples: Sequence[TaskExample]) -> str:
    """A description, which may be empty, with examples after it."""
    parts = [description.strip(), *(example.shown() for example in examples)]
    return GAP.join(part for part in parts if part)


@dataclass(frozen=True)
class TaskText:
    """A text taken apart.

    Attributes:
        description: What stands before the first example; may be empty where there are some.
        examples: In their order; none where the text has no line that begins with `Output:` after one with `Input:`.
    """

    description: str
    examples: tuple[TaskExample, ...] = ()


def read_task_text(text: str) -> TaskText:
    """Take a description with examples apart: what `described` makes, or what a person writes like it.

    Raises:
        SourceError: An example without an input or an output, or too many of them.
    """
    first = _INPUT.search(text)
    if first is None or _OUTPUT.search(text, first.end()) is None:
        return TaskText(text.strip())
    pieces = _INPUT.split(text[first.start() :])[1:]
    if len(pieces) > MOST_EXAMPLES:
        raise SourceError(f"the task has {len(pieces):,} examples, at most {MOST_EXAMPLES:,} are read", "give fewer")
    examples = tuple(_example(piece, number) for number, piece in enumerate(pieces, 1))
    return TaskText(text[: first.start()].strip(), examples)


def _example(piece: str, number: int) -> TaskExample:
    """What stands between one `Input:` and the next."""
    given, *rest = _OUTPUT.split(piece, maxsplit=1)
    example = TaskExample(given.strip(), rest[0].strip() if rest else "")
    for what, there in zip(("input", "output"), example.pair, strict=True):
        if not there:
            raise SourceError(f"example {number} of the task has no {what}", HINT)
    return example
