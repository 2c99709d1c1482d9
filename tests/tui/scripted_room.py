"""The real model room and the real pipeline over the scripted engine and a tiny real bundle: no model is needed."""

from __future__ import annotations

from collections.abc import Callable

from localhyper.bundle import BundleInfo, check_kind, read_bundle
from localhyper.config import Config
from localhyper.engine import BaseModelInfo, Engine
from localhyper.hypernet import OnnxHypernetwork
from localhyper.paths import Paths
from localhyper.progress import ProgressCallback, ignore_progress
from localhyper.tui.model_room import WorkbenchRoom
from localhyper.workbench import Workbench
from tests.tiny_onnx import write
from tests.tui.fake_engine import FakeEngine

LoadHook = Callable[[Config, ProgressCallback], FakeEngine]


class ScriptedWorkbench(Workbench):
    """A workbench whose models are scripted."""

    def __init__(self, paths: Paths, config: Config, load: LoadHook) -> None:
        super().__init__(paths, config)
        self._load = load
        self._tiny: OnnxHypernetwork | None = None

    def engine(self, progress: ProgressCallback = ignore_progress) -> Engine:
        if self._engine is None:
            self._engine = self._load(self.config, progress)
        return self._engine

    @property
    def base_info(self) -> BaseModelInfo:
        return self.engine().info

    def bundle_of(self, kind: str, hypernet: str = "") -> BundleInfo:
        """For documents the tiny bundle is always there, else what the registry finds for the scripted base model."""
        if kind != "document" or hypernet:
            bundle = read_bundle(self.registry.find_hypernetwork(self.base_info.fingerprint, kind, hypernet))
            check_kind(bundle, kind)
            return bundle
        file = self.paths.cache_dir / "tiny.onnx"
        return read_bundle(file if file.exists() else write(file))

    def load_hypernetwork(self, bundle: BundleInfo, progress: ProgressCallback = ignore_progress) -> OnnxHypernetwork:
        if self._tiny is None or self._tiny.info.path != bundle.path:
            self._tiny = OnnxHypernetwork.load(bundle.path, threads=1)
        return self._tiny


class ScriptedRoom(WorkbenchRoom):
    """`check` raises what it is given, once each."""

    def __init__(self, paths: Paths, load: LoadHook) -> None:
        super().__init__(paths)
        self._load_hook = load
        self.check_errors: list[Exception] = []

    def check(self, config: Config) -> None:
        if self.check_errors:
            raise self.check_errors.pop(0)

    def _make(self, config: Config) -> Workbench:
        return ScriptedWorkbench(self._paths, config, self._load_hook)
