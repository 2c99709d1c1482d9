"""The application over a scripted engine, asked without a socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from localhyper.chunk_choice import Choice, ChosenChunk
from localhyper.engine import AdapterUse, Engine
from localhyper.errors import LibraryError, ModelError
from localhyper.serve.access import Access
from localhyper.serve.catalogue import Snapshot
from tests.fakes import FakeEngine
from tests.serve.scripted import LOOPBACK, OTHER, RULES, Gate, Scripted, body, scripted

CHAT = "/v1/chat/completions"


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted(FakeEngine(["one two three"], n_ctx=4096)) as made:
        yield made


async def post(server: Scripted, data: dict[str, object], **headers: str) -> httpx.Response:
    async with server.client() as client:
        return await client.post(CHAT, json=data, headers=headers)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which has exactly OpenAI's fields."""
    value: dict[str, Any] = response.json()
    assert value.keys() == {"error"}
    error: dict[str, Any] = value["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON of every event; the closing mark as it is."""
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


async def test_a_whole_reply_has_openais_shape(server: Scripted) -> None:
    response = await post(server, body("hi"))
    reply = response.json()
    assert response.status_code == 200
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "tiny-instruct"
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two three", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    prompt = len(server.engine.tokenize(server.engine.prompts[0], special=True))
    usage = {"prompt_tokens": prompt, "completion_tokens": 13, "total_tokens": prompt + 13}
    assert reply["usage"] == usage | {"prompt_tokens_details": {"cached_tokens": 0}}


async def test_a_stream_is_role_pieces_finish_usage_done(server: Scripted) -> None:
    response = await post(server, body(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = events_of(response)
    assert done == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["one", " two", " three"]
    assert (deltas[-1], events[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 13


async def test_a_stream_without_usage_has_none(server: Scripted) -> None:
    events = events_of(await post(server, body(stream=True)))
    assert all("usage" not in event for event in events[:-1])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_cut_short_says_so(server: Scripted, stream: bool) -> None:
    response = await post(server, body(max_tokens=5, stream=stream))
    choice = events_of(response)[-2]["choices"][0] if stream else response.json()["choices"][0]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_of_a_long_document_the_chunk_that_is_asked_about_answers_and_is_named(stream: bool) -> None:
    asked: list[list[str]] = []
    engines: list[Engine] = []

    def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        asked.append(list(questions))
        engines.append(engine)
        uses = tuple(AdapterUse(Path("chunk.gguf"), use.scale) for use in uses)
        return Choice(uses, ChosenChunk("rules", 11, 34) if uses else None)

    with scripted(choosing=lambda cancel: choose) as server:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Ada."},
            {"role": "user", "content": "When?"},
        ]
        request = {"model": "tiny+rules@2", "messages": messages, "stream": stream}
        reply = await server.client().post("/v1/chat/completions", json=request)
        assert reply.status_code == 200
        told = [part for part in (events_of(reply) if stream else [reply.json()]) if "localhyper" in part]
        assert [part["localhyper"] for part in told] == [{"adapter": "rules", "chunk": 12, "chunks": 34}]
        assert told[0]["choices"][0]["finish_reason"] == "stop"
        assert asked == [["Who?", "When?"]] and engines == [server.engine]
        assert server.engine.adapters == (AdapterUse(Path("chunk.gguf"), 2.0),)
        plain = (await server.client().post("/v1/chat/completions", json=request | {"model": "tiny"})).text
        assert "localhyper" not in plain


@pytest.mark.parametrize("told", [[], [{"role": "system", "content": "Be brief."}]])
async def test_a_task_is_asked_without_the_templates_own_system_message(told: list[dict[str, str]]) -> None:
    with scripted(choosing=lambda cancel: lambda questions, uses, engine: Choice(tuple(uses), bare=True)) as server:
        messages = [*told, {"role": "user", "content": "Who?"}]
        reply = await server.client().post("/v1/chat/completions", json={"model": "tiny+rules", "messages": messages})
        assert reply.status_code == 200
        wanted = "Be brief." if told else ""
        assert server.engine.prompts[-1].startswith(f"<|im_start|>system\n{wanted}<|im_end|>\n<|im_start|>user\nWho?")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_is_read_with_what_it_needs_of_the_conversation_and_the_reply_says_so(stream: bool) -> None:
    def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        return Choice(tuple(uses), earlier=0)

    with scripted(choosing=lambda cancel: choose) as server:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Ada."},
            {"role": "user", "content": "When did it open?"},
        ]
        request = {"model": "tiny+rules", "messages": messages, "stream": stream}
        reply = await server.client().post("/v1/chat/completions", json=request)
        assert reply.status_code == 200
        told = [part for part in (events_of(reply) if stream else [reply.json()]) if "localhyper" in part]
        assert [part["localhyper"] for part in told] == [{"earlier": 0}]
        assert "Be brief." in server.engine.prompts[-1] and "When did it open?" in server.engine.prompts[-1]
        assert "Ada." not in server.engine.prompts[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_document_that_a_question_is_not_about_is_named_as_left_out(stream: bool) -> None:
    def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
        return Choice((), left_out=("rules",))

    with scripted(choosing=lambda cancel: choose) as server:
        request = {"model": "tiny+rules", "messages": [{"role": "user", "content": "Who?"}], "stream": stream}
        reply = await server.client().post("/v1/chat/completions", json=request)
        assert reply.status_code == 200
        told = [part for part in (events_of(reply) if stream else [reply.json()]) if "localhyper" in part]
        assert [part["localhyper"] for part in told] == [{"left_out": ["rules"]}]
        assert server.engine.adapters == ()


async def test_the_model_sets_base_and_adapters(server: Scripted) -> None:
    reply = (await post(server, body() | {"model": "tiny+rules@2"})).json()
    assert reply["model"] == "tiny-instruct+rules-2025@2"
    assert [(use.path, use.scale) for use in server.engine.adapters] == [(RULES.path, 2.0)]
    assert server.opened == ["tiny.gguf"]
    await post(server, body() | {"model": "other"})
    await post(server, body() | {"model": "tiny"})
    assert server.opened == ["tiny.gguf", "other.gguf", "tiny.gguf"]
    assert server.engine.adapters == ()


async def test_what_is_in_the_library_is_looked_up_anew(server: Scripted) -> None:
    there: Snapshot = server.catalogue.there
    server.catalogue.there = replace(there, adapters=())
    assert (await post(server, body() | {"model": "tiny+lease"})).status_code == 404
    server.catalogue.there = there
    assert (await post(server, body() | {"model": "tiny+lease"})).status_code == 200


async def test_models_are_listed_and_each_can_be_asked_for(server: Scripted) -> None:
    async with server.client() as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        ids = [model["id"] for model in listed["data"]]
        assert ids[0] == "localhyper"
        assert ids[1:] == [
            "tiny-instruct", "tiny-instruct+rules-2025", "tiny-instruct+lease", "other-base", "other-base+foreign",
        ]  # fmt: skip
        for model in listed["data"][1:]:
            assert (await client.get(f"/v1/models/{model['id']}")).json() == model
        assert (await client.get("/v1/models/tiny%2Blease%400.8")).json()["id"] == "tiny-instruct+lease@0.8"
        missing = await client.get("/v1/models/gpt-4o")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


async def test_context_overflow_is_a_400_streamed_or_not() -> None:
    with scripted(FakeEngine(n_ctx=64)) as server:
        for stream in (False, True):
            response = await post(server, body("x" * 100, stream=stream))
            assert response.status_code == 400
            assert error_of(response)["code"] == "context_length_exceeded"


async def test_a_failure_before_the_first_piece_has_a_status_of_its_own() -> None:
    engine = FakeEngine(bad_adapters=["rules.gguf"])
    with scripted(engine) as server:
        response = await post(server, body(stream=True) | {"model": "tiny+rules"})
        assert response.status_code == 400
        assert error_of(response)["code"] == "adapter_unusable"
        assert (await post(server, body())).status_code == 200


async def test_a_failure_in_a_stream_is_an_event_and_the_next_request_is_served() -> None:
    engine = FakeEngine(["one two"], generate_error=RuntimeError("/secret/path"))
    with scripted(engine) as server:
        *_, piece, last = events_of(await post(server, body(stream=True)))
        assert piece["choices"][0]["delta"] == {"content": "one"}
        assert last["error"]["type"] == "server_error"
        assert "/secret" not in last["error"]["message"]
        whole = await post(server, body())
        assert whole.status_code == 500
        assert error_of(whole)["code"] == "internal_error"


async def test_a_base_that_cannot_be_loaded_costs_only_its_own_requests() -> None:
    def open_engine(path: Path) -> Engine:
        if path == OTHER.path:
            raise ModelError("base model `/home/eve/other.gguf` needs 99 GB")
        return FakeEngine()

    with scripted(open_engine=open_engine) as server:
        response = await post(server, body() | {"model": "other"})
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
        assert "eve" not in response.text
        assert (await post(server, body())).status_code == 200


async def test_a_template_that_refuses_the_messages_is_the_clients_error() -> None:
    class Strict(FakeEngine):
        def render(self, messages: object) -> str:
            raise ModelError("the chat template of `x` refuses these messages: roles must alternate")

    with scripted(Strict()) as server:
        response = await post(server, body())
        assert response.status_code == 400
        assert "roles must alternate" in error_of(response)["message"]


async def test_a_damaged_library_is_one_clear_answer_without_a_path(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Snapshot:
        raise LibraryError("library `/home/eve/library.sqlite3` is damaged")

    monkeypatch.setattr(server.catalogue, "snapshot", broken)
    response = await post(server, body())
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "eve" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "//v1/models", 404),
        ("GET", "/V1/MODELS", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/%00", 404),
        ("GET", "/health/", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", CHAT, 405),
        ("POST", "/health", 405),
    ],
)
async def test_other_paths_and_methods_are_refused_in_openais_shape(
    server: Scripted, method: str, path: str, status: int
) -> None:
    async with server.client() as client:
        response = await client.request(method, httpx.URL("http://127.0.0.1").copy_with(raw_path=path.encode()))
    assert response.status_code == status
    assert error_of(response)["code"]
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_not_declared_as_json_is_refused(server: Scripted, kind: str) -> None:
    async with server.client() as client:
        response = await client.post(CHAT, content=json.dumps(body()), headers={"Content-Type": kind})
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8093", "127.0.0.1.evil.example", "", "localhost:x", "a b"]
)
async def test_a_foreign_name_in_host_is_refused_everywhere(server: Scripted, host: str) -> None:
    async with server.client() as client:
        for path in ("/health", "/v1/models", "/nothing"):
            response = await client.get(path, headers={"Host": host})
            assert (response.status_code, error_of(response)["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8093"])
async def test_this_machines_names_are_answered_to(server: Scripted, host: str) -> None:
    async with server.client() as client:
        assert (await client.get("/v1/models", headers={"Host": host})).status_code == 200


async def test_no_web_page_may_call_unless_it_is_named(server: Scripted) -> None:
    response = await post(server, body(), Origin="https://evil.example")
    assert (response.status_code, error_of(response)["code"]) == (403, "origin_not_allowed")
    assert server.engine.prompts == []
    async with server.client() as client:
        assert "access-control-allow-origin" not in (await client.get("/v1/models")).headers


async def test_a_named_web_page_may_call() -> None:
    page = "http://localhost:3000"
    with scripted(access=replace(LOOPBACK, origins=(page,), token="t")) as server:
        async with server.client() as client:
            asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
            asked["Access-Control-Request-Headers"] = "authorization,content-type"
            preflight = await client.options(CHAT, headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == page
            refused = await client.options(CHAT, headers=asked | {"Origin": "http://localhost:3001"})
            assert refused.status_code == 403
        response = await post(server, body(), Origin=page, Authorization="Bearer t")
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == page


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer right1", "Basic right", "right", "Bearer right right"]
)
async def test_without_the_token_nothing_but_health_is_told(header: str) -> None:
    with scripted(access=Access(LOOPBACK.hosts, token="right")) as server:
        async with server.client() as client:
            headers = {"Authorization": header} if header else {}
            assert (await client.get("/health", headers=headers)).status_code == 200
            for path in ("/v1/models", "/v1/nothing", "/%68ealth/x"):
                response = await client.get(path, headers=headers)
                assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
            right = await client.get("/v1/models", headers={"Authorization": "bearer right"})
            assert right.status_code == 200


async def test_requests_of_one_client_do_not_starve_anothers() -> None:
    gate = Gate()
    with scripted(FakeEngine(gate, n_ctx=4096)) as server:
        greedy = [asyncio.create_task(post(server, body(f"a{number}", user="a"))) for number in range(1)]
        await asyncio.to_thread(gate.reached.acquire)
        for number in range(1, 6):
            greedy.append(asyncio.create_task(post(server, body(f"a{number}", user="a"))))
            while server.thread.status().waiting < number:
                await asyncio.sleep(0.005)
        late = asyncio.create_task(post(server, body("b0", user="b"), **{"X-Client-Request-Id": "mine"}))
        while server.thread.status().waiting < 6:
            await asyncio.sleep(0.005)
        async with server.client() as client:
            health = (await client.get("/health?request=mine")).json()
        assert (health["running"], health["waiting"], health["clients_waiting"], health["position"]) == (1, 6, 2, 2)
        gate.open()
        replies = await asyncio.gather(late, *greedy)
    assert all(reply.status_code == 200 for reply in replies)
    assert gate.served == ["a0", "a1", "b0", "a2", "a3", "a4", "a5"]


async def test_a_full_queue_says_try_again_later() -> None:
    gate = Gate()
    with scripted(FakeEngine(gate), places=2) as server:
        first = [asyncio.create_task(post(server, body()))]
        await asyncio.to_thread(gate.reached.acquire)
        first += [asyncio.create_task(post(server, body())) for _ in range(2)]
        while server.thread.status().waiting < 2:
            await asyncio.sleep(0.005)
        refused = await post(server, body())
        assert (refused.status_code, error_of(refused)["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        other = asyncio.create_task(post(server, body(user="somebody else")))
        while server.thread.status().waiting < 3:
            await asyncio.sleep(0.005)
        gate.open()
        assert {reply.status_code for reply in await asyncio.gather(*first, other)} == {200}


async def test_stopping_ends_what_runs_and_what_waits() -> None:
    engine = FakeEngine(["word " * 500], n_ctx=8192, piece_seconds=0.01)
    with scripted(engine) as server:
        running = asyncio.create_task(post(server, body(stream=True, max_tokens=4000)))
        while not server.thread.status().running:
            await asyncio.sleep(0.005)
        waiting = asyncio.create_task(post(server, body()))
        while not server.thread.status().waiting:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(server.thread.close, 2)
        assert events_of(await running)[-1]["error"]["code"] == "server_stopping"
        late = [await waiting, await post(server, body())]
        assert [(reply.status_code, error_of(reply)["code"]) for reply in late] == [(503, "server_stopping")] * 2
    assert engine.closed


async def test_the_log_has_one_line_a_request_and_no_word_of_it(
    server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="localhyper"):
        await post(server, body("private question", keep_alive="private field"))
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("chat ")]
    assert len(lines) == 1
    assert "model=tiny-instruct outcome=stop" in lines[0] and "generated=13" in lines[0]
    assert "fields passed over: 'keep_alive'" in caplog.text
    assert "private" not in caplog.text and "three" not in caplog.text


async def test_what_is_refused_is_in_the_log_and_cannot_forge_a_line(
    server: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="localhyper"):
        await post(server, body(temperature="private"))
        async with server.client() as client:
            await client.get("/v1/models/a%0d2026-01-01%20ERROR%20forged")
    assert "POST '/v1/chat/completions' refused: 400 invalid_value" in caplog.text
    assert "model_not_found" in caplog.text
    assert not any(line.startswith("2026-01-01") for line in caplog.text.splitlines())
    assert "private" not in caplog.text
