"""Search keys of a long document's chunks, in the folder of the chunks' adapters.

One file of keys a chunk, written with its adapter, and one that says how a question is read to be compared with them:
the map comes from the hypernetwork that made the keys, so asking needs the base model alone. Files that are missing
or damaged are no error: the chunk is then found by words.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from localhyper.atomic import atomic_path
from localhyper.bundle import BundleInfo
from localhyper.engine import BaseModelInfo, CaptureSpec, Engine
from localhyper.errors import AdapterError
from localhyper.lora import FloatArray
from localhyper.search_head import Match, QuestionMap, is_related, match

VERSION = 2
READABLE = (1, VERSION)  # version 1 has one map of questions
QUESTION_FILE = "question.npz"
OVERVIEW_LEAD = 0.03  # mean cosine that an overview must have above a short text; docs/decisions/0020 has what chose it
MOST_QUESTION_TOKENS = 128  # of a longer question, the last ones: what is asked comes after what is told
MAPS = ("", "parts_")  # what the names of a map's arrays begin with: of the one for documents, of the one for chunks
_ARRAYS = ("mean", "keys", "weight", "scalars")
logger = logging.getLogger(__name__)


def keys_file(folder: Path, chunk: int) -> Path:
    """The keys of one chunk, from 0."""
    return folder / f"{chunk:05d}.npy"


def write_keys(folder: Path, chunk: int, keys: FloatArray) -> None:
    """Write a chunk's keys, float32 [tokens, d], as float16.

    Raises:
        AdapterError: The folder cannot be written.
    """
    stored = keys.astype(np.float16)
    _write(keys_file(folder, chunk), lambda out: np.save(out, stored, allow_pickle=False))


def write_question_maps(folder: Path, maps: Sequence[QuestionMap], bundle: BundleInfo) -> None:
    """Write how a question is read, for a document and, where another map does that, for the chunks of one.

    Raises:
        AdapterError: The folder cannot be written.
    """
    about = {
        "version": VERSION,
        "base": bundle.base_fingerprint,
        "taps": list(bundle.capture.taps),
        "prefix": bundle.prefix,
    }

    arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for begin, question in zip(MAPS, maps, strict=False):
        scalars = np.array([question.offset, question.scale, question.words], np.float32)
        parts = (question.mean, question.keys.astype(np.float16), question.weight, scalars)
        arrays |= {begin + name: part for name, part in zip(_ARRAYS, parts, strict=True)}
    _write(folder / QUESTION_FILE, lambda out: np.savez(out, **arrays))


def _write(path: Path, save: Callable[[BinaryIO], None]) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            save(out)
    except OSError as error:
        raise AdapterError(f"cannot write `{path}`: {error.strerror}") from error


@dataclass(frozen=True)
class ChunkKeys:
    """The keys of a document's chunks, and how to read a question for them.

    Attributes:
        base_fingerprint: Base model whose activations they are made of.
        capture: Activations to read.
        prefix: Text before the question, control tokens parsed; its activations are dropped.
        question: From activations to keys.
        keys: float32 [tokens, d], all chunks one after the other.
        starts: Row that each chunk begins with.
        parts: From activations to what tells the chunks apart; None = `question`.
        parts_keys: Likewise, float32 [tokens, d'].
    """

    base_fingerprint: str
    capture: CaptureSpec
    prefix: str
    question: QuestionMap
    keys: FloatArray
    starts: NDArray[np.intp]
    parts: QuestionMap | None = None
    parts_keys: FloatArray | None = None

    def fits(self, base: BaseModelInfo) -> bool:
        """Whether a base model's activations are what these keys are made of."""
        taps = self.capture.taps
        sizes = len(taps) * base.hidden_size == len(self.question.mean)
        return base.fingerprint == self.base_fingerprint and sizes and all(0 <= tap <= base.block_count for tap in taps)

    def scores(self, text: str, engine: Engine) -> FloatArray:
        """What each chunk by itself has to do with a question, float32 [chunks]: a softmax is how likely it is the one.

        Raises:
            ModelError: The base model cannot read it.
        """
        hidden = read_question(text, engine, self.capture, self.prefix)
        return self.match_parts(hidden, self.match(hidden)).scores

    def match(self, hidden: FloatArray) -> Match:
        """What each chunk has to do with a question that was read already, float32 [taps, tokens, hidden]."""
        return match(self.question, hidden, self.keys, self.starts)

    def match_parts(self, hidden: FloatArray, found: Match, chunks: int = 0) -> Match:
        """The same by what tells chunks apart.

        Args:
            hidden: The question, read.
            found: What `match` gave for it.
            chunks: How many there are, without the overview: each may go on from the one before it; 0 = none does.
        """
        if self.parts is not None and self.parts_keys is not None:
            return match(self.parts, hidden, self.parts_keys, self.starts, chunks)
        return match(self.question, hidden, self.keys, self.starts, chunks) if chunks > 1 else found

    def is_related(self, found: Match, chunks: int) -> bool:
        """Whether a question is about the document, by the closest of its chunks or by its overview.

        Args:
            found: Of the chunks and, where there is one, of the overview after them.
            chunks: How many there are, without the overview.
        """
        of_text = self.starts[chunks] if chunks < len(self.starts) else len(self.keys)
        parts = ((found.scores[:chunks], int(of_text)), (found.scores[chunks:], len(self.keys) - int(of_text)))
        return any(is_related(float(part.max()), found.most, tokens) for part, tokens in parts if len(part))

    def beside_words(self, found: Match, words: FloatArray, chunks: int) -> FloatArray:
        """What chooses a document, and its overview: scores and the BM25 of each chunk, float32 [chunks], together.

        The overview of a short text has words of it, all of its first sentence where there is no title. So it must
        come closer than the text itself. Among several chunks, the words of each tell it from the overview.

        Args:
            found: Of the chunks and, where there is one, of the overview after them.
            words: Likewise.
            chunks: How many there are, without the overview.
        """
        together: FloatArray = found.scores + np.float32(self.question.words) * words
        if chunks == 1:
            together[1:] -= np.float32(OVERVIEW_LEAD * found.most)
        return together

    def parts_beside_words(self, parts: Match, words: FloatArray) -> FloatArray:
        """What chooses among the chunks of one document, of what `match_parts` gave; see `decide`."""
        of = self.question if self.parts is None else self.parts
        together: FloatArray = parts.scores + np.float32(of.words) * words
        return together


def decide(together: FloatArray, parts: FloatArray, chunks: int) -> FloatArray:
    """What ranks a document's chunks and its overview, float32 [chunks].

    Whether a question is about all of a document is told by what tells documents apart, and, if it is not, which of its
    chunks it is about by what tells those apart.

    Args:
        together: Of `beside_words`.
        parts: Of `parts_beside_words`.
        chunks: How many there are, without the overview.
    """
    ranked = parts.copy()
    ranked[chunks:] = np.inf if together.argmax() >= chunks else -np.inf
    return ranked


def read_question(text: str, engine: Engine, capture: CaptureSpec, prefix: str) -> FloatArray:
    """Activations on the last tokens of a question, float32 [taps, tokens, hidden].

    Raises:
        ModelError: The base model cannot read it.
    """
    before, asked = engine.tokenize(prefix, special=True), engine.tokenize(text)[-MOST_QUESTION_TOKENS:]
    if not len(asked):
        return np.empty((len(capture.taps), 0, engine.info.hidden_size), np.float32)
    return engine.encode(np.concatenate([before, asked]).astype(np.int32), capture).hidden[:, len(before) :]


def in_memory(maps: Sequence[QuestionMap], bundle: BundleInfo, keys: Sequence[FloatArray]) -> ChunkKeys:
    """The keys of chunks, as `SearchHead.keys` gives them, as they would come back from the disk."""
    stored = [part.astype(np.float16).astype(np.float32) for part in keys]
    return _joined(bundle.base_fingerprint, CaptureSpec(bundle.capture.taps), bundle.prefix, maps, stored)


def _joined(
    fingerprint: str, capture: CaptureSpec, prefix: str, maps: Sequence[QuestionMap], parts: Sequence[FloatArray]
) -> ChunkKeys:
    """Keys of chunks, float32 [tokens, d + d'], those of each map apart."""
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).astype(np.intp)
    stored, first = np.concatenate(parts), maps[0].keys.shape[1]
    # Copies, as each is multiplied with every question: the halves of wide rows are read slower.
    keys = stored if len(maps) == 1 else np.ascontiguousarray(stored[:, :first])
    others = (None, None) if len(maps) == 1 else (maps[1], np.ascontiguousarray(stored[:, first:]))
    return ChunkKeys(fingerprint, capture, prefix, maps[0], keys, starts, *others)


