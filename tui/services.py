"""What the screens work with, handed in once at the start; knows no widget and makes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localhyper.engine import Sampling

from .adapter_source import AdapterSource
from .engine_host import EngineHost

LibraryFactory = Callable[[], AdapterSource]
"""Makes the adapter source, in a worker thread."""


@dataclass(frozen=True)
class Services:
    """Engine, library and settings of one run.

    Attributes:
        library_factory: None = no adapter panel.
        model_name: What the user calls the model; empty = the name in its file.
        attached: Adapters that are on at the start: name to strength.
        log_path: Where the log is, for people.
    """

    host: EngineHost
    library_factory: LibraryFactory | None = None
    sampling: Sampling = field(default_factory=Sampling)
    attached: Mapping[str, float] = field(default_factory=dict)
    log_path: Path | None = None
    model_name: str = ""
