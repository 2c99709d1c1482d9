"""`models add`: base model files and bundles of the user's own, checked and entered into their models.toml."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from localhyper.atomic import atomic_path
from localhyper.base_header import read_base_info
from localhyper.bundle import BundleInfo, check_base, read_bundle, read_companion
from localhyper.checksums import BLOCK_BYTES, remember_sha256
from localhyper.download_check import check_room
from localhyper.engine import BaseModelInfo
from localhyper.errors import ConfigError, HypernetworkError, LocalHyperError, ModelError
from localhyper.gguf_header import HeaderError, read_header, shown
from localhyper.model_specs import check_name
from localhyper.models_edit import add_entry
from localhyper.progress import CancelToken, Progress, ProgressCallback, ignore_progress
from localhyper.registry import Registry

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_FOREIGN = re.compile(r"[^a-z0-9._-]+")
IMPORT_HINT = "run `localhyper hypernet import {0}`"


@dataclass(frozen=True)
class Added:
    """What was entered.

    Attributes:
        name: Its name from now on.
        kind: `base`, or the hypernetwork's kind.
        path: Its file.
        remarks: Further facts, one line each.
    """

    name: str
    kind: str
    path: Path
    remarks: tuple[str, ...] = ()


def add_model(
    registry: Registry,
    path: Path,
    *,
    name: str = "",
    base: str = "",
    copy: bool = False,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> Added:
    """Enter a base model file or a bundle into the user's models.toml.

    Args:
        registry: What is known already.
        path: A `.gguf` base model, or an `.onnx` bundle.
        name: What to call it by; empty = after the file.
        base: Name of the bundle's base model; empty = the one with the fingerprint that the bundle names.
        copy: Copy the file into the models folder; else the entry names the place where it is.
        progress: Told the bytes copied, stage `copy`.
        cancel: Read between blocks of the copy.

    Raises:
        ConfigError: The name is taken or no name, or models.toml cannot be changed.
        ModelError: Not a base model file that can be used.
        HypernetworkError: Not a bundle that can be used, or its base model is not known.
        Cancelled: `cancel` was set; nothing was changed.
    """
    path = path.expanduser().absolute()
    begin = _beginning(path)
    name = name or _name_after(path)
    check_name(name, f"`{name[:80]}`")
    if begin == b"GGUF":
        info = _read_base(path)
        _check_free(registry, name, path)
        remarks = tuple(
            f"the same model as `{other}`, to go by its fingerprint: adapters for one load in the other"
            for other in _bases_with(registry, info.fingerprint)
            if other != name
        )
        file = _copied(registry, path, registry.paths.models_dir / f"{name}.gguf", progress, cancel) if copy else path
        _enter(registry, "base", name, _base_values(info, file), file if file != path else None)
        return Added(name, "base", file, remarks)
    bundle = read_bundle(path)
    if read_companion(bundle) is not None and copy:
        raise HypernetworkError(
            f"`{path}` goes with another bundle, for single chunks, so it cannot be copied alone", "leave --copy out"
        )
    _check_free(registry, name, path)
    base, remarks = _base_of(registry, bundle, base)
    folder = registry.paths.hypernetworks_dir
    file = _copied(registry, path, folder / f"{name}.onnx", progress, cancel) if copy else path
    _enter(registry, "hypernetwork", name, _bundle_values(bundle, base, file), file if file != path else None)
    return Added(name, bundle.kind, file, remarks)


def _beginning(path: Path) -> bytes:
    """The first bytes; refuses what is something else, with the command for that."""
    try:
        if path.is_dir():
            raise _no_file(path)
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise ModelError(f"`{path}` {what}", "name a .gguf base model or an .onnx bundle")
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror or error}", "check its permissions") from error
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise ModelError(f"`{path}` is a PyTorch file, no base model and no bundle", IMPORT_HINT.format(path.parent))
    if path.suffix == ".safetensors":
        hint = f"if it is a LoRA adapter, run `localhyper adapters import {path.parent}`"
        raise ModelError(f"`{path}` holds safetensors, no base model and no bundle", hint)
    if path.suffix == ".gguf" and begin != b"GGUF":
        raise ModelError(f"`{path}` is not a GGUF file: it begins with `{shown(repr(begin)[2:-1])}`", "fetch it again")
    return begin


def _no_file(path: Path) -> LocalHyperError:
    message = f"`{path}` is a folder"
    patterns = (
        "hypermod.pt",
        "pytorch_model.bin",
        "checkpoint-*/pytorch_model.bin",
        "*/checkpoint-*/pytorch_model.bin",
    )
    if any(any(path.glob(pattern)) for pattern in patterns):
        return HypernetworkError(f"{message}: a published hypernetwork", IMPORT_HINT.format(path))
    if (path / "adapter_config.json").is_file():
        return ModelError(f"{message}: a PEFT adapter", f"run `localhyper adapters import {path}`")
    return ModelError(message, "name one file in it: a .gguf base model or an .onnx bundle")


def _read_base(path: Path) -> BaseModelInfo:
    try:
        header = read_header(path)
    except HeaderError as error:
        raise ModelError(f"`{path}` is not a sound GGUF file: {error}", "fetch or convert it again") from error
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror or error}", "check its permissions") from error
    if header.text("general.type") == "adapter":
        raise ModelError(f"`{path}` is a LoRA adapter, no base model", f"run `localhyper adapters import {path}`")
    parts = header.metadata.get("split.count", 1)
    if _SPLIT.search(path.name) or (isinstance(parts, int) and parts > 1):
        hint = "join the parts with llama.cpp's `llama-gguf-split --merge` first"
        raise ModelError(f"`{path}` is one part of a split model", hint)
    return read_base_info(path)


def _name_after(path: Path) -> str:
    return _FOREIGN.sub("-", path.stem.lower()).strip("-._")[:80] or "own"


def _check_free(registry: Registry, name: str, path: Path) -> None:
    for status in registry.statuses():
        if status.path is not None and status.path.exists() and status.path.samefile(path) and status.spec is not None:
            raise ConfigError(f"`{path}` is known already: it is `{status.name}`", "there is nothing to add")
        if status.name == name and (status.path is None or not status.path.samefile(path)):
            place = f", or put the file at `{registry.target(status.spec)}`" if status.spec and not status.path else ""
            raise ConfigError(f"there is a model named `{name}`", f"choose another name with --name{place}")


def _bases_with(registry: Registry, fingerprint: str) -> list[str]:
    """Base models on this machine with this fingerprint, by name."""
    found = []
    for status in registry.statuses():
        try:
            if status.kind == "base" and status.path and read_base_info(status.path).fingerprint == fingerprint:
                found.append(status.name)
        except ModelError:
            continue  # one bad file hides no good one
    return found


def _base_of(registry: Registry, bundle: BundleInfo, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The entry of the bundle's base model, and what is to be said of it."""
    if wanted:
        if wanted not in registry.bases:
            raise ConfigError(f"models.toml has no base model named `{wanted}`", "see `localhyper models list`")
        if (file := registry.locate(registry.bases[wanted])) is None:
            return wanted, (f"`{wanted}` is not on this machine: whether it is the right base model was not checked",)
        check_base(bundle, read_base_info(file))
        return wanted, ()
    found = _bases_with(registry, bundle.base_fingerprint)
    if known := next((name for name in found if name in registry.bases), None):
        return known, ()
    if found:
        hint = f"run `localhyper models add` with the file of `{found[0]}` first, which has no entry in models.toml"
    else:
        hint = "pull or add its base model first, or name it with --base"
    raise HypernetworkError(
        f"`{bundle.path}` is for a base model ({bundle.base_architecture}, {bundle.base_block_count} blocks, "
        f"fingerprint {bundle.base_fingerprint[:12]}…) that is not known on this machine",
        hint,
    )


