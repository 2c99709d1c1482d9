"""Adapters of others into the library: a PEFT folder or a GGUF file, checked against its base model, then like our own.

Finds the base model, checks, copies or converts, and writes the row. Knows formats through their readers only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from localhyper.atomic import atomic_path
from localhyper.base_header import read_base_header, read_base_info
from localhyper.checksums import file_sha256
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError, LibraryError, LocalHyperError, ModelError
from localhyper.gguf_adapter import (
    PREFIX,
    AdapterMetadata,
    adapter_pairs,
    check_adapter,
    metadata_of,
    permute_for_base,
    read_adapter_header,
    write_adapter,
)
from localhyper.gguf_header import GgufHeader, shown
from localhyper.library import AdapterInfo, Library, check_name, now, slug
from localhyper.lora import LoraTarget, LoraWeights, even_ranks
from localhyper.model_specs import BaseModelSpec
from localhyper.peft_reader import PeftAdapter, peft_files, read_peft
from localhyper.present_bases import base_with, present_bases
from localhyper.registry import ModelStatus, Registry

IMPORT_VERSION = 1
MAX_NUMBER = (1 << 63) - 1  # SQLite's largest
_BLOCK = 1 << 20
_READERS: Mapping[type, Callable[[str], str | int | float]] = {
    str: lambda text: shown(text, 1 << 14),
    int: int,
    float: float,
}


@dataclass(frozen=True)
class ImportOptions:
    """How to import.

    Attributes:
        base: Base model to check against: a name or a path; empty = the one the adapter names, else `default_base`.
        default_base: The base model of the settings.
        name: Wanted name; empty = from the file.
    """

    base: str = ""
    default_base: str = ""
    name: str = ""


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        adapter: The library's row.
        reused: Whether it was in the library already.
    """

    adapter: AdapterInfo
    reused: bool


@dataclass(frozen=True)
class _Base:
    """The base model to check against, and what should be told about the choice."""

    info: BaseModelInfo
    notes: tuple[str, ...] = ()


def import_adapter(path: Path, library: Library, registry: Registry, options: ImportOptions) -> Imported:
    """Take a PEFT folder or a GGUF adapter into the library; the same one twice is one row.

    Args:
        path: The folder or file; neither is changed.
        library: Where it goes.
        registry: Where base models are looked for.
        options: Which base, which name.

    Raises:
        AdapterError: Damaged, of another kind, not finite, or for another base model.
        ModelError: Its base model is not on this machine.
        LibraryError: The wanted name is impossible or taken, or the library cannot be written.
    """
    source = path.expanduser()
    try:
        if options.name:
            check_name(options.name)
        if source.is_dir() or source.name in ("adapter_config.json", "adapter_model.safetensors"):
            return _import_peft(source, library, registry, options)
        return _import_gguf(source, library, registry, options)
    except OSError as error:
        raise LibraryError(f"cannot import `{path}`: {error.strerror or error}") from error


def _import_gguf(path: Path, library: Library, registry: Registry, options: ImportOptions) -> Imported:
    header = read_adapter_header(path)
    digest, size = file_sha256(path), header.size_bytes
    twin = next((info for info in library.list() if info.size_bytes == size and _same_file(info, digest)), None)
    if twin is not None:
        return Imported(twin, reused=True)
    metadata = metadata_of(header)
    base = _find_base(registry, options, metadata.base_fingerprint, _repository(header))
    check_adapter(path, base.info)
    key = _key([digest], base.info)
    info = _describe(library, base, key, options.name, path, metadata)
    info = replace(info, kind=metadata.source_kind[:20] or "gguf", rank=_largest_rank(header), size_bytes=size)
    _copy(path, info.path, digest)
    return Imported(library.add(info), reused=False)


