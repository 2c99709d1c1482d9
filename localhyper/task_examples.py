"""Examples of a task, and how a hypernetwork reads them: after the description, in one text.

Training and evaluation share this file, so what is read is what was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = "\n\n"  # between paragraphs


@dataclass(frozen=True)
class TaskExample:
    """An input of a task with the answer to it."""

    input: str
    output: str

    def shown(self) -> str:
        """The example as a paragraph."""
        return f"Input: {self.input.strip()}\nOutput: {self.output.strip()}"


def described(description: str, examples: Sequence[TaskExample]) -> str:
    """A description, which may be empty, with examples after it."""
    parts = [description.strip(), *(example.shown() for example in examples)]
    return GAP.join(part for part in parts if part)
