"""One thread that owns the engine, fed by a queue and reporting with frozen events; knows nothing of textual.

    widgets ──ask, cancel, reload──▶ queue ──▶ engine thread ──post(HostEvent)──▶ app

A llama context is not thread-safe and cancelling a textual worker does not stop its thread, so exactly one thread
ever touches the engine, and it alone says when work has stopped. The heavy imports happen in it, too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from localhyper.chat import ChatSession
from localhyper.engine import AdapterUse, BaseModelInfo, ChatMessage, Engine, GenerationStats, Sampling
from localhyper.errors import Cancelled, LocalHyperError
from localhyper.progress import CancelToken, Progress, ProgressCallback

EngineFactory = Callable[[ProgressCallback], Engine]
"""Makes the engine, in the engine thread; reports a download or a load while it goes on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """An error as the app shows it.

    Attributes:
        message: One line: what happened.
        hint: What the user can do; may be empty.
        details: The traceback of an unexpected error; empty for a `LocalHyperError`.
    """

    message: str
    hint: str = ""
    details: str = ""

    @property
    def unexpected(self) -> bool:
        """Whether this is a defect of the program and not a condition the user can meet."""
        return bool(self.details)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that `error` stands for."""
        if isinstance(error, LocalHyperError):
            return cls(error.message, error.hint)
        details = "".join(traceback.format_exception(error))
        return cls(f"unexpected {type(error).__name__}: {error}".rstrip(": "), details=details)


@dataclass(frozen=True)
class AskRequest:
    """One question with everything its answer depends on.

    Attributes:
        request_id: Names the request in every event about it.
        messages: The whole conversation, the question last.
        adapters: Exactly the adapters that answer.
    """

    request_id: int
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True)
class LoadStarted:
    """The thread begins to load the model."""


@dataclass(frozen=True)
class LoadProgress:
    """A report of the engine factory."""

    progress: Progress


@dataclass(frozen=True)
class Loaded:
    """The model is ready. `n_ctx` is the chat context in tokens."""

    info: BaseModelInfo
    n_ctx: int
    seconds: float


@dataclass(frozen=True)
class LoadFailed:
    """There is no model; the next question tries again."""

    failure: Failure


@dataclass(frozen=True)
class ReplyStarted:
    """The thread has begun this request: adapters are being set, then the prompt is read."""

    request_id: int


@dataclass(frozen=True)
class ReplyPiece:
    """More text of a reply."""

    request_id: int
    text: str


@dataclass(frozen=True)
class ReplyDone:
    """A reply is over and the thread is free.

    Attributes:
        stats: What it cost; None if it was stopped before the first token.
        forgotten: Messages at the beginning that the window had no room for.
    """

    request_id: int
    stats: GenerationStats | None
    forgotten: int = 0


@dataclass(frozen=True)
class ReplyFailed:
    """A reply ended in an error and the thread is free."""

    request_id: int
    failure: Failure


HostEvent = LoadStarted | LoadProgress | Loaded | LoadFailed | ReplyStarted | ReplyPiece | ReplyDone | ReplyFailed
PostEvent = Callable[[HostEvent], object]


class EngineHost(Protocol):
    """Where the engine lives. A child process can take the thread's place without a change in the widgets."""

    def start(self, post: PostEvent) -> None:
        """Begin to load the model; every event goes to `post`, which must be thread-safe and quick."""
        ...

    def ask(self, request: AskRequest) -> None:
        """Queue a question; a model that failed to load is tried again first."""
        ...

    def cancel(self, request_id: int) -> None:
        """Stop a request. `ReplyDone` follows when it has truly stopped: at once if it was still waiting."""
        ...

    def reload(self) -> None:
        """Queue a fresh load of the model, which also tells what was downloaded or replaced since."""
        ...

    def close(self, timeout: float) -> bool:
        """Stop everything and free the engine; False if the thread still works after `timeout` seconds."""
        ...


@dataclass(frozen=True)
class _Waiting:
    """A queued request. `failures_seen`: loads that had failed when it came."""

    token: CancelToken
    failures_seen: int


class _Session(ChatSession):
    """A conversation that begins with the request's history: the app may have dropped or repeated turns."""

    def __init__(self, engine: Engine, request: AskRequest) -> None:
        super().__init__(engine, adapters=request.adapters, sampling=request.sampling)
        self._messages = list(request.messages[:-1])


class _Reload:
    """Queue entry: load the model (again)."""


class _Shutdown:
    """Queue entry: free the engine and end the thread."""


