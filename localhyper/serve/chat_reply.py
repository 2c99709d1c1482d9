"""A reply as OpenAI's API words it: `chat.completion`, or `chat.completion.chunk`s as server-sent events.

Shapes: https://platform.openai.com/docs/api-reference/chat/object and …/chat/streaming. Pure values: knows no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from localhyper.chunk_choice import NOTHING, Choice
from localhyper.engine import GenerationStats
from localhyper.serve.api_error import ApiError

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ReplyHead:
    """What every part of a reply repeats.

    Attributes:
        id: `chatcmpl-…`.
        created: Seconds since 1970.
        model: The whole name.
        with_usage: Whether the stream's chunks carry a `usage` field.
    """

    id: str
    created: int
    model: str
    with_usage: bool = False

    def whole(self, text: str, stats: GenerationStats, chosen: Choice = NOTHING) -> dict[str, object]:
        """The reply in one piece; `chosen` is what answered."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason_for_clients(stats)}
        return self._object("chat.completion", [choice]) | {"usage": usage(stats)} | answered_by(chosen)

    def opening(self) -> bytes:
        """The event that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> bytes:
        """An event with a piece of text."""
        return self._chunk({"content": text}, None)

    def ending(self, stats: GenerationStats, chosen: Choice = NOTHING) -> bytes:
        """The events that end a stream, from the finish reason on; `chosen` is what answered."""
        events = self._chunk({}, reason_for_clients(stats), chosen)
        if self.with_usage:
            events += event(self._object("chat.completion.chunk", []) | {"usage": usage(stats)})
        return events + DONE

    def _chunk(self, delta: dict[str, str], finish_reason: str | None, chosen: Choice = NOTHING) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        value = self._object("chat.completion.chunk", [choice]) | answered_by(chosen)
        return event(value | {"usage": None} if self.with_usage else value)

    def _object(self, kind: str, choices: Sequence[object]) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": list(choices)}


def reason_for_clients(stats: GenerationStats) -> str:
    """In the words that clients know: a reply that went in circles was cut."""
    return "length" if stats.finish_reason == "loop" else stats.finish_reason


def answered_by(chosen: Choice) -> dict[str, object]:
    """A field of ours, which OpenAI's clients pass on: what answers of a document (0 = overview), or is left out.

    And how many earlier questions were read with the last one, where that is told.
    """
    told: dict[str, object] = {}
    if chosen.left_out:
        told["left_out"] = list(chosen.left_out)
    if (chunk := chosen.chunk) is not None:
        number = 0 if chunk.is_overview else chunk.chunk + 1
        told |= {"adapter": chunk.name, "chunk": number, "chunks": chunk.chunks}
    if chosen.earlier is not None:
        told["earlier"] = chosen.earlier
    return {"localhyper": told} if told else {}


def usage(stats: GenerationStats) -> dict[str, object]:
    """Counts of tokens; those that were in the KV cache already count as cached."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.generated_tokens,
        "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused_tokens},
    }


def event(value: dict[str, object]) -> bytes:
    """One server-sent event; JSON holds no line end, so one `data` line is enough."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n\n".encode()


def error_event(error: ApiError) -> bytes:
    """An error after the stream has begun, when no status can be sent any more."""
    return event(error.body())
