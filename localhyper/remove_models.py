"""`models remove`: what was fetched or copied here, and entries of the user's own. No file outside our folders goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localhyper.config import did_you_mean, read_toml
from localhyper.download import PARTS_FOLDER
from localhyper.errors import ConfigError, ModelError
from localhyper.model_folders import place
from localhyper.model_specs import SECTIONS, FolderSpec
from localhyper.models_edit import remove_entry
from localhyper.registry import ModelStatus, Registry


@dataclass(frozen=True)
class Removal:
    """What removing a model would do; nothing is done yet.

    Attributes:
        name: The model.
        files: Files to delete: in our folders, links as links.
        size: Bytes of these.
        section: Section of the user's models.toml whose entry goes; empty = none does.
        left: A file or folder that is used and stays, since it lies elsewhere.
    """

    name: str
    files: tuple[Path, ...]
    size: int
    section: str
    left: Path | None


def plan_removal(registry: Registry, name: str) -> Removal:
    """What `name` is made of here.

    Raises:
        ConfigError: No such model, or another entry needs this one.
        ModelError: Nothing of it is in our folders or in the user's models.toml.
    """
    status = next((status for status in registry.statuses() if status.name == name), None)
    if status is None:
        names = [status.name for status in registry.statuses()]
        raise ConfigError(f"no model is named `{name}`", did_you_mean(name, names))
    section = _own_section(registry, name)
    if section == "base":
        _check_unused(registry, name)
    files = tuple(_ours(registry, status))
    left = status.path if status.path is not None and not _covers(status.path, files) else None
    if not files and not section:
        where = f"it lies at `{left}`, which is not localhyper's own folder" if left else "it is not on this machine"
        raise ModelError(f"nothing of `{name}` can be removed: {where}", "")
    return Removal(name, files, sum(file.lstat().st_size for file in files), section, left)


def remove(registry: Registry, removal: Removal) -> None:
    """Do what was planned.

    Raises:
        ConfigError: The entry cannot be taken out; then no file has gone.
        ModelError: A file cannot be deleted.
    """
    if removal.section:
        remove_entry(registry.paths.models_file, removal.section, removal.name)
    for file in removal.files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            hint = "check the permissions of its folder"
            raise ModelError(f"`{file}` cannot be deleted: {error.strerror or error}", hint) from error
        _prune(registry, file.parent)


def _own_section(registry: Registry, name: str) -> str:
    own = read_toml(registry.paths.models_file)
    return next((section for section in SECTIONS if name in own.get(section, {})), "")


def _check_unused(registry: Registry, name: str) -> None:
    """The user's other entries must still find their base; a shipped base of the same name does."""
    from localhyper.model_specs import parse_known, shipped_models_file

    if name in parse_known(read_toml(shipped_models_file()), "models.toml").bases:
        return
    others = [*registry.hypernetworks.values(), *registry.folders.values()]
    for spec in others:
        if getattr(spec, "base", "") == name:
            raise ConfigError(
                f"`{name}` is the base model of `{spec.name}`", f"run `localhyper models remove {spec.name}` first"
            )


def _ours(registry: Registry, status: ModelStatus) -> Iterator[Path]:
    """Files in our folders, with what is left of fetches that never ended."""
    spec = status.spec
    if spec is None:
        candidates = [status.path] if status.path is not None else []
    elif isinstance(spec, FolderSpec):
        folder = registry.target(spec)
        candidates = [folder] if folder.is_symlink() else [place(folder, file) for file in spec.files]
    else:
        candidates = [registry.target(spec), *([status.path] if status.path is not None else [])]
    for folder in (registry.paths.models_dir, registry.paths.hypernetworks_dir):
        candidates += folder.glob(f"{PARTS_FOLDER}/{status.name}-{'[0-9a-f]' * 16}.*")
    for path in dict.fromkeys(candidates):
        if (path.is_symlink() or path.is_file()) and _is_inside(registry, path):
            yield path


def _is_inside(registry: Registry, path: Path) -> bool:
    """Whether the folder of a file, followed through links, is one of ours or below."""
    folder = Path(os.path.realpath(path.parent))
    ours = (registry.paths.models_dir, registry.paths.hypernetworks_dir)
    return any(folder.is_relative_to(os.path.realpath(own)) for own in ours)


def _covers(path: Path, files: tuple[Path, ...]) -> bool:
    return any(file == path or file.is_relative_to(path) for file in files)


def _prune(registry: Registry, folder: Path) -> None:
    """Take away folders that have become empty, up to ours."""
    ours = (registry.paths.models_dir, registry.paths.hypernetworks_dir)
    with contextlib.suppress(OSError):  # not empty, or gone
        while folder not in ours and any(folder.is_relative_to(own) for own in ours) and folder.name != PARTS_FOLDER:
            folder.rmdir()
            folder = folder.parent
