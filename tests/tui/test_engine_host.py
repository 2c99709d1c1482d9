"""The engine thread without any screen: order of events, cancelling, failures, closing."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

import pytest

from localhyper.chunk_choice import Choice, Choose
from localhyper.config import Config
from localhyper.engine import AdapterUse, ChatMessage, Engine, Sampling
from localhyper.errors import HypernetworkError, ModelError
from localhyper.jobs import JobRequest
from localhyper.paths import get_paths
from localhyper.progress import CancelToken, Progress, ProgressCallback
from localhyper.sources.document import Document
from localhyper.tui.engine_host import ThreadEngineHost
from localhyper.tui.host_events import (
    AskRequest,
    HostEvent,
    JobChanged,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadStarted,
    ReplyDone,
    ReplyFailed,
    ReplyPiece,
    ReplyPreparing,
    ReplyStarted,
)
from localhyper.tui.store import Store
from tests.tui.fake_engine import FakeEngine, Script
from tests.tui.scripted_room import ScriptedRoom


def request(number: int) -> AskRequest:
    return AskRequest(number, (ChatMessage("user", f"question {number}"),), Sampling())


class Watched:
    """A started host whose events can be waited for."""

    def __init__(self, script: Script | None = None, errors: list[Exception] | None = None) -> None:
        self.engine = FakeEngine(script or Script(replies=("four letters",)))
        self.errors = errors or []
        self.events: queue.Queue[HostEvent] = queue.Queue()
        paths = get_paths().create()
        self.store = Store(paths)
        self.room = ScriptedRoom(paths, self._load)
        self.host = ThreadEngineHost(self.room, lambda: self.store.jobs)
        self.host.start(self.events.put, Config())

    def _load(self, config: Config, report: ProgressCallback) -> FakeEngine:
        report(Progress("load", 1, 2, "a model"))
        if self.errors:
            raise self.errors.pop(0)
        return self.engine

    def until(self, kind: type[HostEvent]) -> list[HostEvent]:
        """All events up to the next one of `kind`."""
        events = [self.events.get(timeout=10)]
        while not isinstance(events[-1], kind):
            events.append(self.events.get(timeout=10))
        return events


def test_load_and_reply_come_as_events_in_order_from_one_thread() -> None:
    watched = Watched()
    assert [type(event) for event in watched.until(Loaded)] == [LoadStarted, LoadProgress, Loaded]
    watched.host.ask(request(7))
    events = watched.until(ReplyDone)
    assert isinstance(events[0], ReplyStarted)
    assert "".join(event.text for event in events if isinstance(event, ReplyPiece)) == "four letters"
    assert {getattr(event, "request_id", None) for event in events} == {7}
    assert watched.host.close(10)
    assert watched.engine.closed == 1
    assert watched.engine.threads == {"localhyper-engine"}


def test_a_reply_says_which_documents_it_was_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = Choice((), left_out=("rules",))
    monkeypatch.setattr(ScriptedRoom, "choosing", lambda *_: lambda questions, uses, engine: left_out)
    watched = Watched()
    watched.host.ask(request(1))
    done = watched.until(ReplyDone)[-1]
    assert isinstance(done, ReplyDone) and done.chosen == "not about rules"
    assert watched.host.close(10)


def test_an_adapter_that_is_made_for_a_question_is_told_of_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def choosing(room: ScriptedRoom, report: ProgressCallback, cancel: CancelToken) -> Choose:
        def choose(questions: Sequence[str], uses: Sequence[AdapterUse], engine: Engine) -> Choice:
            report(Progress("encode", 1, 4, "the lease"))
            if questions[-1] == "question 2":
                begun.set()
                while not cancel.cancelled:
                    time.sleep(0.01)
            cancel.check()
            return Choice(())

        return choose

    monkeypatch.setattr(ScriptedRoom, "choosing", choosing)
    watched = Watched()
    watched.until(Loaded)
    watched.host.ask(request(1))
    events = watched.until(ReplyDone)
    assert [type(event) for event in events[:3]] == [ReplyStarted, ReplyPreparing, ReplyStarted]
    assert events[1] == ReplyPreparing(1, Progress("encode", 1, 4, "the lease"))
    watched.host.ask(request(2))
    assert begun.wait(10)
    watched.host.cancel(2)
    assert watched.until(ReplyDone)[-1] == ReplyDone(2, None)
    assert len(watched.engine.asked) == 1
    assert watched.host.close(10)


@pytest.mark.parametrize("stage", ["encode", "learn"])
def test_a_question_is_answered_between_two_chunks_and_between_two_readings_of_examples(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def attach(
        room: ScriptedRoom, wanted: JobRequest, document: Document, report: ProgressCallback, cancel: CancelToken
    ) -> int:
        report(Progress(stage, 0, 3))
        watched.host.ask(request(5))
        report(Progress("generate", 0, 3))
        assert not watched.engine.asked, "something of the engine's may be in flight"
        report(Progress(stage, 1, 3))  # nobody waits longer than this
        assert len(watched.engine.asked) == 1
        raise HypernetworkError("as scripted")

    monkeypatch.setattr(ScriptedRoom, "attach", attach)
    watched = Watched()
    watched.until(Loaded)
    job = watched.host.submit(JobRequest(text="Sort it.", kind="task"))
    watched.until(ReplyDone)
    watched.until(JobChanged)
    ended = watched.store.jobs.get(job.id)
    assert (ended.state, ended.message) == ("failed", "as scripted")
    assert watched.host.close(10)


def test_two_questions_never_run_at_once_and_a_waiting_one_is_dropped_at_once() -> None:
    gate = threading.Event()
    watched = Watched(Script(replies=("a long reply",), gate=gate))
    watched.host.ask(request(1))
    watched.until(ReplyPiece)
    watched.host.ask(request(2))
    watched.host.cancel(2)
    assert watched.events.get(timeout=10) == ReplyDone(2, None)
    assert len(watched.engine.asked) == 1
    gate.set()
    done = watched.until(ReplyDone)[-1]
    assert isinstance(done, ReplyDone) and done.request_id == 1
    watched.host.close(10)
    assert len(watched.engine.asked) == 1


def test_cancel_is_done_only_when_the_engine_says_so() -> None:
    stop_gate = threading.Event()
    watched = Watched(Script(replies=("a long reply",), gate=threading.Event(), stop_gate=stop_gate))
    watched.host.ask(request(1))
    watched.until(ReplyPiece)
    watched.host.cancel(1)
    with pytest.raises(queue.Empty):
        watched.events.get(timeout=0.2)
    stop_gate.set()
    done = watched.events.get(timeout=10)
    assert isinstance(done, ReplyDone) and done.stats is not None and done.stats.finish_reason == "cancelled"
    watched.host.close(10)


def test_cancelling_what_is_over_or_never_was_does_nothing() -> None:
    watched = Watched()
    watched.host.ask(request(1))
    watched.until(ReplyDone)
    watched.host.cancel(1)
    watched.host.cancel(99)
    watched.host.ask(request(2))
    assert watched.until(ReplyDone)[-1].request_id == 2  # type: ignore[union-attr]
    watched.host.close(10)


def test_known_errors_carry_their_hint_and_others_their_traceback() -> None:
    watched = Watched(Script(replies=(KeyError("x"), "fine")), errors=[ModelError("no model", "fetch it")])
    failed = watched.until(LoadFailed)[-1]
    assert isinstance(failed, LoadFailed)
    assert (failed.failure.message, failed.failure.hint, failed.failure.unexpected) == ("no model", "fetch it", False)
    watched.host.ask(request(1))
    defect = watched.until(ReplyFailed)[-1]
    assert isinstance(defect, ReplyFailed) and defect.failure.unexpected
    assert (
        "Traceback" in defect.failure.traceback
        and "Traceback" not in defect.failure.details
        and "KeyError" in defect.failure.message
    )
    watched.host.ask(request(2))
    watched.until(ReplyDone)
    watched.host.close(10)


def test_reload_frees_the_old_engine_first() -> None:
    watched = Watched()
    watched.until(Loaded)
    watched.host.load(Config())
    watched.until(Loaded)
    assert watched.engine.closed == 1
    watched.host.close(10)
    assert watched.engine.closed == 2


def test_close_says_so_when_the_thread_does_not_come_back_and_works_a_second_time() -> None:
    stop_gate = threading.Event()
    watched = Watched(Script(replies=("a long reply",), gate=threading.Event(), stop_gate=stop_gate))
    watched.host.ask(request(1))
    watched.until(ReplyPiece)
    assert not watched.host.close(0.1)
    stop_gate.set()
    assert watched.host.close(10)
    assert watched.engine.closed == 1


def test_close_before_start_and_a_post_to_an_app_that_has_gone_are_harmless() -> None:
    store = Store(get_paths().create())
    engine = FakeEngine()

    def host() -> ThreadEngineHost:
        return ThreadEngineHost(ScriptedRoom(store.paths, lambda config, report: engine), lambda: store.jobs)

    assert host().close(1)

    def gone(event: HostEvent) -> None:
        raise RuntimeError("event loop is closed")

    started = host()
    started.start(gone, Config())
    started.ask(request(1))
    assert started.close(10)
