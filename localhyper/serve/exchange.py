"""One chat request from its place in the queue to its last byte.

Pieces come from the engine's thread; a client that hangs up, at whatever moment, stops the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from localhyper.chunk_choice import Choice
from localhyper.engine import GenerationStats, Piece
from localhyper.serve.api_error import ApiError
from localhyper.serve.chat_reply import ReplyHead, error_event
from localhyper.serve.chat_request import ChatRequest
from localhyper.serve.engine_thread import EngineThread, Event, Ticket
from localhyper.serve.model_names import ModelChoice

SEND_SECONDS = 60.0  # a client that reads nothing for so long has gone
GONE_STATUS = 499  # as nginx logs it; nobody receives it

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client has hung up."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        line: Digest of the authorization, the address and `user`: whose turn in the queue it is.
        request_id: The client's own id of the request; empty = none.
    """

    line: str
    request_id: str = ""


def caller(headers: Mapping[str, str], address: str, user: str) -> Caller:
    """Who sent this request; `user` is taken on trust."""
    parts = (headers.get("authorization", ""), address, user)
    line = hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()
    return Caller(line, headers.get("x-client-request-id", "")[:200])


class Exchange:
    """Submits a request and hands out its pieces. `close` must be called, whatever happens.

    Args:
        engine: Where the request goes.
        head: What its reply repeats.
        request: What is asked.
        choice: The base model and adapters it names.
        who: Whose turn it takes.
        receive: Tells when the client hangs up.
    """

    def __init__(
        self,
        engine: EngineThread,
        head: ReplyHead,
        request: ChatRequest,
        choice: ModelChoice,
        who: Caller,
        receive: Receive,
    ) -> None:
        self._engine = engine
        self._begun = time.perf_counter()
        self._first = 0.0
        self._made = 0
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._stats: GenerationStats | None = None
        self._outcome = "gone"
        self.head = head
        self._ticket = Ticket(
            who.request_id or head.id, who.line, choice, request.messages, request.sampling, self._post
        )
        engine.submit(self._ticket)
        self._watch = asyncio.create_task(self._wait_for_hangup(receive))

    def _post(self, event: Event) -> None:
        """Called from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to tell
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def _wait_for_hangup(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._engine.drop(self._ticket)
        self._events.put_nowait(None)

    @property
    def chosen(self) -> Choice:
        """What answers of the model's adapters, known with the first piece."""
        return self._ticket.chosen

    async def next(self) -> Piece:
        """The next piece; the last one carries stats.

        Raises:
            ApiError: The engine failed.
            ClientGone: Nobody reads any more.
        """
        event = await self._events.get()
        if event is None:
            raise ClientGone
        if isinstance(event, ApiError):
            self._outcome = event.code
            raise event
        self._first = self._first or time.perf_counter()
        self._made += len(event.token_ids)
        if event.stats is not None:
            self._stats, self._outcome = event.stats, event.stats.finish_reason
        return event

    async def whole(self) -> Response:
        """The reply in one piece."""
        try:
            texts, stats = [], None
            while stats is None:
                piece = await self.next()
                texts.append(piece.text)
                stats = piece.stats
            return JSONResponse(self.head.whole("".join(texts), stats, self.chosen))
        except ClientGone:
            return Response(status_code=GONE_STATUS)
        finally:
            self.close()

    async def stream(self) -> Response:
        """The reply as events; what goes wrong before the first piece is an answer with a status of its own."""
        try:
            first = await self.next()
        except ClientGone:
            self.close()
            return Response(status_code=GONE_STATUS)
        except BaseException:
            self.close()
            raise
        return EventStream(self, first)

    def close(self) -> None:
        """Stop what still works, and write the log's line. Never a word of what was said."""
        self._engine.drop(self._ticket)
        self._watch.cancel()
        now, ticket, stats = time.perf_counter(), self._ticket, self._stats
        _log.info(
            "chat %s model=%s outcome=%s prompt=%d cached=%d generated=%d waited=%.3fs first=%.3fs total=%.3fs",
            self.head.id,
            ticket.choice.id,
            self._outcome,
            stats.prompt_tokens if stats else 0,
            stats.reused_tokens if stats else 0,
            stats.generated_tokens if stats else self._made,
            (ticket.started or now) - self._begun,
            (self._first or now) - self._begun,
            now - self._begun,
        )


class EventStream(Response):
    """Server-sent events of one exchange, closed when they end for whatever reason."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, first: Piece) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._exchange = exchange
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send_pieces(send)
        except ClientGone:
            pass
        except TimeoutError:
            _log.info("chat %s: the client reads nothing, its connection is closed", self._exchange.head.id)
            raise
        finally:
            self._exchange.close()

    async def _send_pieces(self, send: Send) -> None:
        head, piece = self._exchange.head, self._first
        await _send(send, head.opening())
        try:
            while True:
                if piece.text:
                    await _send(send, head.piece(piece.text))
                if piece.stats is not None:
                    break
                piece = await self._exchange.next()
            rest = head.ending(piece.stats, self._exchange.chosen)
        except ApiError as error:
            rest = error_event(error)
        await _send(send, rest)
        await _send(send, b"", more=False)


async def _send(send: Send, data: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": data, "more_body": more})
