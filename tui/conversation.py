"""The turns of one chat and what of them the model sees again; knows no widget and no engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from localhyper.engine import AdapterUse, ChatMessage, GenerationStats


@dataclass(frozen=True)
class AttachedAdapter:
    """An adapter under the name the user knows it by."""

    name: str
    use: AdapterUse


@dataclass
class Turn:
    """A question and its reply as far as it has come.

    Attributes:
        adapters: What acts on this reply.
        forgotten: Messages at the beginning of the chat that the window had no room for.
        failed: Whether the reply ended in an error.
        note: What else is worth knowing of how the reply was made.
        repeats: The turn whose question is asked once more beside it, for comparison; stays out of the history.
    """

    question: str
    adapters: tuple[AttachedAdapter, ...] = ()
    reply: str = ""
    stats: GenerationStats | None = None
    forgotten: int = 0
    failed: bool = False
    note: str = ""
    repeats: Turn | None = None

    @property
    def in_history(self) -> bool:
        """Whether the next question is asked with this turn before it."""
        return bool(self.reply.strip()) and self.repeats is None and not self.failed


@dataclass
class Conversation:
    """Turns in order."""

    turns: list[Turn] = field(default_factory=list)

    def messages_before(self, turn: Turn) -> tuple[ChatMessage, ...]:
        """What the model reads to answer `turn`: the earlier turns that count, then its question."""
        messages: list[ChatMessage] = []
        asked = turn.repeats or turn
        for earlier in self.turns:
            if earlier is asked:
                break
            if earlier.in_history:
                messages.append(ChatMessage("user", earlier.question))
                messages.append(ChatMessage("assistant", earlier.reply))
        return (*messages, ChatMessage("user", turn.question))

    def add(self, turn: Turn) -> None:
        """Append a turn."""
        self.turns.append(turn)

    def drop_last(self) -> Turn | None:
        """Take the last turn out, to ask it again."""
        return self.turns.pop() if self.turns else None

    @property
    def last_reply(self) -> str:
        """Text of the last reply that has any; empty if none has."""
        return next((turn.reply for turn in reversed(self.turns) if turn.reply.strip()), "")


def status_of(turn: Turn) -> str:
    """What a finished reply was made with and cost, in one line."""
    adapters = ", ".join(f"{adapter.name} @{adapter.use.scale:.1f}" for adapter in turn.adapters)
    parts = [adapters or "no adapter", *filter(None, [turn.note])]
    stats = turn.stats
    if stats is None:
        return ", ".join([*parts, "stopped before the first token"])
    parts.append(f"{stats.generated_tokens} token" + ("s" if stats.generated_tokens != 1 else ""))
    if stats.tokens_per_second > 0:
        parts.append(f"{stats.tokens_per_second:.1f} tok/s")
    parts.append(f"first token {stats.first_token_seconds:.2f} s")
    parts.append({"stop": "complete", "length": "cut at the token limit", "cancelled": "stopped"}[stats.finish_reason])
    if turn.forgotten:
        parts.append(f"the first {turn.forgotten} messages no longer fit")
    return ", ".join(parts)
