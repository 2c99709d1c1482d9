"""What a hypernetwork bundle says of itself: the JSON inside the `.onnx` file, checked field by field.

Knows neither onnxruntime nor onnx: descriptions can be listed and bad files refused without either.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from localhyper.engine import BaseModelInfo, CaptureSpec
from localhyper.errors import HypernetworkError
from localhyper.lora import TOKENS
from localhyper.onnx_wire import OnnxOutline, WireError, outline

BUNDLE_FORMAT = 1
METADATA_KEY = "localhyper"
KINDS = ("document", "task", "image")
KIND_WORDS = {"document": "documents", "task": "task descriptions", "image": "images"}
MAX_BYTES = 2**31 - 1  # protobuf's own limit: a larger file cannot be one
POOLINGS = ("", "first", "last", "mean")
MAX_CHUNK_TOKENS = 1 << 16
MAX_EMBEDDING = 1 << 16
MAX_BLOCKS = 1024
_BARE_NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*\.onnx", re.ASCII)  # no folder, no drive, nothing hidden
REMAKE_HINT = "the file is damaged or is not a localhyper bundle; fetch it again or export it anew"


@dataclass(frozen=True)
class EmbeddingSpec:
    """The vector that a task hypernetwork reads in place of activations, and how it is made of a description.

    Attributes:
        size: Its length E.
        model: Hugging Face repository of the model that makes it; empty = not known.
        pooling: Whose last hidden state it is: that of the `first` token, of the `last`, or the `mean`; empty = not
            known, so that the vector can only be given.
        prefix: Put before the description.
        full_stop: Whether a description that ends in a letter gets a full stop.
    """

    size: int
    model: str = ""
    pooling: str = ""
    prefix: str = ""
    full_stop: bool = False


@dataclass(frozen=True)
class CompanionSpec:
    """Another bundle, in the same folder.

    Attributes:
        file: Its bare name.
        sha256: Hex digest of it.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says of itself (JSON in `metadata_props["localhyper"]`).

    Attributes:
        path: The file.
        sha256: Hex digest of the file.
        name: Short name, e.g. `smollm2-135m-document`.
        kind: `document`, `task` or `image`.
        base_architecture: GGUF architecture of its base model.
        base_block_count: Blocks of its base model.
        base_hidden_size: Hidden size of its base model.
        base_fingerprint: Fingerprint of its base model (`BaseModelInfo.fingerprint`).
        capture: Activations it reads.
        targets: GGUF module name to the blocks it adapts.
        rank: Rank of one chunk's matrices; 0 = one per token.
        chunk_tokens: Most tokens a chunk may have (without prefix and suffix).
        cut_tokens: Most tokens of the chunks that answer, where nothing else is wanted and there are not too many of
            them; 0 = `chunk_tokens`.
        prefix: Text put before a chunk, control tokens parsed; its activations are dropped before the hypernetwork,
            unless `reads_prefix`.
        suffix: Text put after a chunk, likewise.
        licence: SPDX identifier.
        card: Training data, steps, device, seconds, scores: free-form, for people.
        base_ffn_size: Width inside the MLP of its base model; 0 where the bundle does not say.
        whitening: Tokens that the generic input moment counts for when a document's sum is whitened by its own inputs
            (`localhyper.whitening`); 0 = it is not.
        reads_prefix: The hypernetwork reads the activations of prefix and suffix too, as published ones were trained.
        reads_examples: A task hypernetwork reads examples after the description, as it was trained to; else the
            description alone.
        embedding: The vector it reads in place of activations, `chunk_tokens` being the most tokens of the description
            that it is made of; None = it reads activations.
        chunk_bundle: The bundle for chunks that stand alone; None = this one is for them, too.
    """

    path: Path
    sha256: str
    name: str
    kind: str
    base_architecture: str
    base_block_count: int
    base_hidden_size: int
    base_fingerprint: str
    capture: CaptureSpec
    targets: Mapping[str, tuple[int, ...]]
    rank: int
    chunk_tokens: int
    prefix: str
    suffix: str
    licence: str
    card: Mapping[str, object]
    base_ffn_size: int = 0
    whitening: float = 0.0
    reads_prefix: bool = False
    reads_examples: bool = False
    embedding: EmbeddingSpec | None = None
    chunk_bundle: CompanionSpec | None = None
    cut_tokens: int = 0

    @property
    def values(self) -> str:
        """What the adapters' matrices write (`AdapterMetadata.values`)."""
        return TOKENS if self.kind == "document" and self.rank == 0 else ""

    def cut_sizes(self, wanted: int = 0) -> tuple[int, ...]:
        """Most tokens of the chunks that answer: as wanted, or for 0 as the bundle says, then twice that and so on.

        Never more than it takes, which is the last.
        """
        sizes = [min(wanted or self.cut_tokens or self.chunk_tokens, self.chunk_tokens)]
        while sizes[-1] < self.chunk_tokens:
            sizes.append(min(2 * sizes[-1], self.chunk_tokens))
        return tuple(sizes)

    @property
    def most_tokens(self) -> int:
        """Most tokens whose activations the hypernetwork takes; prefix and suffix have one for each byte at most."""
        return self.chunk_tokens + (len((self.prefix + self.suffix).encode()) + 2 if self.reads_prefix else 0)


