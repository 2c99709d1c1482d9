"""From settings to what the app needs: the real engine and the real library, heavy parts imported when called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from localhyper.config import Config
from localhyper.engine import Engine, EngineConfig, Sampling
from localhyper.paths import Paths
from localhyper.progress import Progress, ProgressCallback

from .adapter_source import AdapterRow
from .engine_host import EngineFactory


def engine_factory(config: Config, paths: Paths) -> EngineFactory:
    """Loads the base model that the settings name; looks for it anew each time, so a file fetched since is found."""

    def load(report: ProgressCallback) -> Engine:
        report(Progress("loading", 0, 0, Path(config.base.name).name))
        from localhyper.llama_engine import LlamaEngine
        from localhyper.registry import load_registry

        path = load_registry(paths).find_base(config.base.name)
        return LlamaEngine.load(path, EngineConfig(**dataclasses.asdict(config.engine)))

    return load


def sampling_of(config: Config) -> Sampling:
    """The sampling that the settings ask for."""
    return Sampling(**dataclasses.asdict(config.sampling))


class LibraryAdapters:
    """`AdapterSource` over the library on disk."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def list(self) -> Sequence[AdapterRow]:
        """The library's adapters, as it orders them.

        Raises:
            LibraryError: The library is damaged or cannot be read.
        """
        from localhyper.database import Database
        from localhyper.library import Library

        library = Library(Database(self._paths.library_db), self._paths.adapters_dir)
        return [
            AdapterRow(
                name=info.name,
                path=info.path,
                detail=f"{info.kind}, {info.tokens:,} tokens, rank {info.rank}",
                base_fingerprint=info.base_fingerprint,
                problem="" if info.usable else "its file is missing or damaged",
            )
            for info in library.list()
        ]
