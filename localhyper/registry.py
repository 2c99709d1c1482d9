"""Finds the files of known models on this machine, and says what to run when they are missing.

It loads no model and opens no network connection; `download.pull` fetches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from localhyper.base_header import read_base_info
from localhyper.bundle import BundleInfo, read_bundle, read_purpose
from localhyper.checksums import file_sha256
from localhyper.config import did_you_mean
from localhyper.errors import ConfigError, HypernetworkError, LocalHyperError, ModelError
from localhyper.model_folders import check_digests, check_sizes, is_complete, size_on_disk
from localhyper.model_specs import (
    BaseModelSpec,
    EmbedderSpec,
    FolderSpec,
    HypernetworkSpec,
    KnownModels,
    ModelSpec,
    PublishedSpec,
    PypiSource,
    load_known,
    package_folder,
)
from localhyper.paths import Paths, get_paths
from localhyper.progress import CancelToken, ProgressCallback, ignore_progress

__all__ = ["BaseModelSpec", "HypernetworkSpec", "ModelSpec", "ModelStatus", "Registry", "load_registry"]

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelStatus:
    """One line of `localhyper models list`.

    Attributes:
        spec: The entry in models.toml; None for a file that merely lies in the models folder.
        name: What to call it by.
        kind: `base`, the hypernetwork's kind (`hypernetwork` where a file does not tell), `published` or `embedder`.
        path: The file, or the folder of a `FolderSpec`; None when it is not (or not wholly) on this machine.
        size: Bytes on disk, or to fetch; 0 when not known.
    """

    spec: ModelSpec | None
    name: str
    kind: str
    path: Path | None
    size: int


def load_registry(paths: Paths | None = None) -> Registry:
    """The registry over the shipped models.toml and the user's own.

    Raises:
        ConfigError: A models.toml is wrong.
    """
    paths = paths or get_paths()
    return Registry(paths, load_known(paths))


class Registry:
    """Known models and where their files are."""

    def __init__(self, paths: Paths, known: KnownModels) -> None:
        """Use `load_registry`, which reads models.toml."""
        self.paths = paths
        self.bases: dict[str, BaseModelSpec] = dict(known.bases)
        self.hypernetworks: dict[str, HypernetworkSpec] = dict(known.hypernetworks)
        self.folders: dict[str, PublishedSpec | EmbedderSpec] = {**known.published, **known.embedders}

    @property
    def specs(self) -> list[ModelSpec]:
        """Every entry, base models first."""
        return [*self.bases.values(), *self.hypernetworks.values(), *self.folders.values()]

    def spec(self, name: str) -> ModelSpec:
        """The entry of this name.

        Raises:
            ConfigError: No such entry.
        """
        found = next((spec for spec in self.specs if spec.name == name), None)
        if found is None:
            raise ConfigError(f"no model is named `{name}`", did_you_mean(name, [spec.name for spec in self.specs]))
        return found

    def find_base(self, name_or_path: str | os.PathLike[str]) -> Path:
        """The `.gguf` file of a base model: a path as it is, else a name from models.toml or the models folder.

        Raises:
            ModelError: It is not on this machine (the hint says what to run), or its size is wrong.
        """
        text = os.fspath(name_or_path)
        if text in self.bases:
            return self._present(self.bases[text])
        given = Path(text).expanduser()
        if given.is_file():
            return given.resolve()
        own = self.paths.models_dir / f"{text}.gguf"
        if given.name == text and own.is_file():
            return own
        if given.name != text or given.suffix == ".gguf":
            raise ModelError(
                f"base model file `{text}` does not exist", "give a .gguf file or a name from `localhyper models list`"
            )
        raise ModelError(f"no base model is named `{text}`", did_you_mean(text, self.bases))

    def find_hypernetwork(self, base: str, kind: str = "document", name: str | None = None) -> Path:
        """The `.onnx` file of a hypernetwork for a base model.

        Args:
            base: Name of a base model, as `find_base` takes it, or a fingerprint (64 hex digits). A bundle fits that
                names the base in models.toml, or that holds the fingerprint of the base's file where that is here.
            kind: `document`, `task` or `image`.
            name: A name from models.toml or the hypernetworks folder, or a path; None = the first that fits, those in
                the user's models.toml and folder before the shipped one.

        Raises:
            HypernetworkError: None fits, or the named one is not on this machine.
        """
        if name:
            return self._named_hypernetwork(name)
        for _, path in self._fitting(base, kind):
            return path
        shown = f"fingerprint {base[:12]}…" if _FINGERPRINT.fullmatch(base) else f"`{base}`"
        raise HypernetworkError(
            f"no {kind} hypernetwork for the base model {shown} is on this machine",
            self._elsewhere_hint(base, kind),
        )

    def hypernetworks_for(self, base: str, kind: str = "document") -> dict[str, Path]:
        """Names and files of all hypernetworks here that fit a base model, as `find_hypernetwork` takes and finds them.

        The one that is used where none is named comes first.
        """
        found: dict[str, Path] = {}
        for name, path in self._fitting(base, kind):
            found.setdefault(name, path)
        return found

    def _fitting(self, base: str, kind: str) -> Iterator[tuple[str, Path]]:
        fingerprint = base if _FINGERPRINT.fullmatch(base) else self._fingerprint(base)
        for path, spec in self._bundles(kind):
            if (spec is not None and spec.base == base) or (fingerprint and _fits(fingerprint, path)):
                own = path.stem if path.stem not in self.hypernetworks else str(path)
                yield spec.name if spec is not None else own, path

    def _fingerprint(self, base: str) -> str:
        """Of a base model's file; empty where it is not on this machine or cannot be read."""
        try:
            return read_base_info(self.find_base(base)).fingerprint
        except ModelError:
            return ""

    def _elsewhere_hint(self, base: str, kind: str) -> str:
        """Where a hypernetwork of this kind can be had that is not on this machine."""
        for bundle in self.hypernetworks.values():
            if bundle.kind == kind and bundle.base == base and bundle.fetchable:
                return f"run `localhyper models pull {bundle.name}`"
        method = {"document": "doc-to-lora", "task": "text-to-lora"}.get(kind)
        for name, spec in self.folders.items():
            if isinstance(spec, PublishedSpec) and spec.method == method and spec.base == base and spec.fetchable:
                return f"run `localhyper models pull {name}`, then `localhyper hypernet import {name}`"
        own = "enter one of your own with `localhyper models add FILE.onnx`"
        if kind != "task":
            return f"{own}; `localhyper models list` shows what there is"
        bases = [
            spec.base for spec in self.folders.values() if isinstance(spec, PublishedSpec) and spec.method == method
        ]
        return (
            f"{own}, or import one with `localhyper hypernet import`: published for {', '.join(dict.fromkeys(bases))}"
        )

    def embedder_for(self, model: str) -> EmbedderSpec | None:
        """The entry of an embedding model by its Hugging Face repository, or by the name that ends it."""
        embedders = [spec for spec in self.folders.values() if isinstance(spec, EmbedderSpec)]
        same = [spec for spec in embedders if spec.hub is not None and spec.hub.repo.lower() == model.lower()]
        return next(iter(same or [spec for spec in embedders if spec.name == model.rpartition("/")[2].lower()]), None)

    def find_folder(self, name: str) -> Path:
        """The folder that holds all files of a published hypernetwork or an embedder, as in its repository.

        Raises:
            ModelError: No entry has this name, a file is not on this machine (the hint says what to run), or a size is
                wrong.
        """
        if name not in self.folders:
            raise ModelError(
                f"no published hypernetwork or embedder is named `{name}`", did_you_mean(name, self.folders)
            )
        return self._present(self.folders[name])

    def locate(self, spec: ModelSpec) -> Path | None:
        """Where the file (or folder, with all its files) of an entry lies; None when it is not on this machine."""
        for path in self._places(spec):
            if is_complete(spec, path) if isinstance(spec, FolderSpec) else path.is_file():
                return path
        return None

    def statuses(self) -> list[ModelStatus]:
        """Every known model and every file that lies in our folders."""
        listed = [self._status(spec) for spec in self.specs]
        shown = {status.path for status in listed}
        bases, nets = _files(self.paths.models_dir, ".gguf"), _files(self.paths.hypernetworks_dir, ".onnx")
        strays = [(path, "base") for path in bases if path not in shown]
        strays += [(path, read_purpose(path)[0] or "hypernetwork") for path in nets if path not in shown]
        return listed + [ModelStatus(None, path.stem, kind, path, path.stat().st_size) for path, kind in strays]

    def verify(
        self, spec: ModelSpec, *, progress: ProgressCallback = ignore_progress, cancel: CancelToken | None = None
    ) -> str:
        """Compare what is present with models.toml and return its sha256 (of a folder, see `check_digests`).

        Digests are remembered by path, size and time of change, so a second call costs nothing.

        Raises:
            ModelError: A base model, or a file of a folder, is missing or is not what models.toml describes.
            HypernetworkError: The same of a hypernetwork.
        """
        path = self._present(spec)
        try:
            if isinstance(spec, FolderSpec):
                memory = self.paths.checksums_file
                return check_digests(spec, path, memory, _again(spec), progress=progress, cancel=cancel)
            digest = file_sha256(path, self.paths.checksums_file, progress=progress, cancel=cancel)
        except OSError as error:
            raise _error(
                spec, f"`{path}` cannot be read: {error.strerror or error}", "check its permissions"
            ) from error
        if spec.sha256 and digest != spec.sha256:
            raise _error(spec, f"`{path}` is damaged: sha256 is {digest}, wanted {spec.sha256}", _again(spec))
        return digest

    def _present(self, spec: ModelSpec) -> Path:
        path = self.locate(spec)
        if path is None:
            raise _error(spec, f"{title(spec)} is not on this machine", self._missing_hint(spec))
        if isinstance(spec, FolderSpec):
            check_sizes(spec, path, _again(spec))
            return path
        size = path.stat().st_size
        if spec.size and size != spec.size:
            raise _error(spec, f"`{path}` is damaged: {size:,} bytes, wanted {spec.size:,}", _again(spec))
        return path

    def _missing_hint(self, spec: ModelSpec) -> str:
        if spec.fetchable:
            size = f" ({spec.size / 1e6:.0f} MB)" if spec.size >= 500_000 else ""
            return f"run `localhyper models pull {spec.name}`{size}"
        if isinstance(spec, FolderSpec):
            return f"put its {len(spec.files)} files into `{spec.path or self.target(spec)}`"
        return f"put the file at `{spec.path or self.target(spec)}`"

    def target(self, spec: ModelSpec) -> Path:
        """Where a fetched file goes, or the folder that fetched files go into."""
        if isinstance(spec, FolderSpec):
            return self.paths.models_dir / spec.name
        folder = self.paths.models_dir if isinstance(spec, BaseModelSpec) else self.paths.hypernetworks_dir
        return folder / spec.file

    def _places(self, spec: ModelSpec) -> Iterator[Path]:
        """Where the file or folder may lie, in order."""
        if spec.path:
            yield Path(spec.path).expanduser()
        yield self.target(spec)
        if isinstance(spec, FolderSpec):
            return
        if isinstance(spec, HypernetworkSpec) and spec.resource:
            yield package_folder() / PurePosixPath(spec.resource)
        if spec.pypi is not None and spec.pypi.module:
            yield from _installed(spec.pypi)

    def _status(self, spec: ModelSpec) -> ModelStatus:
        path = self.locate(spec)
        if path is None:
            size = spec.size
        else:
            size = size_on_disk(spec, path) if isinstance(spec, FolderSpec) else path.stat().st_size
        return ModelStatus(spec, spec.name, kind_of(spec), path, size)

    def _named_hypernetwork(self, name: str) -> Path:
        if name in self.hypernetworks:
            return self._present(self.hypernetworks[name])
        given, own = Path(name).expanduser(), self.paths.hypernetworks_dir / f"{name}.onnx"
        if given.is_file():
            return given.resolve()
        if given.name == name and own.is_file():
            return own
        raise HypernetworkError(
            f"no hypernetwork is named `{name}`, and there is no such file", did_you_mean(name, self.hypernetworks)
        )

    def _bundles(self, kind: str) -> Iterator[tuple[Path, HypernetworkSpec | None]]:
        """Present bundles of this kind, the shipped ones last; a stray file is asked for its kind later."""
        present = [(self.locate(spec), spec) for spec in self.hypernetworks.values() if spec.kind == kind]
        shipped = [(path, spec) for path, spec in present if path and spec.resource]
        own = [(path, spec) for path, spec in present if path and not spec.resource]
        taken = {path for path, _ in own + shipped}
        yield from own
        stray = {path: _readable(path) for path in _files(self.paths.hypernetworks_dir, ".onnx") if path not in taken}
        # The companion of another one, for single chunks, is never meant by itself.
        beside = {info.chunk_bundle.file for info in stray.values() if info and info.chunk_bundle}
        for path, info in stray.items():
            if info is not None and info.kind == kind and path.name not in beside:
                yield path, None
        yield from shipped


