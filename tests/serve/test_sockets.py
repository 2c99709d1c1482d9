"""Real sockets over a scripted engine: clients that hang up, dawdle, send rubbish, or come in crowds."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import httpx
import pytest

from localhyper.chunk_choice import Choice, Choose
from localhyper.engine import AdapterUse, Engine
from localhyper.progress import CancelToken
from localhyper.serve import request_body
from localhyper.serve.access import Access
from localhyper.serve.connection import Connection
from tests.fakes import FakeEngine
from tests.serve.scripted import LOOPBACK, CountingEngine, Gate, Scripted, body, listening, scripted

Address = tuple[str, int]
LONG = 2000  # pieces of a reply that would take a minute
LEEWAY = 30  # pieces that a loaded machine may make before a hang-up is noticed


@pytest.fixture
def slow() -> Iterator[tuple[CountingEngine, Scripted, Address]]:
    engine = CountingEngine(["w " * LONG], n_ctx=8192, piece_seconds=0.03)
    with scripted(engine) as server, listening(server.app) as address:
        yield engine, server, address


@pytest.fixture
def address() -> Iterator[Address]:
    with scripted(FakeEngine(n_ctx=4096)) as server, listening(server.app) as made:
        yield made


def request(data: object, *, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    content = json.dumps(data).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def talk(address: Address, data: bytes) -> bytes:
    """Everything the server says until it closes the connection or has answered."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65536):
        answer += part
        head, mark, rest = answer.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if mark and lengths and len(rest) >= int(lengths[0].split(b":")[1]):
            break
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def code(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def alive(address: Address) -> bool:
    answer = talk(address, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return status(answer) == 200 and b'"running":0' in answer


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_closing_a_stream_stops_the_generation(slow: tuple[CountingEngine, Scripted, Address], reset: bool) -> None:
    engine, server, address = slow
    with socket.create_connection(address, timeout=10) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(request(body(stream=True, max_tokens=8000)))
        answer = b""
        while b"data: " not in answer:
            answer += connection.recv(65536)
        seen = engine.pieces
    assert server.idle()
    assert engine.pieces < seen + LEEWAY


def test_closing_while_a_whole_reply_is_made_stops_the_generation(
    slow: tuple[CountingEngine, Scripted, Address],
) -> None:
    engine, server, address = slow
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request(body(max_tokens=8000)))
        while not engine.pieces:
            time.sleep(0.005)
    assert server.idle()
    assert engine.pieces < LEEWAY


def test_closing_while_an_adapter_is_made_for_a_request_stops_that_too() -> None:
    begun, ended = threading.Event(), threading.Event()

    def choosing(cancel: CancelToken) -> Choose:
        def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
            if questions != ["make one first"]:
                return Choice(tuple(uses))
            begun.set()
            try:
                while True:
                    cancel.check()
                    time.sleep(0.005)
            finally:
                ended.set()

        return choose

    with scripted(FakeEngine(n_ctx=4096), choosing=choosing) as server, listening(server.app) as address:
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(request(body("make one first")))
            assert begun.wait(5)
            assert not ended.is_set()
        assert ended.wait(5) and server.idle()
        assert status(talk(address, request(body("another")))) == 200
        assert len(server.engine.prompts) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_while_waiting_leaves_the_queue(stream: bool) -> None:
    gate = Gate()
    with scripted(FakeEngine(gate, n_ctx=4096)) as server, listening(server.app) as address:
        with socket.create_connection(address, timeout=10) as first:
            first.sendall(request(body("first")))
            gate.reached.acquire()
            with socket.create_connection(address, timeout=10) as second:
                second.sendall(request(body("second", stream=stream)))
                while server.thread.status().waiting != 1:
                    time.sleep(0.005)
            end = time.monotonic() + 5
            while server.thread.status().waiting and time.monotonic() < end:
                time.sleep(0.005)
            assert server.thread.status().waiting == 0
            gate.open()
            assert status(read_answer(first)) == 200
        assert server.idle()
        assert gate.served == ["first"]


def test_a_client_that_stops_reading_does_not_hold_up_the_others(
    slow: tuple[CountingEngine, Scripted, Address],
) -> None:
    engine, _server, address = slow
    engine._piece_seconds = 0
    with socket.create_connection(address, timeout=10) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(request(body(stream=True, max_tokens=8000)))
        assert status(talk(address, request(body(max_tokens=10)))) == 200


def test_a_head_that_does_not_come_closes_the_connection(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.3)
    with socket.create_connection(address, timeout=10) as silent, socket.create_connection(address, timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
    with socket.create_connection(address, timeout=10) as second:  # the second request of a connection, too
        second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status(read_answer(second)) == 200
        second.sendall(b"GET /he")
        assert second.recv(1) == b""
    assert alive(address)


def test_a_slow_reply_is_not_taken_for_a_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.05)
    with scripted(FakeEngine(["a b c d"], piece_seconds=0.1)) as server, listening(server.app) as address:
        assert status(talk(address, request(body()))) == 200


def test_a_body_that_does_not_come_is_answered_and_given_up(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.2)
    answer = talk(address, request(body())[:-5])
    assert (status(answer), code(answer)) == (408, "request_timeout")
    assert alive(address)


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing_behind(address: Address) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request(body())[:-5])
    assert alive(address)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_ten_megabytes_is_refused(address: Address, chunked: bool) -> None:
    big = json.dumps(body("x" * 10_000_000)).encode()

    async def parts() -> object:
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            content = parts() if chunked else big
            url = f"http://127.0.0.1:{address[1]}/v1/chat/completions"
            return await client.post(url, content=content, headers={"Content-Type": "application/json"})  # type: ignore[arg-type]

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert alive(address)


