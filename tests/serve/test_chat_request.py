"""The body of a chat request: what is taken, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from localhyper.engine import ChatMessage, GenerationStats, Sampling
from localhyper.serve.api_error import ApiError
from localhyper.serve.chat_reply import reason_for_clients
from localhyper.serve.chat_request import parse_chat
from localhyper.serve.request_body import parse_object
from tests.serve.scripted import body

SET = Sampling(temperature=0.3, top_k=7, max_tokens=99, seed=5)


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(body(**fields), SET)
    assert caught.value.status == 400
    return caught.value


def test_what_a_request_leaves_out_or_null_is_as_set() -> None:
    assert parse_chat(body(), SET).sampling == SET
    assert parse_chat(body(temperature=None, max_tokens=None, stop=None, stream=None, n=None), SET).sampling == SET


def test_what_a_request_says_goes_before_what_is_set() -> None:
    fields: dict[str, Any] = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "seed": -1,
        "stop": "x",
    }
    asked = parse_chat(body(**fields, max_completion_tokens=8, max_tokens=9, stream=True), SET)
    assert asked.sampling == Sampling(1.0, 3, 0.5, 0.1, 1.1, 8, 2**32 - 1, ("x",))
    assert asked.stream and not asked.include_usage


def test_messages_become_the_engines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "eve"},
        {"role": "assistant", "content": "", "tool_calls": None},
        {"role": "user", "content": "ü"},
    ]
    assert parse_chat(body(messages=messages), SET).messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "ab"),
        ChatMessage("assistant", ""),
        ChatMessage("user", "ü"),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"logit_bias": {"50256": -100}},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -1},
        {"n": 2},
        {"n": 0},
        {"reasoning_effort": "high"},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, object]) -> None:
    error = refused(**fields)
    assert (error.code, error.param) == ("unsupported_parameter", next(iter(fields)))


def test_what_changes_nothing_is_taken() -> None:
    fields: dict[str, Any] = {
        "user": "eve", "store": True, "metadata": {"a": "b"}, "parallel_tool_calls": False, "tools": [],
        "tool_choice": "none", "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "n": 1,
        "response_format": {"type": "text"}, "modalities": ["text"], "logit_bias": {}, "service_tier": "auto",
    }  # fmt: skip
    asked = parse_chat(body(**fields), SET)
    assert asked.user == "eve"
    assert asked.ignored == ()


def test_unknown_fields_are_passed_over_and_named() -> None:
    assert parse_chat(body(keep_alive="5m", b=1), SET).ignored == ("b", "keep_alive")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"model": "x" * 1001}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 1e400}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"stop": "\udc00"}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"user": 5}, "user"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields: dict[str, object], param: str) -> None:
    assert refused(**fields).param == param


def test_an_image_is_refused_in_plain_words() -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = refused(messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, image]}])
    assert error.param == "messages[0].content[1]"
    assert "`image_url`" in error.message and "read text only" in error.message


def test_the_value_of_a_wrong_field_is_not_repeated() -> None:
    assert "secret" not in refused(temperature="secret").message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "line 1"),
        (b"{", "line 1"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b'{"a": NaN}', "`NaN`"),
        (b'{"a": -Infinity}', "`-Infinity`"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "valid JSON request"),
        (b'\xef\xbb\xbf{"a": 1}', "valid JSON request"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ApiError, match="the body is not a valid JSON request") as caught:
        parse_object(data)
    assert words in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("loop", "length")])
def test_reasons_are_told_in_words_that_clients_know(ours: str, theirs: str) -> None:
    assert reason_for_clients(GenerationStats(3, 0, 2, 0.1, 0.1, 0.1, ours)) == theirs
