"""One thread that owns the models, fed by an inbox and reporting with frozen events; knows nothing of textual.

    widgets ──ask, plan, submit, load──▶ inbox ──▶ engine thread ──post(HostEvent)──▶ app

A llama context is not thread-safe and cancelling a textual worker does not stop its thread, so exactly one thread
ever touches the models, and it alone says when work has stopped. The heavy imports happen in it, too. Documents are
attached in the same thread (`job_turns`); a question that comes meanwhile is answered between two chunks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from localhyper.chat import ChatSession
from localhyper.chunk_choice import Choice, Choose
from localhyper.config import Config
from localhyper.engine import AdapterUse, Engine
from localhyper.errors import Cancelled
from localhyper.jobs import Job, JobQueue, JobRequest
from localhyper.progress import CancelToken, Progress

from .host_events import (
    AskRequest,
    Failure,
    HostEvent,
    JobChanged,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadStarted,
    Planned,
    PlanRequest,
    PostEvent,
    ReplyDone,
    ReplyFailed,
    ReplyPiece,
    ReplyPreparing,
    ReplyStarted,
)
from .inbox import Inbox
from .job_turns import JobTurns
from .model_room import ModelRoom

_log = logging.getLogger(__name__)


class EngineHost(Protocol):
    """Where the models live. A child process can take the thread's place without a change in the widgets."""

    def start(self, post: PostEvent, config: Config) -> None:
        """Begin to load the model; every event goes to `post`, which must be thread-safe and quick."""
        ...

    def ask(self, request: AskRequest) -> None:
        """Queue a question; a model that failed to load is tried again first."""
        ...

    def plan(self, request: PlanRequest) -> None:
        """Queue the question what attaching something takes; `Planned` answers it."""
        ...

    def cancel(self, request_id: int) -> None:
        """Stop a request. `ReplyDone` follows when it has truly stopped: at once if it was still waiting."""
        ...

    def load(self, config: Config) -> None:
        """Queue a load of the model that the settings name; a job under way goes on afterwards."""
        ...

    def submit(self, request: JobRequest, password: str = "") -> Job:
        """Queue what is to be attached; may wait for the database, so not to be called by widgets directly."""
        ...

    def pause_job(self, number: int) -> None:
        """Stop a job so that it can go on; waits for the database like `submit`."""
        ...

    def cancel_job(self, number: int) -> None:
        """Stop a job for good; waits for the database like `submit`."""
        ...

    def resume_job(self, number: int) -> None:
        """Let a paused, failed or cancelled job go on; waits for the database like `submit`."""
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

    def __init__(self, engine: Engine, request: AskRequest, choose: Choose) -> None:
        super().__init__(engine, adapters=request.adapters, sampling=request.sampling, choose=choose)
        self._messages = list(request.messages[:-1])


@dataclass(frozen=True)
class _Load:
    """Inbox entry: load the model that these settings name."""

    config: Config


class _WorkOff:
    """Inbox entry: look for jobs."""


class _Shutdown:
    """Inbox entry: free the models and end the thread."""


_Entry = AskRequest | PlanRequest | _Load | _WorkOff | _Shutdown