def test_a_huge_head_is_refused(address: Address) -> None:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Big: " + b"x" * 70_000)
        assert status(connection.recv(65536)) == 400
    assert alive(address)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"GET /v1/models\r\nHost: localhost\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
)
def test_a_head_that_is_not_sound_is_refused(address: Address, head: bytes) -> None:
    assert status(talk(address, head)) in (400, 403, 501)
    assert alive(address)


@pytest.mark.parametrize(
    "path",
    ["/v1/../health", "/health/../v1/models", "/./health", "/%2e%2e/v1/models", "//health", "/health;/v1/models",
     "/health%00", "/v1/models%2f..%2f..", "http://localhost/health"],
)  # fmt: skip
def test_no_spelling_of_a_path_goes_round_the_token(path: str) -> None:
    access = Access(LOOPBACK.hosts, token="secret")
    with scripted(access=access) as server, listening(server.app) as address:
        answer = talk(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert (status(answer), code(answer)) == (401, "invalid_api_key")


def test_a_request_smuggled_into_a_body_is_not_answered(address: Address) -> None:
    inner = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    both = head + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(inner) + inner
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(both)
        answer = b""
        while part := connection.recv(65536):  # ends because the server closes
            answer += part
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


def test_two_requests_in_one_packet_are_answered_in_order(address: Address) -> None:
    first, second = request(body("a")), b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(first + second)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.index(b"chat.completion") < answer.index(b'"status":"ok"')


async def test_two_hundred_at_once_are_all_answered() -> None:
    with scripted(FakeEngine(n_ctx=4096)) as server, listening(server.app) as address:
        url = f"http://127.0.0.1:{address[1]}/v1/chat/completions"
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=30) as client:

            async def ask(number: int) -> httpx.Response:
                return await client.post(url, json=body("x", user=str(number % 20), stream=number % 2 == 0))

            replies = await asyncio.gather(*[ask(number) for number in range(200)])
        served = [reply for reply in replies if reply.status_code == 200]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(served) + len(refused) == 200
        assert len(served) >= 64
        assert all("retry-after" in reply.headers for reply in refused)
        assert await asyncio.to_thread(alive, address)
