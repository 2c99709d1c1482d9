"""Search keys of a long document's chunks, in the folder of the chunks' adapters.

One file of keys a chunk, written with its adapter, and one that says how a question is read to be compared with them:
the map comes from the hypernetwork that made the keys, so asking needs the base model alone. Files that are missing
or damaged are no error: the chunk is then found by words.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from localhyper.atomic import atomic_path
from localhyper.bundle import BundleInfo
from localhyper.engine import BaseModelInfo, CaptureSpec, Engine
from localhyper.errors import AdapterError
from localhyper.lora import FloatArray
from localhyper.search_head import QuestionMap, is_related, max_sim

VERSION = 1
QUESTION_FILE = "question.npz"
OVERVIEW_LEAD = 0.03  # mean cosine that an overview must have above a short text; docs/decisions/0020 has what chose it
MOST_QUESTION_TOKENS = 128  # of a longer question, the last ones: what is asked comes after what is told
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


def write_question_map(folder: Path, question: QuestionMap, bundle: BundleInfo) -> None:
    """Write how a question is read.

    Raises:
        AdapterError: The folder cannot be written.
    """
    about = {
        "version": VERSION,
        "base": bundle.base_fingerprint,
        "taps": list(bundle.capture.taps),
        "prefix": bundle.prefix,
    }

    def save(out: BinaryIO) -> None:
        np.savez(
            out,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            mean=question.mean,
            keys=question.keys.astype(np.float16),
            weight=question.weight,
            scalars=np.array([question.offset, question.scale, question.words], np.float32),
        )

    _write(folder / QUESTION_FILE, save)


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
    """

    base_fingerprint: str
    capture: CaptureSpec
    prefix: str
    question: QuestionMap
    keys: FloatArray
    starts: NDArray[np.intp]

    def fits(self, base: BaseModelInfo) -> bool:
        """Whether a base model's activations are what these keys are made of."""
        taps = self.capture.taps
        sizes = len(taps) * base.hidden_size == len(self.question.mean)
        return base.fingerprint == self.base_fingerprint and sizes and all(0 <= tap <= base.block_count for tap in taps)

    def scores(self, text: str, engine: Engine) -> FloatArray:
        """What each chunk has to do with a question, float32 [chunks]: a softmax of it is how likely it is the one.

        Raises:
            ModelError: The base model cannot read it.
        """
        return self.scores_of(read_question(text, engine, self.capture, self.prefix))

    def scores_of(self, hidden: FloatArray) -> FloatArray:
        """The same of a question that was read already, activations float32 [taps, tokens, hidden]."""
        if not hidden.shape[1]:
            return np.zeros(len(self.starts), np.float32)
        return max_sim(self.question.read(hidden), self.keys, self.starts)

    def most_of(self, hidden: FloatArray) -> float:
        """What a chunk would score that has every token of the question, read likewise."""
        return float(np.linalg.norm(self.question.read(hidden), axis=1).sum()) if hidden.shape[1] else 0.0

    def is_related(self, scores: FloatArray, most: float, chunks: int) -> bool:
        """Whether a question is about the document, by the closest of its chunks or by its overview.

        Args:
            scores: Of the chunks and, where there is one, of the overview after them.
            most: What a chunk would score that has every token of the question.
            chunks: How many there are, without the overview.
        """
        of_text = self.starts[chunks] if chunks < len(self.starts) else len(self.keys)
        parts = ((scores[:chunks], int(of_text)), (scores[chunks:], len(self.keys) - int(of_text)))
        return any(is_related(float(part.max()), most, tokens) for part, tokens in parts if len(part))

    def beside_words(self, scores: FloatArray, words: FloatArray, most: float, chunks: int) -> FloatArray:
        """What chooses: `scores` and the BM25 of each chunk, both float32 [chunks], together.

        The overview of a short text has words of it, all of its first sentence where there is no title. So it must
        come closer than the text itself. Among several chunks, the words of each tell it from the overview.

        Args:
            scores: Of the chunks and, where there is one, of the overview after them.
            words: Likewise.
            most: What a chunk would score that has every token of the question.
            chunks: How many there are, without the overview.
        """
        together: FloatArray = scores + np.float32(self.question.words) * words
        if chunks == 1:
            together[1:] -= np.float32(OVERVIEW_LEAD * most)
        return together


def read_question(text: str, engine: Engine, capture: CaptureSpec, prefix: str) -> FloatArray:
    """Activations on the last tokens of a question, float32 [taps, tokens, hidden].

    Raises:
        ModelError: The base model cannot read it.
    """
    before, asked = engine.tokenize(prefix, special=True), engine.tokenize(text)[-MOST_QUESTION_TOKENS:]
    if not len(asked):
        return np.empty((len(capture.taps), 0, engine.info.hidden_size), np.float32)
    return engine.encode(np.concatenate([before, asked]).astype(np.int32), capture).hidden[:, len(before) :]


def in_memory(question: QuestionMap, bundle: BundleInfo, keys: Sequence[FloatArray]) -> ChunkKeys:
    """The keys of chunks, float32 [tokens, d] each, as they would come back from the disk."""
    starts = np.cumsum([0, *(len(part) for part in keys[:-1])]).astype(np.intp)
    stored = np.concatenate(keys).astype(np.float16).astype(np.float32)
    capture = CaptureSpec(bundle.capture.taps)
    return ChunkKeys(bundle.base_fingerprint, capture, bundle.prefix, question, stored, starts)


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
        mean, keys, weight, scalars = (_floats(file[name]) for name in _ARRAYS)
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}")
    width, size = keys.shape
    if mean.shape != (width,) or weight.shape != (width,) or scalars.shape != (3,):
        raise ValueError("a question map whose parts do not fit")
    parts = [_floats(np.load(keys_file(folder, chunk), allow_pickle=False)) for chunk in range(chunks)]
    if not parts or any(part.ndim != 2 or not len(part) or part.shape[1] != size for part in parts):
        raise ValueError("keys of the wrong shape")
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).astype(np.intp)
    question = QuestionMap(mean, keys, weight, *(float(value) for value in scalars))
    capture = CaptureSpec(tuple(int(tap) for tap in about["taps"]))
    return ChunkKeys(str(about["base"]), capture, str(about["prefix"]), question, np.concatenate(parts), starts)


def _floats(array: NDArray[np.generic]) -> FloatArray:
    if array.dtype not in (np.float16, np.float32):
        raise ValueError(f"values of type {array.dtype}")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ValueError("values that are not finite")
    return floats
