"""What all screens share, and the signals by which they hear of a change. Lives in the app's thread; no widget here."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from textual.dom import DOMNode
from textual.signal import Signal

from localhyper.config import Config, with_value
from localhyper.config_edit import schema
from localhyper.engine import GenerationStats, Sampling
from localhyper.progress import Progress

from .host_events import (
    Failure,
    Loaded,
    LoadFailed,
    LoadProgress,
    LoadStarted,
    ModelEvent,
    Planned,
)
from .job_board import JobBoard
from .words import plain, share_text, size_text


class AppState:
    """The model, the settings and the jobs of this moment.

    Attributes:
        config: The settings in force, command line included.
        loaded: The model in memory; None while there is none.
        load_problem: Why there is none.
        model_line: The model, or what is happening to it, in one line.
        speed: Decode speed of the last reply, for people.
        board: What is being attached.
        task_draft: A task's description that was typed and not attached.
    """

    def __init__(self, owner: DOMNode, config: Config) -> None:
        self.config = config
        self.loaded: Loaded | None = None
        self.load_problem: Failure | None = None
        self.model_line = "starting…"
        self.speed = ""
        self._requests = itertools.count(1)
        self.board = JobBoard()
        self.task_draft = ""
        self.model_changed: Signal[ModelEvent] = Signal(owner, "model changed")
        self.jobs_changed: Signal[JobBoard] = Signal(owner, "jobs changed")
        self.library_changed: Signal[str] = Signal(owner, "library changed")
        self.history_changed: Signal[int] = Signal(owner, "history changed")
        self.config_changed: Signal[Config] = Signal(owner, "config changed")
        self.planned: Signal[Planned] = Signal(owner, "planned")

    @property
    def base(self) -> str:
        """Name of the base model that the settings name, as jobs and lists know it."""
        return self.config.base.name

    @property
    def model_name(self) -> str:
        """What the user calls the model: a path without folder and ending."""
        return Path(self.base).stem if self.base.endswith(".gguf") else self.base

    def next_request(self) -> int:
        """A number for a request to the engine thread, used by no other."""
        return next(self._requests)

    def key(self, action: str) -> str:
        """The key that does something now, by the id of its binding: for texts that name keys."""
        from .keys import all_bindings

        default = next(binding.key for binding in all_bindings() if binding.id == action)
        return self.config.ui.keys.get(action, default).split(",")[0]

    @property
    def sampling(self) -> Sampling:
        """How replies are made, as set."""
        return Sampling(**dataclasses.asdict(self.config.sampling))

    def model_event(self, event: ModelEvent) -> None:
        """Take in what the engine thread says of the model, and pass it on."""
        match event:
            case LoadStarted():
                self.loaded, self.load_problem, self.speed = None, None, ""
                self.model_line = "loading the model…"
            case LoadProgress(progress):
                self.model_line = _progress_line(progress)
            case Loaded() as loaded:
                self.loaded, self.load_problem = loaded, None
                self.config = dataclasses.replace(self.config, base=loaded.config.base)
                facts = f"{loaded.info.quantization}, {size_text(loaded.info.size_bytes)}, context {loaded.n_ctx:,}"
                self.model_line = f"{self.model_name or loaded.info.name}  {facts}"
            case LoadFailed(failure, kept):
                if not kept:
                    self.loaded, self.load_problem = None, failure
                    self.model_line = "no model"
        self.model_changed.publish(event)

    def replied(self, stats: GenerationStats | None) -> None:
        """Show a reply's speed, if it was long enough to have one."""
        if stats is not None and stats.tokens_per_second > 0 and self.loaded is not None:
            self.speed = f"{stats.tokens_per_second:.1f} tok/s"
            self.model_changed.publish(self.loaded)

    def use_setting(self, key: str, value: Any) -> None:
        """One setting as it is now; None = its default. What the command line laid over the others stays."""
        default = next(info.default for info in schema() if info.key == key)
        self.config = with_value(self.config, key, default if value is None else value)
        self.config_changed.publish(self.config)


def _progress_line(progress: Progress) -> str:
    return f"{progress.stage} {plain(progress.item)}".rstrip() + share_text(progress)
