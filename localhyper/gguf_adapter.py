"""Adapter files: `LoraWeights` to and from `adapter.gguf`, and the check of any adapter against a base model.

The layout is llama.cpp's own (`--lora` takes the file), plus our metadata under `localhyper.*`. `LoraWeights` are
defined in that layout: a `[rank, d_in]`, b `[d_out, rank]`, rows of b in the row order of the *GGUF* base.
Knows no native code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from localhyper.base_header import module_shapes, read_base_header
from localhyper.engine import BaseModelInfo
from localhyper.errors import AdapterError
from localhyper.gguf_header import MAX_NAME_BYTES, GgufHeader, HeaderError, TensorEntry, read_header, shown
from localhyper.gguf_tensors import read_rows
from localhyper.gguf_writer import ALPHA, BLOCK, BLOCK_BYTES, Dtype, Encoded, block_scales, encode, write_gguf
from localhyper.lora import FloatArray, LoraTarget, LoraWeights
from localhyper.lora_union import stack_blocks

MAX_RANK = 1 << 14
MAX_TEXT = 1 << 14
PREFIX = "localhyper."
INVOCATION_TOKENS = "adapter.alora.invocation_tokens"
_WRONG_BASE = "make the adapter again for this base model, or switch to the base it was made for"
# All exponent bits set = infinite or not a number.
_EXPONENTS = {
    "F16": (np.uint16, np.uint16(0x7C00)),
    "BF16": (np.uint16, np.uint16(0x7F80)),
    "F32": (np.uint32, np.uint32(0x7F800000)),
}
_DAMAGED = "make the adapter again from its source"


@dataclass(frozen=True)
class AdapterMetadata:
    """Where an adapter comes from; stored under `localhyper.<field>`.

    Attributes:
        name: Name in the library.
        source_title: Title of the document.
        source_kind: Its kind (`pdf`, `text`, …).
        source_sha256: Hex digest of its text.
        source_tokens: Tokens it was read as.
        source_chunks: Chunks that it is the sum of.
        hypernetwork_name: Name in the hypernetwork's bundle.
        hypernetwork_sha256: Hex digest of the bundle.
        base_fingerprint: `BaseModelInfo.fingerprint` of the base it was made for; empty in foreign adapters.
        rank: Rank of its matrices, on the mean over blocks.
        energy_kept: Share of squared norm that recompression kept, 1.0 = lossless.
        made_at: ISO 8601 time in UTC.
        merged_from: JSON list of the adapters it was merged from: `name`, `scale`, `sha256` of the file; else empty.
        values: `tokens` where what it writes are tokens as they are in a text, so that words are spelt as they are
            there (`localhyper.respelling`); else empty.
    """

    name: str = ""
    source_title: str = ""
    source_kind: str = ""
    source_sha256: str = ""
    source_tokens: int = 0
    source_chunks: int = 0
    hypernetwork_name: str = ""
    hypernetwork_sha256: str = ""
    base_fingerprint: str = ""
    rank: int = 0
    energy_kept: float = 1.0
    made_at: str = ""
    merged_from: str = ""
    values: str = ""


def permute_for_base(b: FloatArray, head_count: int, architecture: str) -> FloatArray:
    """Reorder the rows of b for `attn_q` or `attn_k` from Hugging Face's order to GGUF's.

    The converter of llama-type bases interleaves the two halves of each head for llama.cpp's rotary embedding; other
    architectures keep the order, and so do all other modules.

    Args:
        b: float32 [..., d_out, rank] in Hugging Face order.
        head_count: Heads the rows belong to: all heads for `attn_q`, the key/value heads for `attn_k`.
        architecture: GGUF architecture of the base.
    """
    if architecture != "llama":
        return b
    rows, rank = b.shape[-2:]
    halves = b.reshape(*b.shape[:-2], head_count, 2, rows // head_count // 2, rank)
    return np.ascontiguousarray(np.swapaxes(halves, -3, -2)).reshape(b.shape)


def unpermute_for_base(b: FloatArray, head_count: int, architecture: str) -> FloatArray:
    """Undo `permute_for_base`: the rows of b for `attn_q` or `attn_k` from GGUF's order to Hugging Face's.

    Args:
        b: float32 [..., d_out, rank] in GGUF's order; d_out is an even multiple of `head_count`.
        head_count: As there.
        architecture: GGUF architecture of the base.
    """
    if architecture != "llama":
        return b
    rows, rank = b.shape[-2:]
    pairs = b.reshape(*b.shape[:-2], head_count, rows // head_count // 2, 2, rank)
    return np.ascontiguousarray(np.swapaxes(pairs, -3, -2)).reshape(b.shape)


def write_adapter(
    path: Path, weights: LoraWeights, base: BaseModelInfo, metadata: AdapterMetadata, dtype: Dtype = "f16"
) -> None:
    """Write an adapter atomically; all scaling is in b, by the rule that llama.cpp multiplies by alpha / rank.

    Alpha is the largest rank. A matrix that zeros fill up to that is written without them (not in f32), its b by so
    much smaller.

    Raises:
        AdapterError: The weights do not fit the base, are not finite, or their targets differ in rank.
    """
    _common_rank(weights, path)
    _check_shapes(weights, base)
    write_weights(path, weights, base.architecture, metadata, dtype)


def write_weights(
    path: Path, weights: LoraWeights, architecture: str, metadata: AdapterMetadata, dtype: Dtype = "f16"
) -> None:
    """`write_adapter` without a base model: for weights whose widths were checked before.

    Raises:
        AdapterError: The weights are not finite in this format, or their targets differ in rank.
    """
    rank = _common_rank(weights, path)
    matrices = _matrices(weights, dtype)
    keys = [("general.name", metadata.name), *metadata_items(metadata)]
    write_gguf(path, architecture, float(rank), keys, matrices)


def metadata_items(metadata: AdapterMetadata) -> list[tuple[str, str | int | float]]:
    """The keys of our metadata with their values."""
    return [(PREFIX + field.name, getattr(metadata, field.name)) for field in fields(metadata)]


def _common_rank(weights: LoraWeights, path: Path) -> int:
    """The one rank of all targets: one alpha stands for the whole file."""
    ranks = {target.rank for target in weights.targets.values()}
    if len(ranks) != 1:
        raise AdapterError(f"cannot write `{path.name}`: its targets have ranks {sorted(ranks)}, wanted one rank")
    rank = ranks.pop()
    if not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"cannot write `{path.name}`: rank {rank}, wanted 1 to {MAX_RANK}")
    return rank


def _check_shapes(weights: LoraWeights, base: BaseModelInfo) -> None:
    shapes = _base_shapes(base)
    for module, target in weights.targets.items():
        got = (target.a.shape[2], target.b.shape[1])
        for block in target.layers:
            tensor = f"blk.{block}.{module}.weight"
            wanted = shapes.get(tensor)
            if wanted != got:
                raise AdapterError(f"weights for `{tensor}` take {got[0]} to {got[1]} values, the base has {wanted}")


def _matrices(weights: LoraWeights, dtype: Dtype) -> dict[str, Encoded]:
    """GGUF tensor name to its matrix in a number format."""
    matrices = {}
    for module, target in weights.targets.items():
        ranks = _stored_ranks(target, dtype)
        for row, (block, rank) in enumerate(zip(target.layers, ranks, strict=True)):
            b = target.b[row, :, :rank] * np.float32(rank / target.rank)
            for half, matrix in (("lora_a", target.a[row, :rank]), ("lora_b", b)):
                name = f"blk.{block}.{module}.weight.{half}"
                matrices[name] = encode(name, matrix, dtype)
    return matrices


def _stored_ranks(target: LoraTarget, dtype: Dtype) -> list[int]:
    """Rank of each block's matrices in a file: without zeros at the end, unless a number format needs them.

    All of it as f32: b times a smaller rank over alpha would be rounded, as in no other way such a file is.
    """
    if dtype == "f32":
        return [target.rank] * len(target.layers)
    step = BLOCK if dtype in BLOCK_BYTES and target.rank % BLOCK == 0 else 1
    return [max(step, -(-own // step) * step) for own in target.own_ranks]


def _base_shapes(base: BaseModelInfo) -> Mapping[str, tuple[int, ...]]:
    """Tensor shapes of the base, from its file when it is there, else from what `BaseModelInfo` tells."""
    if base.path.is_file():
        return read_base_header(base.path).shapes
    width = base.hidden_size // base.head_count
    modules = module_shapes(base, width, width)
    return {f"blk.{i}.{name}.weight": shape for i in range(base.block_count) for name, shape in modules.items()}


def read_adapter_header(path: Path) -> GgufHeader:
    """The header of a LoRA adapter file.

    Raises:
        AdapterError: Missing, damaged, or not a LoRA adapter that acts on every token.
    """
    try:
        if not path.is_file():
            raise AdapterError(
                f"adapter file `{path}` does not exist", "`localhyper adapters list` shows what there is"
            )
        header = read_header(path)
    except HeaderError as error:
        raise AdapterError(f"adapter `{path.name}` is unusable: {error}", _DAMAGED) from error
    except OSError as error:
        raise AdapterError(f"adapter `{path}` cannot be read: {error.strerror}", "check its permissions") from error
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if header.text(key) != wanted:
            raise AdapterError(
                f"`{path.name}` is no LoRA adapter: `{key}` is `{shown(header.text(key), 40)}`, wanted `{wanted}`",
                "name an adapter made by `localhyper attach` or by llama.cpp's converter",
            )
    if INVOCATION_TOKENS in header.metadata:
        raise AdapterError(
            f"`{path.name}` is an activated LoRA (`{INVOCATION_TOKENS}`), which acts only after its own tokens",
            "here adapters act on every token; use an ordinary LoRA of the same task",
        )
    alpha = header.metadata.get(ALPHA, 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, float) or not np.isfinite(alpha):
        raise AdapterError(f"adapter `{path.name}` has `{ALPHA}` {str(alpha)[:40]}, wanted a finite float32", _DAMAGED)
    return header


def read_metadata(path: Path) -> AdapterMetadata:
    """Our metadata of an adapter; defaults stand for what a foreign adapter does not have.

    Raises:
        AdapterError: Missing, damaged, or not a LoRA adapter.
    """
    return metadata_of(read_adapter_header(path))


def read_architecture(path: Path) -> str:
    """GGUF architecture of the base that an adapter is for, as its header says; empty when it does not.

    Raises:
        AdapterError: Missing, damaged, or not a LoRA adapter.
    """
    return read_adapter_header(path).text("general.architecture")


def metadata_of(header: GgufHeader) -> AdapterMetadata:
    """Our metadata in a header that was read already.

    Raises:
        AdapterError: A key of ours has another type.
    """
    found: dict[str, str | int | float] = {}
    for field in fields(AdapterMetadata):
        value = header.metadata.get(PREFIX + field.name)
        if value is None:
            continue
        kind = type(field.default)
        if isinstance(value, bool | tuple) or not isinstance(value, kind):
            raise AdapterError(f"adapter `{header.path.name}` has a wrong `{PREFIX}{field.name}`", _DAMAGED)
        found[field.name] = shown(value, MAX_TEXT) if isinstance(value, str) else value
    found.setdefault("name", shown(header.text("general.name")) or header.path.stem)
    return AdapterMetadata(**found)  # type: ignore[arg-type]  # each value's type was compared with its field's


def read_adapter(path: Path) -> tuple[LoraWeights, AdapterMetadata]:
    """Weights (float32, alpha / rank folded into b) and metadata of an adapter.

    Raises:
        AdapterError: Missing, damaged, not a LoRA adapter, or with targets `LoraWeights` cannot hold.
    """
    header = read_adapter_header(path)
    grouped: dict[str, dict[int, tuple[FloatArray, FloatArray]]] = {}
    for tensor, (entry_a, entry_b) in adapter_pairs(header).items():
        block, module = _split_name(tensor, path)
        if len(entry_a.shape) != 2 or len(entry_b.shape) != 2 or entry_a.shape[1] != entry_b.shape[0]:
            raise _no_match(path, tensor, entry_a, entry_b)
        grouped.setdefault(module, {})[block] = (load_tensor(entry_a, path), _load_scaled(header, entry_b))
    try:
        targets = {module: stack_blocks(shown(module, 40), blocks) for module, blocks in grouped.items()}
    except AdapterError as error:
        raise AdapterError(f"adapter `{path.name}`: {error.message}", error.hint) from error
    return LoraWeights(targets), metadata_of(header)


def _load_scaled(header: GgufHeader, entry_b: TensorEntry) -> FloatArray:
    """A b with alpha / rank folded in, finite still."""
    with np.errstate(over="ignore"):
        b = load_tensor(entry_b, header.path) * np.float32(_effective_scale(header, entry_b))
    if not np.isfinite(b).all():
        raise _not_finite(entry_b, header.path)
    return b


def _effective_scale(header: GgufHeader, entry_b: TensorEntry) -> float:
    alpha = header.metadata.get(ALPHA, 0.0)
    return float(alpha) / entry_b.shape[0] if isinstance(alpha, float) and alpha != 0.0 else 1.0


def _split_name(tensor: str, path: Path) -> tuple[int, str]:
    parts = tensor.split(".")
    # One spelling for each block: `blk.03` or another alphabet's digits would meet `blk.3` and one would be lost.
    number = parts[1] if len(parts) == 4 and parts[1].isdecimal() and parts[1] == str(int(parts[1])) else ""
    if not number or parts[0] != "blk" or parts[3] != "weight":
        raise AdapterError(f"adapter `{path.name}` changes `{shown(tensor)}`, which is no matrix of a block")
    return int(number), parts[2]


def adapter_pairs(header: GgufHeader) -> dict[str, tuple[TensorEntry, TensorEntry]]:
    """Base tensor name to its (a, b); every tensor of the file belongs to a complete pair.

    Raises:
        AdapterError: Something else is in there, or half of a pair is missing.
    """
    halves: dict[str, dict[str, TensorEntry]] = {}
    for entry in header.tensors:
        name, dot, half = entry.name.rpartition(".")
        if entry.name.endswith("_norm.weight"):
            raise AdapterError(
                f"adapter `{header.path.name}` has trained norms (`{shown(entry.name)}`), which llama.cpp leaves out",
                "train it without norms: with only half of it the answers would be others",
            )
        if not dot or half not in ("lora_a", "lora_b"):
            raise AdapterError(f"adapter `{header.path.name}` has an unexpected tensor `{shown(entry.name)}`", _DAMAGED)
        halves.setdefault(name, {})[half] = entry
    if not halves:
        raise AdapterError(f"adapter `{header.path.name}` has no tensors", _DAMAGED)
    for name, pair in halves.items():
        if len(pair) != 2:
            missing = "lora_b" if "lora_a" in pair else "lora_a"
            raise AdapterError(f"adapter `{header.path.name}` lacks `{shown(name)}.{missing}`", _DAMAGED)
    return {name: (pair["lora_a"], pair["lora_b"]) for name, pair in halves.items()}


def load_tensor(entry: TensorEntry, path: Path) -> FloatArray:
    """A tensor's values as float32 in numpy order, finite.

    Raises:
        AdapterError: A number format that is not known here, or a value that is not finite.
    """
    try:
        array = read_rows(path, entry)
    except HeaderError as error:
        message = f"adapter `{path.name}` stores `{shown(entry.name)}` as {entry.type_name}, which is unknown here"
        raise AdapterError(message, "convert it to f16 or f32") from error
    values = np.ascontiguousarray(array, dtype=np.float32).reshape(entry.shape[::-1])
    if not np.isfinite(values).all():
        raise _not_finite(entry, path)
    return values


def _not_finite(entry: TensorEntry, path: Path) -> AdapterError:
    return AdapterError(f"adapter `{path.name}` has values in `{shown(entry.name)}` that are not finite", _DAMAGED)


def _no_match(path: Path, tensor: str, a: TensorEntry, b: TensorEntry) -> AdapterError:
    return AdapterError(
        f"adapter `{path.name}` has no matching matrices for `{shown(tensor)}`: a {list(a.shape)}, b {list(b.shape)}",
        _DAMAGED,
    )


def check_adapter(path: Path, base: BaseModelInfo) -> AdapterMetadata:
    """Make sure llama.cpp can take this adapter for this base: the native loader aborts or misbehaves on less.

    Foreign adapters (no fingerprint) pass when architecture and shapes fit.

    Raises:
        AdapterError: Damaged, not a LoRA adapter, not finite, or for another base.
    """
    header = read_adapter_header(path)
    metadata = metadata_of(header)
    architecture = header.text("general.architecture")
    if architecture != base.architecture:
        raise AdapterError(
            f"adapter `{path.name}` is for architecture `{shown(architecture, 40)}`, "
            f"the base `{base.name}` is `{base.architecture}`",
            _WRONG_BASE,
        )
    if metadata.base_fingerprint and metadata.base_fingerprint != base.fingerprint:
        raise AdapterError(f"adapter `{path.name}` was made for another base model than `{base.name}`", _WRONG_BASE)
    shapes = _base_shapes(base)
    for tensor, (a, b) in adapter_pairs(header).items():
        _check_pair(path, tensor, a, b, shapes.get(tensor))
        _check_finite(a, path)
        _check_finite(b, path)
    return metadata


def _check_finite(entry: TensorEntry, path: Path) -> None:
    """Look at exponents only: this stands between a click and an answer, and must not cost more than the loading."""
    blocked = entry.type_name.lower()
    if blocked in BLOCK_BYTES:
        blocks = np.fromfile(path, np.uint8, entry.size_bytes, offset=entry.offset)
        if len(blocks) != entry.size_bytes or not np.isfinite(block_scales(blocks, blocked)).all():
            raise _not_finite(entry, path)
        return
    exponent = _EXPONENTS.get(entry.type_name)
    if exponent is None:
        load_tensor(entry, path)
        return
    kind, mask = exponent
    raw = np.fromfile(path, kind, entry.elements, offset=entry.offset)
    if len(raw) != entry.elements or ((raw & mask) == mask).any():
        raise _not_finite(entry, path)


def _check_pair(path: Path, tensor: str, a: TensorEntry, b: TensorEntry, base: tuple[int, ...] | None) -> None:
    """Exact shapes in ggml order: a (d_in, rank), b (rank, d_out)."""
    if base is None or len(base) != 2 or tensor == "token_embd.weight":
        message = f"adapter `{path.name}` changes `{shown(tensor)}`, which this base model cannot adapt"
        raise AdapterError(message, _WRONG_BASE)
    if max(len(a.name.encode()), len(b.name.encode())) > MAX_NAME_BYTES:
        raise AdapterError(f"adapter `{path.name}` has the over-long tensor name `{shown(a.name)}`", _DAMAGED)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0] or not 1 <= b.shape[0] <= MAX_RANK:
        raise _no_match(path, tensor, a, b)
    if (a.shape[0], b.shape[1]) != base:
        raise AdapterError(
            f"adapter `{path.name}` maps {a.shape[0]} to {b.shape[1]} in `{shown(tensor)}`, "
            f"the base maps {base[0]} to {base[1]}",
            _WRONG_BASE,
        )