def read_bundle(path: Path) -> BundleInfo:
    """Check a bundle's outside and read its description, without running it; remembered while the file stays the same.

    Raises:
        HypernetworkError: Missing, empty, too large, damaged, without a description, or with data in other files.
    """
    try:
        stat = path.stat()
    except OSError:
        return _read(path)  # which says what is wrong
    return _read_cached(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _read_cached(path: Path, mtime_ns: int, size: int) -> BundleInfo:
    """Time and size are part of the key: a changed file is read again. The digest of a large one takes seconds."""
    return _read(path)


def read_purpose(path: Path) -> tuple[str, str]:
    """Kind and base fingerprint, read from the description alone, however large the file; empty where it has none.

    Remembered while the file stays the same.
    """
    try:
        stat = path.stat()
    except OSError:
        return "", ""
    return _purpose_cached(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _purpose_cached(path: Path, mtime_ns: int, size: int) -> tuple[str, str]:
    try:
        values = _metadata(path, outline(memoryview(_open(path))))
    except (HypernetworkError, WireError):
        return "", ""
    base, kind = values.get("base"), values.get("kind")
    fingerprint = base.get("fingerprint") if isinstance(base, dict) else ""
    return str(kind) if kind in KINDS else "", str(fingerprint or "").lower()


def _read(path: Path) -> BundleInfo:
    data = _open(path)
    try:
        found = outline(memoryview(data))
    except WireError as error:
        raise HypernetworkError(f"`{path}` is not a readable ONNX file ({error})", REMAKE_HINT) from error
    if not found.has_graph:
        raise HypernetworkError(f"`{path}` is not an ONNX model: it has no graph", REMAKE_HINT)
    if found.external_data:
        raise HypernetworkError(
            f"`{path}` keeps weights in other files; a bundle must hold everything itself",
            "export it again with the weights inside",
        )
    return _parse(path, hashlib.sha256(data).hexdigest(), _metadata(path, found))


def _open(path: Path) -> mmap.mmap | bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise HypernetworkError(f"hypernetwork `{path}` is not a file", "name an `.onnx` bundle")
        if size == 0:
            raise HypernetworkError(f"hypernetwork `{path}` is empty", REMAKE_HINT)
        if size > MAX_BYTES:
            raise HypernetworkError(f"hypernetwork `{path}` has {size} bytes, at most {MAX_BYTES} are possible")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise HypernetworkError(
            f"hypernetwork `{path}` does not exist", "run `localhyper models list` to see the known ones"
        ) from error
    except OSError as error:
        raise HypernetworkError(f"cannot read hypernetwork `{path}`: {error.strerror or error}") from error


def _metadata(path: Path, found: OnnxOutline) -> dict[str, object]:
    text = found.metadata.get(METADATA_KEY)
    if text is None:
        raise HypernetworkError(
            f"`{path}` is an ONNX model without a `{METADATA_KEY}` description, so not a bundle",
            "make bundles with `localhyper export`",
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HypernetworkError(f"`{path}`: the description is not valid JSON ({error})", REMAKE_HINT) from error
    if not isinstance(value, dict):
        raise HypernetworkError(f"`{path}`: the description must be an object, got {type(value).__name__}", REMAKE_HINT)
    return value


class _Fields:
    """One JSON object of the description; every getter names the field it refuses."""

    def __init__(self, path: Path, where: str, values: Mapping[str, object]) -> None:
        self._path, self._where, self._values = path, where, values

    def fail(self, key: str, wanted: str) -> HypernetworkError:
        """The error for one field, to be raised."""
        got = "nothing" if key not in self._values else f"`{json.dumps(self._values[key])[:60]}`"
        return HypernetworkError(f"`{self._path}`: `{self._where}{key}` must be {wanted}, got {got}", REMAKE_HINT)

    def text(self, key: str, default: str | None = None, *, limit: int = 10_000) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str) or len(value) > limit:
            raise self.fail(key, f"text of at most {limit} characters")
        return value

    def digest(self, key: str) -> str:
        value = self.text(key).lower()
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self.fail(key, "64 hex digits")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: float) -> float:
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def wholes(self, key: str, low: int, high: int) -> tuple[int, ...]:
        value = self._values.get(key, [])
        items = [item for item in value if type(item) is int and low <= item <= high] if isinstance(value, list) else []
        if items != value or sorted(set(items)) != items:
            raise self.fail(key, f"ascending whole numbers from {low} to {high}")
        return tuple(items)

    def inner(self, key: str, *, required: bool = True) -> Mapping[str, object]:
        value = self._values.get(key, None if required else {})
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return value


def _parse(path: Path, sha256: str, values: Mapping[str, object]) -> BundleInfo:
    top = _Fields(path, "", values)
    version = top.whole("format", 0, 10**6)
    if version != BUNDLE_FORMAT:
        raise HypernetworkError(
            f"`{path}` has bundle format {version}, this localhyper reads {BUNDLE_FORMAT}",
            "install a newer localhyper" if version > BUNDLE_FORMAT else "export the bundle again",
        )
    base = _Fields(path, "base.", top.inner("base"))
    blocks = base.whole("block_count", 1, MAX_BLOCKS)
    kind = top.text("kind")
    if kind not in KINDS:
        raise top.fail("kind", f"one of {', '.join(KINDS)}")
    fingerprint = base.digest("fingerprint")
    capture = CaptureSpec(top.wholes("taps", 0, blocks), top.wholes("ffn_blocks", 0, blocks - 1))
    embedding = _embedding(path, top) if "embedding" in values else None
    if embedding is not None and (capture.taps or capture.ffn_blocks or kind != "task"):
        raise top.fail("embedding", "there only in a `task` bundle without `taps` and `ffn_blocks`")
    if embedding is None and not capture.taps and not capture.ffn_blocks:
        raise top.fail("taps", "at least one tap, where `ffn_blocks` is empty")
    return BundleInfo(
        path=path,
        sha256=sha256,
        name=top.text("name", limit=200),
        kind=kind,
        base_architecture=base.text("architecture", limit=100),
        base_block_count=blocks,
        base_hidden_size=base.whole("hidden_size", 1, 1 << 20),
        base_fingerprint=fingerprint,
        capture=capture,
        targets=_targets(path, top, blocks),
        rank=top.whole("rank", 0, 1 << 16, 0),
        chunk_tokens=top.whole("chunk_tokens", 1, MAX_CHUNK_TOKENS),
        prefix=top.text("prefix", ""),
        suffix=top.text("suffix", ""),
        licence=top.text("licence", "", limit=200),
        card=top.inner("card", required=False),
        base_ffn_size=base.whole("ffn_size", 0, 1 << 22, 0),
        whitening=top.number("whitening", 0.0, 1e9, 0.0),
        reads_prefix=top.flag("reads_prefix", False),
        reads_examples=top.flag("reads_examples", False),
        embedding=embedding,
        chunk_bundle=_companion(path, top, kind) if "chunk_bundle" in values else None,
        cut_tokens=top.whole("cut_tokens", 0, MAX_CHUNK_TOKENS, 0),
    )


def _companion(path: Path, top: _Fields, kind: str) -> CompanionSpec:
    if kind != "document":
        raise top.fail("chunk_bundle", "there only in a `document` bundle")
    fields = _Fields(path, "chunk_bundle.", top.inner("chunk_bundle"))
    file = fields.text("file", limit=200)
    if not _BARE_NAME.fullmatch(file):
        raise fields.fail("file", "the bare name of an `.onnx` file")
    return CompanionSpec(file, fields.digest("sha256"))


def _embedding(path: Path, top: _Fields) -> EmbeddingSpec:
    fields = _Fields(path, "embedding.", top.inner("embedding"))
    pooling = fields.text("pooling", "")
    if pooling not in POOLINGS:
        raise fields.fail("pooling", f"one of {', '.join(name for name in POOLINGS if name)}, or empty")
    return EmbeddingSpec(
        size=fields.whole("size", 1, MAX_EMBEDDING),
        model=fields.text("model", "", limit=200),
        pooling=pooling,
        prefix=fields.text("prefix", ""),
        full_stop=fields.flag("full_stop", False),
    )


def _targets(path: Path, top: _Fields, blocks: int) -> dict[str, tuple[int, ...]]:
    raw = top.inner("targets")
    fields = _Fields(path, "targets.", raw)
    for name in raw:
        if not (0 < len(name) <= 40 and name.replace("_", "").isalnum() and name.isascii()):
            raise top.fail("targets", "module names such as `ffn_down`")
    targets = {name: fields.wholes(name, 0, blocks - 1) for name in raw}
    if not targets or not all(targets.values()):
        raise top.fail("targets", "at least one module with at least one block")
    return targets


def check_kind(info: BundleInfo, kind: str) -> None:
    """Refuse to give a bundle what it was not made for.

    Raises:
        HypernetworkError: It is of another kind than `kind`.
    """
    if info.kind != kind:
        raise HypernetworkError(
            f"hypernetwork `{info.name}` turns {KIND_WORDS[info.kind]} into adapters, not {KIND_WORDS[kind]}",
            "`localhyper models list` shows the kind of each; choose one with --hypernet",
        )


def read_companion(info: BundleInfo) -> BundleInfo | None:
    """The bundle for chunks that stand alone, where `info` names one: it must read exactly what `info` reads.

    Raises:
        HypernetworkError: It is missing, another file than the one meant, or does not go with this one.
    """
    spec = info.chunk_bundle
    if spec is None:
        return None
    path = info.path.parent / spec.file
    if not path.is_file():
        raise HypernetworkError(
            f"hypernetwork `{info.path}` needs `{spec.file}` beside it for single chunks, which is not there",
            "put both files into one folder",
        )
    found = read_bundle(path)
    if found.sha256 != spec.sha256:
        raise HypernetworkError(
            f"hypernetwork `{path}` is not the one that `{info.path.name}` goes with: its sha256 is "
            f"{found.sha256[:16]}…, wanted {spec.sha256[:16]}…",
            "fetch or export both again",
        )
    check_companion(info, found)
    return found


def check_companion(info: BundleInfo, found: BundleInfo) -> None:
    """Refuse a bundle for single chunks that does not read exactly what `info` reads.

    Raises:
        HypernetworkError: It does not go with `info`.
    """
    for what in ("kind", "base_fingerprint", "capture", "chunk_tokens", "prefix", "suffix", "reads_prefix"):
        wanted, got = getattr(info, what), getattr(found, what)
        if wanted != got:
            raise HypernetworkError(
                f"hypernetwork `{found.path}` does not go with `{info.path.name}`: its {what} is {str(got)[:60]}, "
                f"wanted {str(wanted)[:60]}",
                "export both with the same recipe",
            )
    if found.chunk_bundle is not None:
        raise HypernetworkError(f"hypernetwork `{found.path}` is for single chunks and names another one for them")


def check_base(info: BundleInfo, base: BaseModelInfo) -> None:
    """Refuse to use a bundle with another base model than its own.

    Raises:
        HypernetworkError: Architecture, size or fingerprint differs.
    """
    for what, wanted, got in (
        ("architecture", info.base_architecture, base.architecture),
        ("blocks", info.base_block_count, base.block_count),
        ("hidden size", info.base_hidden_size, base.hidden_size),
        ("fingerprint", info.base_fingerprint, base.fingerprint),
    ):
        if wanted != got:
            raise HypernetworkError(
                f"hypernetwork `{info.name}` is for another base model: its {what} is {wanted}, "
                f"`{base.name}` has {got}",
                "choose a base model with --base or a hypernetwork with --hypernet that belong together; "
                "`localhyper models list` shows which do",
            )