def _copied(
    registry: Registry, source: Path, target: Path, progress: ProgressCallback, cancel: CancelToken | None
) -> Path:
    """Copy a file into our folder; returns where it is then."""
    registry.paths.create()
    try:
        if target.exists():
            if target.samefile(source):
                return target
            raise ConfigError(f"there is a file `{target}` already", "choose another name with --name")
        total = source.stat().st_size
        check_room(target.parent, total)
        digest, done = hashlib.sha256(), 0
        with atomic_path(target) as temporary:
            with open(source, "rb") as old, open(temporary, "wb") as new:
                while block := old.read(BLOCK_BYTES):
                    if cancel is not None:
                        cancel.check()
                    new.write(block)
                    digest.update(block)
                    done += len(block)
                    progress(Progress("copy", done, total, source.name))
            if done != total:
                raise ModelError(f"`{source}` changed while it was copied", "run the same command again")
        remember_sha256(target, registry.paths.checksums_file, digest.hexdigest())
    except OSError as error:
        message = f"`{source}` cannot be copied to `{target}`: {error.strerror or error}"
        raise ModelError(message, "check the folder and its space") from error
    return target


def _enter(registry: Registry, section: str, name: str, values: dict[str, str], copy: Path | None) -> None:
    """Write the entry; a copy that was made for it does not stay without it."""
    try:
        add_entry(registry.paths.models_file, section, name, values)
    except BaseException:
        if copy is not None:
            copy.unlink(missing_ok=True)
        raise


def _base_values(info: BaseModelInfo, file: Path) -> dict[str, str]:
    """An entry without size and checksum: the file is the user's, who may make it anew."""
    licence = read_header(info.path).text("general.license")
    description = f"{info.name}, {info.quantization}"
    return {
        "description": shown(description, 200),
        "file": file.name,
        "architecture": info.architecture,
        "licence": shown(licence, 100),
        "path": str(file),
    }


def _bundle_values(bundle: BundleInfo, base: str, file: Path) -> dict[str, str]:
    return {
        "description": shown(bundle.name, 200),
        "file": file.name,
        "kind": bundle.kind,
        "base": base,
        "licence": shown(bundle.licence, 100),
        "path": str(file),
    }