def read_keys(folder: Path, chunks: int) -> ChunkKeys | None:
    """The keys of a document of so many chunks; None where there are none, or not all, or none that can be read.

    Remembered while the files' folder stays the same.
    """
    try:
        changed = folder.stat().st_mtime_ns
        if not (folder / QUESTION_FILE).is_file():
            return None
    except OSError:
        return None
    return _read_cached(folder, chunks, changed)


@lru_cache(maxsize=8)
def _read_cached(folder: Path, chunks: int, changed: int) -> ChunkKeys | None:
    """`changed` is part of the key: files that are made anew are renamed into the folder, which changes its time."""
    try:
        return _read(folder, chunks)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("search keys in %s are unusable, words decide alone: %s", folder, error)
        return None


def _read(folder: Path, chunks: int) -> ChunkKeys:
    with (folder / QUESTION_FILE).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        if about["version"] not in READABLE:
            raise ValueError(f"version {about['version']}")
        maps = [_map(file, begin) for begin in MAPS if begin + _ARRAYS[0] in file]
    if len({len(one.mean) for one in maps}) != 1:
        raise ValueError("maps of questions that read different activations")
    size = sum(one.keys.shape[1] for one in maps)
    parts = [_floats(np.load(keys_file(folder, chunk), allow_pickle=False)) for chunk in range(chunks)]
    if not parts or any(part.ndim != 2 or not len(part) or part.shape[1] != size for part in parts):
        raise ValueError("keys of the wrong shape")
    capture = CaptureSpec(tuple(int(tap) for tap in about["taps"]))
    return _joined(str(about["base"]), capture, str(about["prefix"]), maps, parts)


def _map(file: Mapping[str, NDArray[np.generic]], begin: str) -> QuestionMap:
    mean, keys, weight, scalars = (_floats(file[begin + name]) for name in _ARRAYS)
    if keys.ndim != 2 or mean.shape != keys.shape[:1] or weight.shape != mean.shape or scalars.shape != (3,):
        raise ValueError("a question map whose parts do not fit")
    return QuestionMap(mean, keys, weight, *(float(value) for value in scalars))


def _floats(array: NDArray[np.generic]) -> FloatArray:
    if array.dtype not in (np.float16, np.float32):
        raise ValueError(f"values of type {array.dtype}")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ValueError("values that are not finite")
    return floats
