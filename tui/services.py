"""What the screens work with, handed in once at the start; knows no widget and makes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localhyper.config import Config

from .adapter_source import AdapterSource
from .engine_host import EngineHost
from .remembered import Remembered
from .store import Store


@dataclass(frozen=True)
class Services:
    """Models, disk and settings of one run.

    Attributes:
        host: The engine thread.
        store: Library, history, jobs, known models.
        adapters: Lists adapters for the panel; the store is one.
        remembered: What is kept between two runs.
        config: The settings at the start.
        attached: Adapters that are on at the start: name to strength.
        log_path: Where the log is, for people.
    """

    host: EngineHost
    store: Store
    adapters: AdapterSource
    remembered: Remembered
    config: Config = field(default_factory=Config)
    attached: Mapping[str, float] = field(default_factory=dict)
    log_path: Path | None = None