def _import_peft(path: Path, library: Library, registry: Registry, options: ImportOptions) -> Imported:
    config, tensors = peft_files(path)
    adapter = read_peft(path)
    metadata = _restored(adapter.texts)
    base = _find_base(registry, options, metadata.base_fingerprint, adapter.base)
    key = _key([file_sha256(config), file_sha256(tensors)], base.info)
    twin = library.find_by_key(key)
    if twin is not None:
        return Imported(twin, reused=True)
    if metadata.base_fingerprint not in ("", base.info.fingerprint):
        raise AdapterError(
            f"`{shown(config.parent.name)}` was made for another base model than `{base.info.name}`",
            "name the base model it was made for with --base",
        )
    weights = even_ranks(_fitted(adapter, base.info, config.parent))
    info = _describe(library, base, key, options.name, config.parent.absolute(), metadata)
    info = replace(info, kind=metadata.source_kind[:20] or "peft", rank=weights.rank)
    written = replace(
        metadata,
        name=info.name,
        source_title=info.title,
        source_kind=info.kind,
        base_fingerprint=base.info.fingerprint,
        rank=info.rank,
        made_at=info.made_at,
    )
    write_adapter(info.path, weights, base.info, written, "f16" if adapter.half else "f32")
    check_adapter(info.path, base.info)
    return Imported(library.add(replace(info, size_bytes=info.path.stat().st_size)), reused=False)


def _describe(
    library: Library, base: _Base, key: str, wanted: str, source: Path, metadata: AdapterMetadata
) -> AdapterInfo:
    """The row, as far as both formats give it; kind, rank and size are the caller's."""
    _check_numbers(metadata, source)
    name = _name(library, wanted, metadata.name or (source.name if source.is_dir() else source.stem))
    merged = ("merged from several adapters",) if metadata.merged_from else ()
    return AdapterInfo(
        name=name,
        path=library.file_for(name, key),
        key=key,
        title=metadata.source_title[:200] or shown(source.name),
        kind="",
        origin=shown(str(source.absolute()), 1000),
        document_sha256=metadata.source_sha256[:64],
        base_name=base.info.name,
        base_fingerprint=base.info.fingerprint,
        hypernet_name=metadata.hypernetwork_name[:200],
        hypernet_sha256=metadata.hypernetwork_sha256[:64],
        rank=0,
        energy_kept=metadata.energy_kept,
        tokens=metadata.source_tokens,
        chunks=metadata.source_chunks,
        size_bytes=0,
        made_at=metadata.made_at[:40] or now(),
        notes=(f"imported from `{shown(source.name)}`", *merged, *base.notes),
    )


def _check_numbers(metadata: AdapterMetadata, source: Path) -> None:
    """A stranger's numbers, before they meet a database and a JSON writer."""
    counts = (metadata.source_tokens, metadata.source_chunks)
    if not all(0 <= count <= MAX_NUMBER for count in counts) or not 0.0 <= metadata.energy_kept <= 1.0:
        raise AdapterError(
            f"adapter `{shown(source.name)}` has impossible numbers of tokens or chunks, or share of energy",
            "make the adapter again from its source",
        )


def _name(library: Library, wanted: str, own: str) -> str:
    if wanted:
        library.check_free(wanted)
        return wanted
    try:
        return library.free_name(own)
    except LibraryError:
        return library.free_name(slug(own))


def _restored(texts: Mapping[str, str]) -> AdapterMetadata:
    """Our metadata in the header of a PEFT folder that we wrote; defaults stand for everything else."""
    found: dict[str, str | int | float] = {}
    for field in fields(AdapterMetadata):
        text = texts.get(PREFIX + field.name)
        if text is None:
            continue
        try:
            found[field.name] = _READERS[type(field.default)](text)
        except (ValueError, OverflowError):
            raise AdapterError(f"the tensor file's header has a wrong `{PREFIX}{field.name}`") from None
    return AdapterMetadata(**found)  # type: ignore[arg-type]  # each was made as its field's type


