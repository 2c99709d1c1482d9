"""What the engine thread is asked and what it reports: frozen values, knowing neither threads nor widgets."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from localhyper.config import Config
from localhyper.engine import AdapterUse, BaseModelInfo, ChatMessage, GenerationStats, Sampling
from localhyper.errors import LocalHyperError
from localhyper.jobs import Job, JobRequest
from localhyper.progress import Progress
from localhyper.sources.document import Document

from .words import visible


@dataclass(frozen=True)
class Failure:
    """An error as the app shows it.

    Attributes:
        message: One line: what happened.
        hint: What the user can do; may be empty.
        details: What a report of a defect needs, for the screen; empty for a `LocalHyperError`.
        traceback: Where it came from: for the log and for copying, never for the screen.
    """

    message: str
    hint: str = ""
    details: str = ""
    traceback: str = ""

    @property
    def unexpected(self) -> bool:
        """Whether this is a defect of the program and not a condition the user can meet."""
        return bool(self.traceback)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that `error` stands for."""
        if isinstance(error, LocalHyperError):
            return cls(visible(error.message), visible(error.hint))
        message = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
        return cls(visible(message), "", visible(_place(error)), "".join(traceback.format_exception(error)))


def _place(error: BaseException) -> str:
    """What and where, in two lines."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"error     {type(error).__module__}.{type(error).__qualname__}"]
    if frames:
        lines.append(f"raised in {frames[-1].name}, line {frames[-1].lineno} of {frames[-1].filename}")
    return "\n".join(lines)


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
class PlanRequest:
    """What attaching a document or a task would take: what was read, and how it is wanted."""

    request_id: int
    document: Document
    wanted: JobRequest


@dataclass(frozen=True)
class AttachPlan:
    """What attaching a document or a task takes.

    Attributes:
        tokens: Those that are read; 0 of a description that is read by an embedding model.
        seconds: Expected time, from earlier attaches on this machine; None before the first.
        reused: Name of the adapter there is already for exactly this; empty = it has to be made.
        hypernetwork: What will make it.
        cut: Whether a description is longer than what is read of it.
        examples: Examples of the task that are to be learnt.
    """

    tokens: int
    chunks: int
    chunk_tokens: int
    seconds: float | None
    hypernetwork: str
    reused: str = ""
    cut: bool = False
    examples: int = 0


@dataclass(frozen=True)
class LoadStarted:
    """The thread begins to load the model; what was in memory before is gone."""


@dataclass(frozen=True)
class LoadProgress:
    """A report of the loader."""

    progress: Progress


@dataclass(frozen=True)
class Loaded:
    """The model is ready. `n_ctx` is the chat context in tokens."""

    info: BaseModelInfo
    n_ctx: int
    seconds: float
    config: Config


@dataclass(frozen=True)
class LoadFailed:
    """The model is not there; the next question tries again. `kept`: the one from before is still in memory."""

    failure: Failure
    kept: bool = False


@dataclass(frozen=True)
class ReplyStarted:
    """The thread has begun this request: adapters are being set, then the prompt is read."""

    request_id: int


@dataclass(frozen=True)
class ReplyPreparing:
    """An adapter that answers has not been made yet, and is being made; `ReplyStarted` follows once more."""

    request_id: int
    progress: Progress


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
        chosen: Which chunk of a document answered, or which were left out, in words; empty where whole adapters did.
    """

    request_id: int
    stats: GenerationStats | None
    forgotten: int = 0
    chosen: str = ""


@dataclass(frozen=True)
class ReplyFailed:
    """A reply ended in an error and the thread is free."""

    request_id: int
    failure: Failure


@dataclass(frozen=True)
class Planned:
    """The answer to a `PlanRequest`: a plan, or why there can be none."""

    request_id: int
    plan: AttachPlan | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class JobChanged:
    """A job was queued, began, paused, or is over. `failure` is set for a defect of the program."""

    job: Job
    failure: Failure | None = None


@dataclass(frozen=True)
class JobAdvanced:
    """A running job is further."""

    job_id: int
    progress: Progress


ModelEvent = LoadStarted | LoadProgress | Loaded | LoadFailed
ReplyEvent = ReplyStarted | ReplyPreparing | ReplyPiece | ReplyDone | ReplyFailed
JobEvent = JobChanged | JobAdvanced
HostEvent = ModelEvent | ReplyEvent | Planned | JobEvent
PostEvent = Callable[[HostEvent], object]