def kind_of(spec: ModelSpec) -> str:
    """The word for an entry in lists: `base`, a hypernetwork's kind, `published` or `embedder`."""
    if isinstance(spec, HypernetworkSpec):
        return spec.kind
    return {BaseModelSpec: "base", PublishedSpec: "published", EmbedderSpec: "embedder"}[type(spec)]


def title(spec: ModelSpec) -> str:
    """An entry in a sentence, such as: base model `smollm2-135m-instruct`."""
    words = {"base": "base model", "published": "published hypernetwork", "embedder": "embedder"}
    return f"{words.get(kind_of(spec), 'hypernetwork')} `{spec.name}`"


def _fits(fingerprint: str, path: Path) -> bool:
    info = _readable(path)
    return info is not None and info.base_fingerprint == fingerprint


def _installed(source: PypiSource) -> Iterator[Path]:
    """The file inside an installed package, which is looked up and not imported."""
    try:
        found = find_spec(source.module)
    except (ImportError, ValueError):
        return
    inside = PurePosixPath(source.member).parts[1:]
    for folder in (found.submodule_search_locations or []) if found else []:
        yield Path(folder, *inside)


def _readable(path: Path) -> BundleInfo | None:
    """What a bundle says of itself; None when it cannot be read, so that one bad file hides no good one."""
    try:
        return read_bundle(path)
    except LocalHyperError:
        return None


def _files(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix and path.is_file())
    except OSError:
        return []


def _error(spec: ModelSpec, message: str, hint: str) -> LocalHyperError:
    return HypernetworkError(message, hint) if isinstance(spec, HypernetworkSpec) else ModelError(message, hint)


def _again(spec: ModelSpec) -> str:
    return f"run `localhyper models pull {spec.name} --force`" if spec.fetchable else "put the right file there"