def _fitted(adapter: PeftAdapter, base: BaseModelInfo, folder: Path) -> LoraWeights:
    """The matrices in the row order of the base's file, once their widths are known to fit it."""
    shapes = read_base_header(base.path).shapes
    targets = {}
    for module, target in adapter.weights.targets.items():
        got = (target.a.shape[2], target.b.shape[1])
        for block in target.layers:
            wanted = shapes.get(f"blk.{block}.{module}.weight")
            if wanted != got:
                has = f"maps {wanted[0]} to {wanted[1]}" if wanted else f"has {base.block_count} blocks"
                raise AdapterError(
                    f"`{shown(folder.name)}` maps {got[0]} to {got[1]} in `{module}` of block {block}, "
                    f"the base `{base.name}` {has}",
                    f"its configuration names `{adapter.base}`; give the base model with --base",
                )
        heads = {"attn_q": base.head_count, "attn_k": base.head_count_kv}.get(module)
        b = permute_for_base(target.b, heads, base.architecture) if heads else target.b
        targets[module] = LoraTarget(target.layers, target.a, b)
    return LoraWeights(targets)


def _largest_rank(header: GgufHeader) -> int:
    return max(b.shape[0] for _, b in adapter_pairs(header).values())


# The base model


def _find_base(registry: Registry, options: ImportOptions, fingerprint: str, repository: str) -> _Base:
    """The base named by the user, else by the adapter, else by the settings."""
    if options.base:
        return _noted(registry, read_base_info(registry.find_base(options.base)), fingerprint, repository)
    if fingerprint:
        return _Base(_made_for(registry, options, fingerprint))
    named = next((info for status, info in present_bases(registry) if _is_repository(status, repository)), None)
    if named is not None:
        return _Base(named)
    return _noted(registry, read_base_info(registry.find_base(options.default_base)), fingerprint, repository)


def _made_for(registry: Registry, options: ImportOptions, fingerprint: str) -> BaseModelInfo:
    default = _default(registry, options)
    if default is not None and default.fingerprint == fingerprint:
        return default
    known, _ = base_with(fingerprint, registry)
    if known is None:
        raise ModelError(
            "the base model that the adapter was made for is not on this machine",
            "`localhyper models list` shows which can be fetched; --base names another file",
        )
    return known


def _default(registry: Registry, options: ImportOptions) -> BaseModelInfo | None:
    try:
        return read_base_info(registry.find_base(options.default_base))
    except LocalHyperError:
        return None


def _noted(registry: Registry, info: BaseModelInfo, fingerprint: str, repository: str) -> _Base:
    """Told where nothing but architecture and shapes says that this base is the right one."""
    if fingerprint or not repository:
        return _Base(info)
    if any(found.path == info.path and _is_repository(status, repository) for status, found in present_bases(registry)):
        return _Base(info)
    return _Base(info, (f"made for `{shown(repository, 200)}`; that this is `{info.name}` was checked by shapes only",))


def _is_repository(status: ModelStatus, repository: str) -> bool:
    """Whether the adapter's word for its base is this model's repository, or a copy of it in some folder."""
    spec = status.spec
    known = spec.unquantized.casefold() if isinstance(spec, BaseModelSpec) else ""
    given = repository.rstrip("/").casefold()
    is_path = given.startswith(("/", "./", "../", "~"))
    return bool(known) and (given == known or (is_path and given.rpartition("/")[2] == known.rpartition("/")[2]))


def _repository(header: GgufHeader) -> str:
    """`owner/name` of the base as llama.cpp's converter writes it, from the address of its repository."""
    address = header.text("general.base_model.0.repo_url")
    return "/".join(address.rstrip("/").split("/")[-2:]) or header.text("general.base_model.0.name")


# Files


def _key(digests: list[str], base: BaseModelInfo) -> str:
    return hashlib.sha256(json.dumps(["import", IMPORT_VERSION, *digests, base.fingerprint]).encode()).hexdigest()


def _same_file(info: AdapterInfo, digest: str) -> bool:
    try:
        return file_sha256(info.path) == digest
    except OSError:
        return False


def _copy(source: Path, target: Path, digest: str) -> None:
    """The file as it was checked, byte by byte, or nothing."""
    running = hashlib.sha256()
    with atomic_path(target) as temporary, source.open("rb") as file, temporary.open("wb") as out:
        while piece := file.read(_BLOCK):
            running.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
        if running.hexdigest() != digest:
            raise AdapterError(f"adapter `{source.name}` changed while it was read", "try again")
