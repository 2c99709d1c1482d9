"""A server over a scripted engine: as an ASGI application, or on a real socket in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from localhyper.chunk_choice import whole
from localhyper.engine import AdapterUse, ChatMessage, Engine, Piece, Sampling
from localhyper.serve.access import Access
from localhyper.serve.app import Api, build_app
from localhyper.serve.catalogue import Base, Catalogue, Fitting, Snapshot
from localhyper.serve.engine_thread import PLACES, Choosing, EngineThread
from localhyper.serve.model_names import default_choice
from localhyper.serve.server import uvicorn_config
from tests.fakes import FakeEngine

TINY = Base("tiny-instruct", Path("tiny.gguf"), "a" * 64, 100)
OTHER = Base("other-base", Path("other.gguf"), "b" * 64, 200)
LEASE = Fitting("lease", Path("lease.gguf"), TINY.fingerprint, 300)
RULES = Fitting("rules-2025", Path("rules.gguf"), TINY.fingerprint, 301)
FOREIGN = Fitting("foreign", Path("foreign.gguf"), OTHER.fingerprint, 302)
SNAPSHOT = Snapshot(
    {TINY.name: TINY, OTHER.name: OTHER},
    (FOREIGN, RULES, LEASE),
    TINY,
    (("lease", AdapterUse(LEASE.path, 0.5)),),
)
LOOPBACK = Access(frozenset({"127.0.0.1", "localhost"}))
DEFAULTS = Sampling(max_tokens=400)


class StaticCatalogue(Catalogue):
    """Has what it is told, and may be told something else while serving."""

    def __init__(self, there: Snapshot = SNAPSHOT) -> None:
        self.there = there

    def snapshot(self) -> Snapshot:
        """What it was told."""
        return self.there


class CountingEngine(FakeEngine):
    """Counts the pieces it makes, and stops at none when not told to."""

    pieces = 0

    def _stream(self, *arguments: object) -> Iterator[Piece]:
        for piece in super()._stream(*arguments):  # type: ignore[arg-type]
            self.pieces += 1
            yield piece


@dataclass
class Scripted:
    """The parts of a server under test. `opened` names the files loaded, in order."""

    engine: FakeEngine
    thread: EngineThread
    catalogue: StaticCatalogue
    app: ASGIApp
    opened: list[str] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        """Asks the application itself, over no socket."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1:8093")

    def idle(self, seconds: float = 5.0) -> bool:
        """Whether nothing runs or waits within some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.thread.status()
            if not status.running and not status.waiting:
                return True
            time.sleep(0.005)
        return False


@contextlib.contextmanager
def scripted(
    engine: FakeEngine | None = None,
    *,
    access: Access = LOOPBACK,
    places: int = PLACES,
    open_engine: Callable[[Path], Engine] | None = None,
    choosing: Choosing = lambda cancel: whole,
) -> Iterator[Scripted]:
    """A server over `engine`; the engine's thread ends with the block."""
    engine = engine or FakeEngine(n_ctx=4096)
    opened: list[str] = []

    def open_it(path: Path) -> Engine:
        opened.append(path.name)
        return open_engine(path) if open_engine else engine

    catalogue, thread = StaticCatalogue(), EngineThread(open_it, places, choosing)
    thread.start(default_choice(catalogue.there)).result(5)
    try:
        yield Scripted(engine, thread, catalogue, build_app(Api(catalogue, thread, DEFAULTS), access), opened)
    finally:
        assert thread.close(5), "the engine's thread did not end"


@contextlib.contextmanager
def listening(app: ASGIApp) -> Iterator[tuple[str, int]]:
    """The application behind a real socket: (host, port)."""
    server = uvicorn.Server(uvicorn_config(app))
    server.config.host, server.config.port = "127.0.0.1", 0
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(5)
        assert not thread.is_alive()


def body(text: str = "hello", **fields: Any) -> dict[str, object]:
    """A request that is valid."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def last_words(messages: Sequence[ChatMessage]) -> str:
    """What was asked."""
    return messages[-1].content


class Gate:
    """Replies only when opened, and remembers whose requests it answered; give it to `FakeEngine` as `replies`."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.reached = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, messages: Sequence[ChatMessage]) -> str:
        """Called in the engine's thread."""
        self.served.append(last_words(messages))
        self.reached.release()
        assert self._open.wait(20), "nobody opened the gate"
        return f"reply to {last_words(messages)}"

    def open(self) -> None:
        """Let everything through from now on."""
        self._open.set()
