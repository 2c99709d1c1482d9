"""Which hypernetwork makes adapters of what for one base model, and those in memory: one of each kind at most.

A workbench's part. Knows where bundles lie, not what is made with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from localhyper.bundle import BundleInfo, check_kind, read_bundle
from localhyper.config import HypernetSettings
from localhyper.engine import BaseModelInfo
from localhyper.errors import HypernetworkError
from localhyper.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from localhyper.hypernet import OnnxHypernetwork
    from localhyper.registry import Registry


class ChosenHypernets:
    """Hypernetworks by kind.

    Args:
        registry: Where they are looked for.
        base: Their base model: a name or a path.
        wanted: Kind to the name or path that was asked for; others are the first that fit.
        settings: How they are run.
    """

    def __init__(
        self, registry: Callable[[], Registry], base: str, wanted: Mapping[str, str], settings: HypernetSettings
    ) -> None:
        self._registry, self._base, self._settings = registry, base, settings
        self._wanted = dict(wanted)
        self._described: dict[tuple[str, str], BundleInfo] = {}
        self._loaded: dict[str, OnnxHypernetwork] = {}

    def choose(self, name: str) -> None:
        """Use this one (a name or a path) for what it was made for.

        Raises:
            HypernetworkError: There is none, or it is damaged.
        """
        self._wanted[read_bundle(self._registry().find_hypernetwork(self._base, name=name)).kind] = name

    def describe(self, kind: str, name: str = "") -> BundleInfo:
        """What the hypernetwork of this kind says of itself; nothing is loaded for it. `name` goes before the choice.

        Raises:
            HypernetworkError: There is none, it is damaged, or it is of another kind.
        """
        key = (kind, name or self._wanted.get(kind, ""))
        if key not in self._described:
            bundle = read_bundle(self._registry().find_hypernetwork(self._base, *key))
            check_kind(bundle, kind)
            self._described[key] = bundle
        return self._described[key]

    def made_by(self, sha256: str, base: BaseModelInfo, name: str = "") -> BundleInfo:
        """What the hypernetwork of this digest, made for this base model, says of itself; of documents.

        Raises:
            HypernetworkError: It is not on this machine; `name` is what it was called.
        """
        with contextlib.suppress(HypernetworkError):
            self.describe("document")
        known = [bundle for bundle in self._described.values() if bundle.sha256 == sha256]
        found = known or [bundle for bundle in self._here(base) if bundle.sha256 == sha256]
        if not found:
            raise HypernetworkError(
                f"hypernetwork `{name}` ({sha256[:12]}) is not on this machine as it was",
                "attach the document again",
            )
        return found[0]

    def is_here(self, bundle: BundleInfo, base: BaseModelInfo) -> bool:
        """Whether `made_by` will find it in another run, too: not if it was named by its path, but in the settings."""
        name = self._settings.name
        with contextlib.suppress(HypernetworkError):
            if name and self._registry().find_hypernetwork(self._base, name=name) == bundle.path:
                return True
        return any(found.sha256 == bundle.sha256 for found in self._here(base))

    def _here(self, base: BaseModelInfo) -> Iterator[BundleInfo]:
        for path in self._registry().hypernetworks_for(base.fingerprint).values():
            with contextlib.suppress(HypernetworkError):  # one bad file hides no good one
                yield read_bundle(path)

    def load(self, bundle: BundleInfo, base: BaseModelInfo, progress: ProgressCallback) -> OnnxHypernetwork:
        """The hypernetwork in memory, in the place of another one of its kind, checked against its base model.

        Raises:
            HypernetworkError: It is damaged, or for another base model.
        """
        loaded = self._loaded.get(bundle.kind)
        if loaded is None or (loaded.info.path, loaded.info.sha256) != (bundle.path, bundle.sha256):
            from localhyper.hypernet import OnnxHypernetwork

            progress(Progress("load", 0, 0, bundle.name))
            self._loaded.pop(bundle.kind, None)
            loaded = self._loaded[bundle.kind] = OnnxHypernetwork.load(
                bundle.path,
                threads=self._settings.threads,
                providers=self._settings.providers,
                expected_base=base,
            )
        return loaded

    def close(self) -> None:
        """Free what is in memory. Calling it twice is harmless."""
        self._loaded.clear()
