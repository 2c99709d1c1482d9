"""models.toml → frozen dataclasses: which base models and hypernetworks are known, and where each comes from.

It looks for no file but models.toml; `registry` finds the models themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from localhyper.config import REQUIRED, check_keys, parse_section, read_toml, setting
from localhyper.errors import ConfigError
from localhyper.paths import Paths

KINDS = ("document", "task", "image")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 2**44


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


ModelSpec = BaseModelSpec | HypernetworkSpec
S = TypeVar("S", BaseModelSpec, HypernetworkSpec)


@dataclass(frozen=True)
class KnownModels:
    """What models.toml says, by name."""

    bases: Mapping[str, BaseModelSpec]
    hypernetworks: Mapping[str, HypernetworkSpec]


def load_known(paths: Paths) -> KnownModels:
    """The models known out of the box with the user's own laid over, entry by entry.

    Raises:
        ConfigError: A models.toml is damaged, or an entry is wrong.
    """
    shipped, own = shipped_models_file(), paths.models_file
    first, second = parse_known(read_toml(shipped), str(shipped)), parse_known(read_toml(own), str(own))
    known = KnownModels({**first.bases, **second.bases}, {**first.hypernetworks, **second.hypernetworks})
    for spec in known.hypernetworks.values():
        if spec.base not in known.bases:
            raise ConfigError(
                f"models.toml: hypernetwork `{spec.name}` is for base `{spec.base}`, which no entry describes"
            )
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
    check_keys(table, ("base", "hypernetwork"), where)
    return KnownModels(
        _entries(BaseModelSpec, table, "base", where),
        _entries(HypernetworkSpec, table, "hypernetwork", where),
    )


def _entries(kind: type[S], table: Mapping[str, Any], section: str, where: str) -> dict[str, S]:
    entries = table.get(section, {})
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{where}: `{section}` must hold tables, such as [{section}.my-model]")
    return {name: _entry(kind, name, values, f"{where}: [{section}.{name}]") for name, values in entries.items()}


def _entry(kind: type[S], name: str, values: Any, where: str) -> S:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has lower-case letters, digits, `.`, `_` and `-` only")
    if "name" in values:
        raise ConfigError(f"{where}: unknown key `name`", "the name stands in the brackets")
    spec = replace(parse_section(kind, values, where), name=name)
    if spec.sha256 and not _SHA256.fullmatch(spec.sha256):
        raise ConfigError(f"{where}: `sha256` must be 64 lower-case hex digits, got `{spec.sha256[:80]}`")
    if Path(spec.file).name != spec.file or "\\" in spec.file or not spec.file.strip("."):
        raise ConfigError(
            f"{where}: `file` must be a plain file name, got `{spec.file}`", "use `path` for a whole path"
        )
    if not (spec.path or spec.fetchable or getattr(spec, "resource", "")):
        raise ConfigError(f"{where} does not say where the file comes from", "give `path`, `hub` or another source")
    return spec
