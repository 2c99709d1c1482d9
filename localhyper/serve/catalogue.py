"""What can be served now: base models on this machine, and the library's adapters that fit them.

Looks at the disk anew on every call, so that what is attached, renamed or fetched while serving is seen at once.
Knows no HTTP and no grammar of names; that is `model_names`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from localhyper.base_header import read_base_info
from localhyper.config import Config
from localhyper.engine import AdapterUse, BaseModelInfo
from localhyper.errors import LocalHyperError
from localhyper.library import AdapterInfo
from localhyper.paths import Paths
from localhyper.registry import load_registry
from localhyper.workbench import Workbench

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A base model that can be served.

    Attributes:
        name: What clients call it.
        path: Its file.
        fingerprint: What adapters are matched by.
        created: Seconds since 1970 of the file's last change.
    """

    name: str
    path: Path
    fingerprint: str
    created: int


@dataclass(frozen=True)
class Fitting:
    """An adapter of the library that can be used now."""

    name: str
    path: Path
    base_fingerprint: str
    created: int


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment.

    Attributes:
        bases: By name.
        adapters: Usable ones, newest first.
        default: The base model that the server was started with; None where it or an adapter of `--with` has gone.
        with_adapters: (name, use) of `--with`.
    """

    bases: dict[str, Base]
    adapters: tuple[Fitting, ...]
    default: Base | None
    with_adapters: tuple[tuple[str, AdapterUse], ...] = ()

    def fitting(self, base: Base) -> list[Fitting]:
        """Adapters that were made for this base model, whatever its quantization."""
        return [adapter for adapter in self.adapters if adapter.base_fingerprint == base.fingerprint]


class Catalogue:
    """Reads the registry and the library; may be called from any thread.

    Args:
        paths: Where things lie.
        config: Settings.
        base: The base model that `localhyper` stands for: a name or a file; empty = as set.
        with_adapters: `NAME[@SCALE]` or files that go with it.
    """

    def __init__(self, paths: Paths, config: Config, base: str = "", with_adapters: Sequence[str] = ()) -> None:
        self._paths = paths
        self._default = base or config.base.name
        self._with = tuple(with_adapters)
        self._bench = Workbench(paths, config, base=base)  # for names of adapters; it never loads a model
        self._headers: dict[tuple[Path, int, int], BaseModelInfo | None] = {}
        self._lock = threading.Lock()

    def check_default(self) -> None:
        """Look for what the server is started with.

        Raises:
            LocalHyperError: The base model is missing or unreadable, or an adapter of `--with` is not in the library.
        """
        with self._lock:
            read_base_info(load_registry(self._paths).find_base(self._default))
            self._bench.uses(self._with)

    def snapshot(self) -> Snapshot:
        """What there is now.

        Raises:
            LocalHyperError: A models.toml is wrong, or the library is damaged.
        """
        with self._lock:
            registry = load_registry(self._paths)
            found = [(status.name, status.path) for status in registry.statuses() if status.kind == "base"]
            bases = {name: base for name, path in found if path and (base := self._base(name, path))}
            adapters = tuple(_fitting(info) for info in self._bench.library.list() if info.usable)
            try:
                default = self._default_base(registry.find_base(self._default), bases)
                chosen = self._bench.uses(self._with)
            except LocalHyperError as error:
                _log.warning("what the server was started with is not there: %s", error.message)
                return Snapshot(bases, adapters, None)
            return Snapshot({**bases, default.name: default}, adapters, default, chosen)

    def _base(self, name: str, path: Path) -> Base | None:
        """A base model, if its file can be read: one damaged file hides no good one."""
        try:
            stat = path.stat()
        except OSError:
            return None
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in self._headers:
            try:
                self._headers[key] = read_base_info(path)
            except LocalHyperError as error:
                _log.warning("base model `%s` is not served: %s", name, error.message)
                self._headers[key] = None
        info = self._headers[key]
        return Base(name, path, info.fingerprint, int(stat.st_mtime)) if info else None

    def _default_base(self, file: Path, bases: Mapping[str, Base]) -> Base:
        """The default by its name; a file that lies elsewhere gets one."""
        named = next((base for base in bases.values() if base.path == file), None)
        if named is not None:
            return named
        info = read_base_info(file)
        name = file.stem if file.stem not in bases else f"{file.stem}-{info.fingerprint[:8]}"
        return Base(name, file, info.fingerprint, int(file.stat().st_mtime))


def _fitting(info: AdapterInfo) -> Fitting:
    return Fitting(info.name, info.path, info.base_fingerprint, int(datetime.fromisoformat(info.made_at).timestamp()))