class ThreadEngineHost:
    """`EngineHost` with one daemon thread of this process.

    Args:
        room: The models; from `start` on they belong to the thread.
        queue: Opens the job queue, in whichever thread needs it first.
    """

    def __init__(self, room: ModelRoom, queue: Callable[[], JobQueue]) -> None:
        self._room = room
        self._queue = queue
        self._inbox: Inbox[_Entry] = Inbox()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._running: tuple[int, CancelToken] | None = None
        self._post: PostEvent = lambda event: None
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._config = Config()
        self._failed_loads = 0
        self._load_failure = Failure("the model is not loaded")
        self._closing = False
        self._turns = JobTurns(room, queue, self._say, self._serve)

    def start(self, post: PostEvent, config: Config) -> None:
        """See `EngineHost.start`; a second call is harmless."""
        if self._thread is not None:
            return
        self._post = post
        self._inbox.put(_Load(config))
        self._thread = threading.Thread(target=self._work, name="localhyper-engine", daemon=True)
        self._thread.start()

    def ask(self, request: AskRequest) -> None:
        """See `EngineHost.ask`."""
        self._enter(request)

    def plan(self, request: PlanRequest) -> None:
        """See `EngineHost.plan`."""
        self._enter(request)

    def _enter(self, request: AskRequest | PlanRequest) -> None:
        with self._lock:
            self._waiting[request.request_id] = _Waiting(CancelToken(), self._failed_loads)
        self._inbox.put(request)

    def cancel(self, request_id: int) -> None:
        """See `EngineHost.cancel`."""
        with self._lock:
            if self._running is not None and self._running[0] == request_id:
                self._running[1].cancel()
                return
            dropped = self._waiting.pop(request_id, None)
        if dropped is not None:
            self._post(ReplyDone(request_id, None))

    def load(self, config: Config) -> None:
        """See `EngineHost.load`."""
        self._inbox.put(_Load(config))
        self._turns.notice()

    def submit(self, request: JobRequest, password: str = "") -> Job:
        """See `EngineHost.submit`."""
        job = self._queue().submit(request)
        self._turns.remember_password(job.id, password)
        return self._told(job.id)

    def pause_job(self, number: int) -> None:
        """See `EngineHost.pause_job`."""
        self._queue().pause(number)
        self._turns.interrupt(number)
        self._told(number)

    def cancel_job(self, number: int) -> None:
        """See `EngineHost.cancel_job`."""
        self._queue().cancel(number)
        self._turns.interrupt(number)
        self._told(number)

    def resume_job(self, number: int) -> None:
        """See `EngineHost.resume_job`."""
        self._queue().resume(number)
        self._told(number)

    def _told(self, number: int) -> Job:
        """Report a job as it is now and have the thread look for work."""
        job = self._queue().get(number)
        self._say(JobChanged(job))
        self._inbox.put(_WorkOff())
        return job

    def close(self, timeout: float) -> bool:
        """See `EngineHost.close`; may be called from any thread and more than once."""
        with self._lock:
            self._closing = True
            self._waiting.clear()
            if self._running is not None:
                self._running[1].cancel()
        if self._thread is None:
            return True
        self._inbox.put_front(_Shutdown())
        self._turns.leave()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # The thread's own

    def _work(self) -> None:
        """The thread's life."""
        while True:
            match self._inbox.get():
                case _Shutdown():
                    self._free()
                    return
                case _Load(config):
                    self._load(config)
                case AskRequest() | PlanRequest() as request:
                    self._answer(request)
                case _WorkOff():
                    self._work_off()

    def _work_off(self) -> None:
        """Attach what is queued, one document at a time; whatever else waits comes between two of them."""
        if self._engine is None or self._closing:
            return
        if self._turns.run_next(self._config.base.name):
            self._inbox.put(_WorkOff())

    def _serve(self, wait: float) -> bool:
        """Between two chunks of a job: answer what waits. False if the job has to make way."""
        entry = self._inbox.get(wait)
        while entry is not None:
            if isinstance(entry, _Load | _Shutdown):
                self._inbox.put_front(entry)
                return False
            if isinstance(entry, AskRequest | PlanRequest):
                self._answer(entry)
            entry = self._inbox.get(0)
        return True

    def _load(self, config: Config) -> None:
        """Load a model and say how it went; one that cannot be loaded does not cost the one there is."""
        if self._closing:
            return
        began = time.monotonic()
        try:
            self._room.check(config)
            self._free()
            self._say(LoadStarted())
            engine = self._room.load(config, lambda progress: self._say(LoadProgress(progress)))
            loaded = Loaded(engine.info, engine.n_ctx, time.monotonic() - began, config)
        except Exception as error:  # the app goes on whatever the loader met
            self._config = config if self._engine is None else self._config
            self._load_failure = self._failure(error)
            self._failed_loads += 1
            self._say(LoadFailed(self._load_failure, kept=self._engine is not None))
            self._inbox.put(_WorkOff())  # a job may have made way for this
            return
        self._engine, self._config = engine, config
        self._say(loaded)
        self._turns.recover()
        self._inbox.put(_WorkOff())

    def _answer(self, request: AskRequest | PlanRequest) -> None:
        """Answer one request, unless it was dropped while it waited."""
        with self._lock:
            waiting = self._waiting.get(request.request_id)
        if waiting is None:
            return
        if self._engine is None and waiting.failures_seen == self._failed_loads:
            self._load(self._config)  # the request came after the failure, so the user wants another try
        with self._lock:  # taken as running only now: stopping a request during a load drops it at once
            waiting = self._waiting.pop(request.request_id, None)
            if waiting is None:
                return
            self._running = (request.request_id, waiting.token)
        if isinstance(request, AskRequest):
            event = self._outcome(request, waiting.token)
        else:
            event = self._planned(request, waiting.token)
        with self._lock:
            self._running = None
        self._say(event)

    def _outcome(self, request: AskRequest, token: CancelToken) -> HostEvent:
        """Run one question to its end, whichever that is."""
        if self._engine is None:
            return ReplyFailed(request.request_id, Failure(self._load_failure.message, self._load_failure.hint))
        try:
            return self._generate(self._engine, request, token)
        except Cancelled:
            return ReplyDone(request.request_id, None)
        except Exception as error:  # shown in a dialog; the app goes on
            return ReplyFailed(request.request_id, self._failure(error))

    def _planned(self, request: PlanRequest, token: CancelToken) -> HostEvent:
        if self._engine is None:
            return Planned(request.request_id, failure=Failure(self._load_failure.message, self._load_failure.hint))
        try:
            return Planned(request.request_id, self._room.plan(request.wanted, request.document, token))
        except Exception as error:  # shown in the dialog that asked
            return Planned(request.request_id, failure=self._failure(error))

    def _generate(self, engine: Engine, request: AskRequest, token: CancelToken) -> ReplyDone:
        """Stream one reply."""
        token.check()
        self._say(ReplyStarted(request.request_id))
        session = _Session(engine, request, self._choosing(request.request_id, token))
        stats = None
        for piece in session.ask(request.messages[-1].content, cancel=token):
            if piece.text:
                self._say(ReplyPiece(request.request_id, piece.text))
            stats = piece.stats or stats
        return ReplyDone(request.request_id, stats, session.forgotten, str(session.choice))

    def _choosing(self, request_id: int, token: CancelToken) -> Choose:
        """What chooses adapters for a request, telling of one that has to be made first."""
        told: list[Progress] = []

        def tell(progress: Progress) -> None:
            told.append(progress)
            self._say(ReplyPreparing(request_id, progress))

        choose = self._room.choosing(tell, token)

        def chosen(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
            choice = choose(questions, uses, engine)
            if told:
                self._say(ReplyStarted(request_id))
            return choice

        return chosen

    def _free(self) -> None:
        """Close the engine there is, if any."""
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                self._room.free()
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
