"""Examples as the base model meets them: its own chat template round input and answer, in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from localhyper.engine import Activations, CaptureSpec, ChatMessage, Engine, FloatArray, TokenArray
from localhyper.own_system import has_own_system, without_own_system
from localhyper.progress import CancelToken
from localhyper.task_examples import TaskExample

READ_TOGETHER = 512  # tokens of examples that are read at once: few enough to stop soon and to keep in memory
# Number of an example, the next tokens of its answer, and their rows of logits, float32 [n, vocab], to be used up.
TakeWanted = Callable[[int, TokenArray, FloatArray], None]
_NEXT = "?"


@dataclass(frozen=True)
class ExampleTurn:
    """An example in tokens.

    Attributes:
        ids: int32 [tokens], prompt, answer, and what ends the turn.
        prompt: How many of them are the prompt.
    """

    ids: TokenArray
    prompt: int

    @property
    def wanted(self) -> TokenArray:
        """What is to be said after the prompt, the end of the turn with it."""
        return self.ids[self.prompt :]

    @property
    def places(self) -> slice:
        """Where what enters a block says the next one of `wanted`."""
        return slice(self.prompt - 1, len(self.ids) - 1)


def example_turns(engine: Engine, examples: Sequence[TaskExample]) -> list[ExampleTurn]:
    """Each example as it would be asked of a task's adapter, without the template's own system message.

    Raises:
        ModelError: The model has no chat template.
    """
    bare, end = has_own_system(engine), end_of_turn(engine)
    return [_turn(engine, example, end, bare=bare) for example in examples]


def _turn(engine: Engine, example: TaskExample, end: TokenArray, *, bare: bool) -> ExampleTurn:
    asked = [ChatMessage("user", example.input)]
    if bare:
        asked = without_own_system(asked)
    prompt, answer = engine.prompt_ids(asked), engine.tokenize(example.output)
    ids = np.concatenate([prompt, answer, end]).astype(np.int32)
    return ExampleTurn(ids, len(prompt))


def read_turns(
    engine: Engine, turns: Sequence[ExampleTurn], capture: CaptureSpec, take: TakeWanted, cancel: CancelToken
) -> list[Activations]:
    """Read examples under the adapters in force, as `Engine.read_together` reads sequences; `take` gets all answers."""

    def rows(number: int, start: int, logits: FloatArray) -> None:
        take(number, turns[number].ids[start + 1 :][: len(logits)], logits)

    parts, firsts = [turn.ids[:-1] for turn in turns], [turn.prompt - 1 for turn in turns]
    return engine.read_together(parts, capture, firsts, rows, cancel=cancel)


def end_of_turn(engine: Engine) -> TokenArray:
    """The token that ends a reply, int32 [1]; none where the template shows none after one.

    Raises:
        ModelError: The model has no chat template.
    """
    mark = "\ue000"
    asked = ChatMessage("user", _NEXT)
    rendered = engine.render([asked, ChatMessage("assistant", mark), asked])
    _, found, rest = rendered.partition(mark)
    return engine.tokenize(rest, special=True)[:1] if found else np.empty(0, np.int32)
