"""The body of POST /v1/chat/completions, checked: what can be done is done, what would change the answer is refused.

Fields: https://platform.openai.com/docs/api-reference/chat/create, and llama.cpp's own `top_k`, `min_p` and
`repeat_penalty`. A field that is not known is passed over, as OpenAI's clients expect, and named in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from localhyper.engine import ChatMessage, Sampling
from localhyper.serve.api_error import ApiError
from localhyper.serve.model_names import MAX_NAME

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 10_000
MAX_STOPS = 4
_Stop = Annotated[str, Field(max_length=1000)]


def _nothing(value: Any) -> bool:
    """Absent, in any of the ways in which clients write it."""
    return value is None or value is False or value in ([], {}, "", 0)


def _is(*harmless: object) -> Callable[[Any], bool]:
    return lambda value: _nothing(value) or value in harmless


# What would change the answer and cannot be done, with what says that it is not wanted.
UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "tools": _nothing,
    "tool_choice": _is("none", "auto"),
    "functions": _nothing,
    "function_call": _is("none", "auto"),
    "response_format": _is({"type": "text"}),
    "logprobs": _nothing,
    "top_logprobs": _nothing,
    "logit_bias": _nothing,
    "audio": _nothing,
    "modalities": _is(["text"]),
    "prediction": _nothing,
    "web_search_options": _nothing,
    "presence_penalty": _nothing,
    "frequency_penalty": _nothing,
    "repetition_penalty": _is(1),
    "reasoning_effort": _is("none"),
    "verbosity": _is("medium"),
    "grammar": _nothing,
    "json_schema": _nothing,
}
# Known, and without effect on the answer.
HARMLESS = {"store", "metadata", "parallel_tool_calls", "service_tier", "prompt_cache_key", "safety_identifier"}


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class _Body(BaseModel):
    """Types and limits; None = as set on the server. The limits are those of the settings."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    model: str = Field(min_length=1, max_length=MAX_NAME)
    messages: list[Any] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=5, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repeat_penalty: float | None = Field(None, ge=0.1, le=10, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A checked request.

    Attributes:
        model: As the client wrote it.
        messages: With roles of the engine.
        sampling: The server's settings with the request's laid over.
        stream: Whether the reply comes as server-sent events.
        include_usage: Whether the stream ends with a chunk of counts.
        user: Whom the client acts for, as it says.
        ignored: Names of fields that were passed over.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    user: str
    ignored: tuple[str, ...]


def parse_chat(data: Mapping[str, Any], defaults: Sampling) -> ChatRequest:
    """Check a request.

    Args:
        data: The JSON object.
        defaults: What applies where the request says nothing.

    Raises:
        ApiError: 400; `param` names the field.
    """
    for name, unwanted in UNSUPPORTED.items():
        if not unwanted(data.get(name)):
            raise _unsupported(name)
    try:
        body = _Body.model_validate(dict(data))
    except ValidationError as error:
        raise _invalid(error) from None
    if body.n not in (None, 1):
        raise ApiError(400, "`n` must be 1: one reply a request", code="unsupported_parameter", param="n")
    return ChatRequest(
        model=body.model,
        messages=tuple(_message(item, f"messages[{index}]") for index, item in enumerate(body.messages)),
        sampling=_sampling(body, defaults),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        user=body.user or "",
        ignored=tuple(sorted(set(body.model_extra or {}) - set(UNSUPPORTED) - HARMLESS)),
    )


def _sampling(body: _Body, defaults: Sampling) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    if body.seed is not None:
        given["seed"] = body.seed % 2**32
    limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
    if limits:
        given["max_tokens"] = min(limits)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given["stop"] = tuple(_text(stop, "stop") for stop in stops if stop)
    return replace(defaults, **given)


def _message(item: Any, where: str) -> ChatMessage:
    if not isinstance(item, dict):
        raise ApiError(400, f"`{where}` must be an object", code="invalid_type", param=where)
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = f"`{role[:40]}`" if isinstance(role, str) else "none"
        raise ApiError(
            400, f"`{where}.role` is {shown}, wanted one of {', '.join(ROLES)}", code="invalid_value",
            param=f"{where}.role",
        )  # fmt: skip
    for name in ("tool_calls", "function_call", "audio"):
        if not _nothing(item.get(name)):
            raise _unsupported(f"{where}.{name}")
    return ChatMessage(ROLES[role], _content(item.get("content"), f"{where}.content"))


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return _text(content, where)
    if not isinstance(content, list) or not content:
        raise ApiError(
            400, f"`{where}` must be a text or a list of text parts", code="invalid_type", param=where
        )  # fmt: skip
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind == "text" and isinstance(text, str):
        return _text(text, where)
    if isinstance(kind, str) and kind != "text":
        raise ApiError(
            400, f"`{where}` is of type `{kind[:40]}`; the models here read text only", code="unsupported_content",
            param=where,
        )  # fmt: skip
    raise ApiError(400, f'`{where}` must be {{"type": "text", "text": "…"}}', code="invalid_type", param=where)


def _text(text: str, where: str) -> str:
    """The text itself, if it is one: JSON can spell half of a surrogate pair, which no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ApiError(400, f"`{where}` holds half of a surrogate pair", code="invalid_value", param=where) from None
    return text


def _unsupported(name: str) -> ApiError:
    return ApiError(
        400, f"`{name}` is not supported by this server; leave it out", code="unsupported_parameter", param=name
    )  # fmt: skip


def _invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong, without the value: it may be long, and private."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"`{field}`: {first['msg'][:1].lower()}{first['msg'][1:]}", code=code, param=field)
