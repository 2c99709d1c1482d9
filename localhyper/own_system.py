"""The system message that a chat template writes by itself, and who does without it.

A task's adapter says what the model is to do; "You are a helpful AI assistant …" before each input says otherwise, and
costs more tokens than many an input (docs/decisions/0028).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from localhyper.engine import ChatMessage
from localhyper.errors import ModelError

EMPTY = ChatMessage("system", "")


class Renders(Protocol):
    """An engine, or a chat template by itself."""

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as the base reads it, the assistant's turn opened."""
        ...


def has_own_system(base: Renders) -> bool:
    """Whether the base's chat template writes a system message by itself, which an empty one takes the place of."""
    asked = ChatMessage("user", "?")
    try:
        return len(base.render([EMPTY, asked])) < len(base.render([asked]))
    except ModelError:  # some templates refuse system messages; those have none of their own
        return False


def without_own_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The same messages with an empty system message before them, where they have none."""
    return list(messages) if any(message.role == "system" for message in messages) else [EMPTY, *messages]
