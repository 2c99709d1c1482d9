"""From settings to what the app needs: the real models and the real library, heavy parts imported when called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from localhyper.config import Config
from localhyper.paths import Paths

from .engine_host import ThreadEngineHost
from .model_room import WorkbenchRoom
from .remembered import Remembered
from .services import Services
from .store import Store

STATE_FILE = "tui.json"


def services(config: Config, paths: Paths, attached: Mapping[str, float], log_path: Path | None) -> Services:
    """Everything the app works with; opens nothing yet but the small file of the last run."""
    store = Store(paths)
    remembered = Remembered(paths.state_dir / STATE_FILE)
    host = ThreadEngineHost(WorkbenchRoom(paths), lambda: store.jobs)
    wanted = dict(attached) or dict(remembered.memory.attached)
    return Services(host, store, store, remembered, config, wanted, log_path)
