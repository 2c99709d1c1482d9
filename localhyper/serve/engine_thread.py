"""The one thread that owns the engine: takes tickets from the fair queue, sets model and adapters, generates.

One base model is in memory at a time; a ticket for another closes it first. Consecutive tickets with the same adapters
keep the engine's KV cache. Knows no HTTP: what it has to say goes to each ticket's `post`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from localhyper.chunk_choice import NOTHING, Choice, Choose, whole
from localhyper.engine import ChatMessage, Engine, Piece, Sampling
from localhyper.errors import Cancelled, ConfigError, ContextError, LocalHyperError, ModelError
from localhyper.library import file_to_check
from localhyper.progress import CancelToken
from localhyper.serve.api_error import ApiError
from localhyper.serve.catalogue import Base
from localhyper.serve.fair_queue import FairQueue, QueueFull
from localhyper.serve.model_names import ModelChoice

PLACES = 64
RETRY_SECONDS = 2

_log = logging.getLogger(__name__)

Event = Piece | ApiError
Choosing = Callable[[CancelToken], Choose]
"""What chooses a request's adapters, stopped by the request's own token where it has to make one of them first."""


@dataclass(eq=False)
class Ticket:
    """A request on its way; equal only to itself.

    Attributes:
        id: Of the reply, or the client's own of the request.
        client: Whose turn it takes.
        choice: Base model and adapters.
        messages: The conversation.
        sampling: How to reply.
        post: Called from the engine's thread with every piece, the last of which carries stats, or one error.
        cancel: Set from any thread.
        started: `time.perf_counter()` at which its turn came; 0 = it has not.
        chosen: What answers of the model's adapters, set before the first piece.
    """

    id: str
    client: str
    choice: ModelChoice
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    post: Callable[[Event], None]
    cancel: CancelToken = field(default_factory=CancelToken)
    started: float = 0.0
    chosen: Choice = NOTHING


@dataclass(frozen=True)
class Status:
    """What /health tells.

    Attributes:
        base: The base model in memory; empty = none.
        running: Whether a reply is being made.
        waiting: Requests in the queue.
        clients: Different clients among them.
    """

    base: str
    running: bool
    waiting: int
    clients: int


class EngineThread:
    """Starts with `start`, ends with `close`.

    Args:
        open_engine: Loads a base model file.
        places: Requests that may wait.
        choosing: Which of a request's adapters answer; all of them unless it is given.
    """

    def __init__(
        self, open_engine: Callable[[Path], Engine], places: int = PLACES, choosing: Choosing = lambda cancel: whole
    ) -> None:
        self._open_engine, self._choosing = open_engine, choosing
        self._queue: FairQueue[Ticket] = FairQueue(places)
        self._lock = threading.Lock()
        self._running: Ticket | None = None
        self._engine: Engine | None = None
        self._loaded: Base | None = None
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self, first: ModelChoice) -> Future[None]:
        """Begin, with this model: the future is done once it is loaded, or has the error."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(first, ready), name="localhyper-serve", daemon=True)
        self._thread.start()
        return ready

    def submit(self, ticket: Ticket) -> None:
        """Queue a request.

        Raises:
            ApiError: 429, the queue is full; 503, the server is stopping.
        """
        try:
            self._queue.put(ticket, ticket.client)
        except QueueFull:
            if self._closing:
                raise stopping() from None
            raise ApiError(
                429, f"{len(self._queue)} requests are waiting already; try again", code="queue_full",
                kind="rate_limit_error", headers={"Retry-After": str(RETRY_SECONDS)},
            ) from None  # fmt: skip

    def drop(self, ticket: Ticket) -> None:
        """Nobody wants this reply any more: it leaves the queue, or ends at the next token."""
        ticket.cancel.cancel()
        self._queue.remove(ticket)

    def status(self) -> Status:
        """What is going on."""
        waiting = self._queue.order()
        with self._lock:
            running, name = self._running is not None, self._loaded.name if self._loaded else ""
        return Status(name, running, len(waiting), len({ticket.client for ticket in waiting}))

    def position(self, request_id: str) -> int | None:
        """How many requests are served before this one's reply is done, itself included; 0 = its turn has come."""
        with self._lock:
            running = self._running
        if running is not None and running.id == request_id:
            return 0
        for place, ticket in enumerate(self._queue.order(), 1):
            if ticket.id == request_id:
                return place
        return None

    def close(self, timeout: float) -> bool:
        """Stop everything and free the engine; False if the thread still works after `timeout` seconds."""
        self._closing = True
        for ticket in self._queue.close():
            ticket.cancel.cancel()
            ticket.post(stopping())
        with self._lock:
            if self._running is not None:
                self._running.cancel.cancel()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # The thread's own

    def _work(self, first: ModelChoice, ready: Future[None]) -> None:
        try:
            checked = [replace(use, path=file_to_check(use.path)) for use in first.adapters]
            self._engine_for(first).set_adapters(checked)
        except BaseException as error:
            ready.set_exception(error)
        else:
            ready.set_result(None)
            while (ticket := self._queue.get()) is not None:
                self._serve(ticket)
        finally:
            self._free()

    def _serve(self, ticket: Ticket) -> None:
        with self._lock:
            self._running = ticket
            if self._closing:  # `close` had nobody to cancel a moment ago
                ticket.cancel.cancel()
        ticket.started = time.perf_counter()
        try:
            self._generate(ticket)
        except ApiError as error:
            ticket.post(error)
        except Exception as error:  # one request's, whatever it is: the server goes on
            _log.error("%s failed", ticket.id, exc_info=error)
            ticket.post(ApiError(500, "the reply failed; the server's log says why", code="internal_error"))
        finally:
            with self._lock:
                self._running = None

    def _generate(self, ticket: Ticket) -> None:
        if ticket.cancel.cancelled:
            ticket.post(stopping())
            return
        engine = self._prepared(ticket)
        *before, last = ticket.messages
        messages = ticket.chosen.prompt([*ticket.chosen.needed(before), last])
        try:
            engine.render(messages)
        except ModelError as error:
            raise ApiError(400, error.message, code="invalid_value", param="messages") from error
        try:
            pieces = engine.generate(messages, ticket.sampling, cancel=ticket.cancel)
        except ContextError as error:
            message = f"{error.message}; {error.hint}"
            raise ApiError(400, message, code="context_length_exceeded", param="messages") from error
        except ConfigError as error:
            raise ApiError(400, error.message, code="invalid_value") from error
        for piece in pieces:
            if self._closing and piece.stats is not None and piece.stats.finish_reason == "cancelled":
                ticket.post(Piece(piece.text, piece.token_ids))
                ticket.post(stopping())
            else:
                ticket.post(piece)

    def _prepared(self, ticket: Ticket) -> Engine:
        """The engine, with the adapters that answer in force."""
        choice = ticket.choice
        try:
            engine = self._engine_for(choice)
        except LocalHyperError as error:
            _log.error("base model `%s` cannot be loaded: %s", choice.base.name, error.message)
            raise ApiError(
                503, f"base model `{choice.base.name}` cannot be loaded; the server's log says why",
                code="model_unavailable",
            ) from error  # fmt: skip
        try:
            questions = [message.content for message in ticket.messages if message.role == "user"]
            chosen = self._choosing(ticket.cancel)(questions, choice.adapters, engine)
            engine.set_adapters(chosen.uses)
            ticket.chosen = chosen
        except Cancelled:  # whoever asked has gone, or `close` was called
            raise stopping() from None
        except LocalHyperError as error:
            _log.error("`%s` cannot be used: %s", choice.id, error.message)
            raise ApiError(
                400, f"an adapter of `{choice.id}` cannot be used; the server's log says why",
                code="adapter_unusable", param="model",
            ) from error  # fmt: skip
        return engine

    def _engine_for(self, choice: ModelChoice) -> Engine:
        if self._engine is not None and self._loaded == choice.base:  # another time of change is another file
            return self._engine
        self._free()
        engine = self._open_engine(choice.base.path)
        with self._lock:
            self._engine, self._loaded = engine, choice.base
        _log.info("loaded base model `%s`", choice.base.name)
        return engine

    def _free(self) -> None:
        with self._lock:
            engine, self._engine, self._loaded = self._engine, None, None
        if engine is not None:
            engine.close()


def stopping() -> ApiError:
    """The answer to whoever was waiting when the server was stopped."""
    return ApiError(503, "the server is stopping", code="server_stopping")