class ThreadEngineHost:
    """`EngineHost` with one daemon thread of this process."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._jobs: queue.SimpleQueue[AskRequest | _Reload | _Shutdown] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._running: tuple[int, CancelToken] | None = None
        self._post: PostEvent = lambda event: None
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._failed_loads = 0
        self._load_failure = Failure("the model is not loaded")
        self._closing = False

    def start(self, post: PostEvent) -> None:
        """See `EngineHost.start`; a second call is harmless."""
        if self._thread is not None:
            return
        self._post = post
        self._jobs.put(_Reload())
        self._thread = threading.Thread(target=self._work, name="localhyper-engine", daemon=True)
        self._thread.start()

    def ask(self, request: AskRequest) -> None:
        """See `EngineHost.ask`."""
        with self._lock:
            self._waiting[request.request_id] = _Waiting(CancelToken(), self._failed_loads)
        self._jobs.put(request)

    def cancel(self, request_id: int) -> None:
        """See `EngineHost.cancel`."""
        with self._lock:
            if self._running is not None and self._running[0] == request_id:
                self._running[1].cancel()
                return
            dropped = self._waiting.pop(request_id, None)
        if dropped is not None:
            self._post(ReplyDone(request_id, None))

    def reload(self) -> None:
        """See `EngineHost.reload`."""
        self._jobs.put(_Reload())

    def close(self, timeout: float) -> bool:
        """See `EngineHost.close`; may be called from any thread and more than once."""
        with self._lock:
            self._closing = True
            self._waiting.clear()
            if self._running is not None:
                self._running[1].cancel()
        if self._thread is None:
            return True
        self._jobs.put(_Shutdown())
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        """The thread's life."""
        while True:
            job = self._jobs.get()
            if isinstance(job, _Shutdown):
                self._free()
                return
            if isinstance(job, AskRequest):
                self._answer(job)
            elif not self._closing:
                self._load()

    def _load(self) -> None:
        """Load the model and say how it went."""
        self._free()
        self._say(LoadStarted())
        began = time.monotonic()
        try:
            engine = self._factory(lambda progress: self._say(LoadProgress(progress)))
            loaded = Loaded(engine.info, engine.n_ctx, time.monotonic() - began)
        except Exception as error:  # the app goes on whatever the loader met
            self._load_failure = self._failure(error)
            self._failed_loads += 1
            self._say(LoadFailed(self._load_failure))
            return
        self._engine = engine
        self._say(loaded)

    def _answer(self, request: AskRequest) -> None:
        """Answer one request, unless it was dropped while it waited."""
        with self._lock:
            waiting = self._waiting.get(request.request_id)
        if waiting is None:
            return
        if self._engine is None and waiting.failures_seen == self._failed_loads:
            self._load()  # the request came after the failure, so the user wants another try
        with self._lock:  # taken as running only now: stopping a request during a load drops it at once
            waiting = self._waiting.pop(request.request_id, None)
            if waiting is None:
                return
            self._running = (request.request_id, waiting.token)
        event = self._outcome(request, waiting.token)
        with self._lock:
            self._running = None
        self._say(event)

    def _outcome(self, request: AskRequest, token: CancelToken) -> HostEvent:
        """Run one request to its end, whichever that is."""
        if self._engine is None:
            return ReplyFailed(request.request_id, Failure(self._load_failure.message, self._load_failure.hint))
        try:
            return self._generate(self._engine, request, token)
        except Cancelled:
            return ReplyDone(request.request_id, None)
        except Exception as error:  # shown in a dialog; the app goes on
            return ReplyFailed(request.request_id, self._failure(error))

    def _generate(self, engine: Engine, request: AskRequest, token: CancelToken) -> ReplyDone:
        """Stream one reply."""
        token.check()
        self._say(ReplyStarted(request.request_id))
        session = _Session(engine, request)
        session.use(request.adapters)  # always: a file may have been made anew under the same name
        token.check()
        stats = None
        for piece in session.ask(request.messages[-1].content, cancel=token):
            if piece.text:
                self._say(ReplyPiece(request.request_id, piece.text))
            stats = piece.stats or stats
        return ReplyDone(request.request_id, stats, session.forgotten)

    def _free(self) -> None:
        """Close the engine there is, if any."""
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                engine.close()
            except Exception:  # nothing can be done about it any more
                _log.exception("closing the engine failed")

    def _failure(self, error: Exception) -> Failure:
        failure = Failure.of(error)
        if failure.unexpected:
            _log.error("the engine thread met an unexpected error", exc_info=error)
        return failure

    def _say(self, event: HostEvent) -> None:
        """Post, unless the app is going: its loop may be closed already."""
        if self._closing:
            return
        try:
            self._post(event)
        except RuntimeError:
            _log.debug("the app had gone before %s", type(event).__name__)
