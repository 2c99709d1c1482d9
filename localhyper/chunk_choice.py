"""Which of a conversation's adapters answer a question: values that pass from whoever chooses to whoever asks.

`chunk_chooser` makes them. Knows no library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localhyper.engine import AdapterUse, ChatMessage, Engine
from localhyper.own_system import without_own_system


@dataclass(frozen=True)
class ChosenChunk:
    """The chunk that answers, or the document's overview.

    Attributes:
        name: Name of the document's adapter.
        chunk: Number of the chunk, from 0; the overview's comes after the last one's.
        chunks: How many the document has.
    """

    name: str
    chunk: int
    chunks: int

    def __str__(self) -> str:
        """For people, who count from 1."""
        return f"the overview of {self.name}" if self.is_overview else f"{self.short} of {self.chunks} of {self.name}"

    @property
    def is_overview(self) -> bool:
        """Whether it is what the document says of itself as a whole (`localhyper.overview`)."""
        return self.chunk == self.chunks

    @property
    def short(self) -> str:
        """The same without the document."""
        return "overview" if self.is_overview else f"chunk {self.chunk + 1}"


@dataclass(frozen=True)
class Choice:
    """The adapters that answer a question.

    Attributes:
        uses: Them.
        chunk: The chunk among them; None = no document was cut down to one.
        left_out: Names of the documents that are not asked because the question is about none of them; empty where
            one is asked.
        earlier: How many of the questions before, with their replies, are read with this one; None = all.
        bare: Whether the system message that the base's template writes by itself is left out.
    """

    uses: tuple[AdapterUse, ...]
    chunk: ChosenChunk | None = None
    left_out: tuple[str, ...] = ()
    earlier: int | None = None
    bare: bool = False

    def __str__(self) -> str:
        """What was chosen, for people; empty where nothing was."""
        if len(self.left_out) > 1:
            return f"about none of the {len(self.left_out)} documents"
        if self.left_out:
            return f"not about {self.left_out[0]}"
        return ", ".join(filter(None, (str(self.chunk or ""), self._read_with)))

    @property
    def _read_with(self) -> str:
        if self.earlier is None:
            return ""
        if self.earlier > 1:
            return f"with the {self.earlier} questions before"
        return "with the question before" if self.earlier else "without what was said before"

    def needed(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """What of the conversation before a question is read with it; system messages always are."""
        if self.earlier is None:
            return list(messages)
        asked = [place for place, message in enumerate(messages) if message.role == "user"]
        begin = asked[-self.earlier] if 0 < self.earlier <= len(asked) else len(messages) if not self.earlier else 0
        return [message for place, message in enumerate(messages) if place >= begin or message.role == "system"]

    def prompt(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The messages as the base's template gets them."""
        return without_own_system(messages) if self.bare else list(messages)


NOTHING = Choice(())

Choose = Callable[[Sequence[str], Sequence[AdapterUse], Engine], Choice]
"""From the questions of a conversation, the new one last, its adapters, and the base model, to those that answer."""


def whole(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
    """A `Choose` that leaves all adapters as they are."""
    return Choice(tuple(uses))
