"""The turns of one chat and what of them the model sees again; knows no widget and no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from localhyper.engine import AdapterUse, ChatMessage, GenerationStats, Sampling
from localhyper.history import StoredTurn, UsedAdapter

from .words import plain, visible

_ENDS = {
    "stop": "complete",
    "length": "cut at the token limit",
    "loop": "ended: it went in circles",
    "cancelled": "stopped",
}


@dataclass(frozen=True)
class AttachedAdapter:
    """An adapter under the name the user knows it by."""

    name: str
    use: AdapterUse


@dataclass(eq=False)
class Turn:
    """A question and its reply as far as it has come. Two turns are never the same one.

    Attributes:
        adapters: What acts on this reply.
        forgotten: Messages at the beginning of the chat that the window had no room for.
        failed: Whether the reply ended in an error.
        problem: That error, in one line.
        note: What else is worth knowing of how the reply was made.
        repeats: The turn whose question is asked once more beside it, for comparison; stays out of the history.
        ended: Whether the reply is over, however.
    """

    question: str
    adapters: tuple[AttachedAdapter, ...] = ()
    reply: str = ""
    stats: GenerationStats | None = None
    forgotten: int = 0
    failed: bool = False
    problem: str = ""
    note: str = ""
    repeats: Turn | None = None
    model: str = ""
    sampling: Sampling | None = None
    asked_at: str = ""
    ended: bool = False

    @property
    def in_history(self) -> bool:
        """Whether the next question is asked with this turn before it."""
        return bool(self.reply.strip()) and self.repeats is None and not self.failed


@dataclass
class Conversation:
    """Turns in order.

    Attributes:
        number: Its number in the history; 0 before anything of it is stored.
        title: Its title there; empty = the first question's words.
    """

    turns: list[Turn] = field(default_factory=list)
    number: int = 0
    title: str = ""

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
    def questions(self) -> tuple[Turn, ...]:
        """The turns that are no comparison."""
        return tuple(turn for turn in self.turns if turn.repeats is None)

    def before(self, turn: Turn) -> list[Turn]:
        """The turns before this one."""
        return self.turns[: self.turns.index(turn)]

    @property
    def last_reply(self) -> str:
        """Text of the last reply that has any; empty if none has."""
        return next((turn.reply for turn in reversed(self.turns) if turn.reply.strip()), "")

    @property
    def last_answered(self) -> Turn | None:
        """The last turn with a reply made under adapters, else the last with any reply."""
        answered = [turn for turn in reversed(self.turns) if turn.reply.strip()]
        return next((turn for turn in answered[:2] if turn.adapters), answered[0] if answered else None)

    def stored(self) -> tuple[StoredTurn, ...]:
        """All turns as the history keeps them."""
        return tuple(to_stored(turn, self.turns) for turn in self.turns)


def to_stored(turn: Turn, turns: Sequence[Turn]) -> StoredTurn:
    """A turn as the history keeps it; `turns` are those it stands among."""
    return StoredTurn(
        question=turn.question,
        reply=turn.reply,
        model=turn.model,
        adapters=tuple(UsedAdapter(each.name, str(each.use.path), each.use.scale) for each in turn.adapters),
        stats=turn.stats,
        sampling=turn.sampling,
        note=turn.note,
        forgotten=turn.forgotten,
        problem=turn.problem,
        repeats=next((i for i, other in enumerate(turns) if other is turn.repeats), -1),
        asked_at=turn.asked_at,
    )


def from_stored(stored: Sequence[StoredTurn]) -> list[Turn]:
    """Turns out of the history."""
    turns: list[Turn] = []
    for one in stored:
        adapters = tuple(
            AttachedAdapter(plain(each.name), AdapterUse(Path(each.path), each.scale)) for each in one.adapters
        )
        repeats = turns[one.repeats] if 0 <= one.repeats < len(turns) else None
        turns.append(
            Turn(
                visible(one.question),
                adapters,
                visible(one.reply),
                one.stats,
                one.forgotten,
                bool(one.problem),
                one.problem,
                one.note,
                repeats,
                one.model,
                one.sampling,
                one.asked_at,
                ended=True,
            )
        )
    return turns


def adapters_text(turn: Turn) -> str:
    """Which adapters at which strength."""
    return ", ".join(f"{adapter.name} @{adapter.use.scale:.1f}" for adapter in turn.adapters) or "no adapter"


def status_of(turn: Turn) -> str:
    """What a finished reply was made with and cost, in one line."""
    parts = [adapters_text(turn), *filter(None, [turn.note])]
    stats = turn.stats
    if stats is None:
        return ", ".join([*parts, "cut off" if turn.reply else "stopped before the first token"])
    parts.append(f"{stats.generated_tokens} token" + ("s" if stats.generated_tokens != 1 else ""))
    if stats.tokens_per_second > 0:
        parts.append(f"{stats.tokens_per_second:.1f} tok/s")
    parts.append(f"first token {stats.first_token_seconds:.2f} s")
    parts.append(_ENDS[stats.finish_reason])
    if turn.forgotten:
        parts.append(f"the first {turn.forgotten} messages no longer fit")
    return ", ".join(parts)
