"""A text to the one vector that a task hypernetwork reads: by an embedding model, or out of a file.

An embedder is a folder with one ONNX model and a `tokenizer.json`; both come from strangers. The recipe is that of
Text-to-LoRA (Charakorn et al. 2025): a full stop after a last letter, at most so many tokens, the last hidden state of
one token, float32. Scaling is the hypernetwork's business.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from localhyper.bundle import EmbeddingSpec
from localhyper.description_tokens import HINT as _HINT
from localhyper.description_tokens import tokenize
from localhyper.errors import ConfigError, LocalHyperError, ModelError
from localhyper.lora import FloatArray
from localhyper.memory_check import available_memory
from localhyper.onnx_session import Value, first_line, open_session, run_until_cancelled
from localhyper.onnx_wire import WireError, outline
from localhyper.progress import CancelToken

TOKENIZER, CONFIG = "tokenizer.json", "config.json"
MAX_MODEL_BYTES = 2**31 - 1  # protobuf's own limit
MAX_CONFIG_BYTES = 1 << 20
USUAL_HEADS = 16
SCORE_COPIES = (
    2.5  # of all heads' float32 scores that are in memory at most, measured with a BERT of 1,024 and 4,096 tokens
)
MAX_VECTOR_BYTES = 1 << 23
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_STATES = ("last_hidden_state", "token_embeddings")
_FLOATS = ("tensor(float)", "tensor(float16)")


class Embedded(NamedTuple):
    """A vector of a text.

    Attributes:
        vector: float32 [E].
        tokens: Tokens it was made of, special ones included.
        truncated: Whether the text was longer than that.
    """

    vector: FloatArray
    tokens: int
    truncated: bool


def prepare_text(text: str, spec: EmbeddingSpec) -> str:
    """The description as the embedding model was given it in training."""
    text = text.strip()
    if spec.full_stop and text[-1:].isalpha():
        text += "."
    return spec.prefix + text


class Embedder:
    """An embedding model on disk; it is in memory only while a text is read."""

    def __init__(self, folder: Path, path: Path, threads: int, providers: Sequence[str]) -> None:
        """Use `open` instead: it checks the model's file first."""
        self._folder, self._path = folder, path
        self._threads, self._providers = threads, providers

    @classmethod
    def open(cls, folder: Path, *, threads: int = 0, providers: Sequence[str] = ()) -> Embedder:
        """Check an embedder's folder; nothing is loaded.

        Args:
            folder: Holds one `.onnx` file, at its top or in `onnx/`, and `tokenizer.json`.
            threads: CPU threads; 0 = all physical cores.
            providers: onnxruntime's execution providers in order of preference; the CPU is always the last resort.

        Raises:
            ModelError: The model's file is missing or damaged, or does not fit in memory.
        """
        path = _model_file(folder)
        _check_model_file(path)
        return cls(folder, path, threads, providers)

    def embed(self, text: str, spec: EmbeddingSpec, max_tokens: int, cancel: CancelToken | None = None) -> Embedded:
        """The vector of a text, prepared as `spec` says and cut after `max_tokens` tokens.

        Raises:
            ModelError: The folder's files are damaged or of another kind of model, the model fails on the text, needs
                more memory than there is, gives a vector of another size, or one that is not finite.
            Cancelled: `cancel` was set.
        """
        cancel = cancel or CancelToken()
        ids, truncated = tokenize(self._folder / TOKENIZER, prepare_text(text, spec), max_tokens, cancel)
        self._check_memory(len(ids))
        states = self._run(ids, cancel)
        if states.shape != (1, len(ids), spec.size):
            raise self._bad(f"it gives states {list(states.shape)}, wanted [1, {len(ids)}, {spec.size}]")
        vector = {"first": states[0, 0], "last": states[0, -1], "mean": states[0].mean(0)}[spec.pooling]
        if not np.isfinite(vector).all() or not vector.any():
            raise self._bad("its vector is zero or not finite")
        return Embedded(np.ascontiguousarray(vector), len(ids), truncated)

    def _check_memory(self, tokens: int) -> None:
        """Attention of every token to every token is what a long text costs: 11 GB of 8,192 tokens."""
        scores = 4 * _heads(self._folder / CONFIG) * tokens**2 * SCORE_COPIES
        needed, left = self._path.stat().st_size + int(scores), available_memory()
        if left is not None and needed > left:
            raise ModelError(
                f"embedder `{self._path}` needs about {needed / 1e9:.1f} GB of memory for {tokens:,} tokens, "
                f"{left / 1e9:.1f} GB are left",
                "shorten the description, or give the vector with --embedding FILE",
            )

    def _run(self, ids: Sequence[int], cancel: CancelToken) -> FloatArray:
        session = open_session(self._path, "embedder", ModelError, threads=self._threads, providers=self._providers)
        output = _check_graph(self._path, session.get_inputs(), session.get_outputs())
        row = np.array([ids], np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        try:
            wanted = {value.name: feeds[value.name] for value in session.get_inputs()}
            (states,) = run_until_cancelled(session, [output], wanted, cancel)
        except LocalHyperError:
            raise
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise self._bad(f"it cannot be run ({first_line(error)})") from error
        return np.asarray(states, np.float32)

    def _bad(self, what: str) -> ModelError:
        return ModelError(f"embedder `{self._path}`: {what}", _HINT)


def _heads(config: Path) -> int:
    """Attention heads as the folder's configuration says, else as the usual large model has."""
    try:
        values = json.loads(config.read_text(encoding="utf-8")) if config.stat().st_size <= MAX_CONFIG_BYTES else {}
    except (OSError, ValueError, RecursionError):
        values = {}
    heads = values.get("num_attention_heads") if isinstance(values, dict) else None
    return heads if type(heads) is int and 0 < heads <= 1 << 10 else USUAL_HEADS


def _model_file(folder: Path) -> Path:
    found = [path for pattern in ("*.onnx", "onnx/*.onnx") for path in sorted(folder.glob(pattern)) if path.is_file()]
    if len(found) != 1:
        what = "no .onnx file" if not found else f"{len(found)} .onnx files"
        raise ModelError(f"embedder folder `{folder}` holds {what}, wanted one", _HINT)
    return found[0]


def _check_model_file(path: Path) -> None:
    """One file of ONNX with all its weights inside, that fits in memory: before onnxruntime opens it."""
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_MODEL_BYTES:
            raise ModelError(f"embedder `{path}` has {size} bytes, wanted 1 to {MAX_MODEL_BYTES}", _HINT)
        left = available_memory()
        if left is not None and size > left:
            message = f"embedder `{path}` needs {size / 1e9:.1f} GB of memory, {left / 1e9:.1f} GB are left"
            raise ModelError(message, "close other programs, or give the vector with --embedding FILE")
        with path.open("rb") as file:
            found = outline(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except WireError as error:
        raise ModelError(f"embedder `{path}` is not a readable ONNX file ({error})", _HINT) from error
    except OSError as error:
        raise ModelError(f"embedder `{path}` cannot be read: {error.strerror or error}", _HINT) from error
    if not found.has_graph:
        raise ModelError(f"embedder `{path}` is not an ONNX model: it has no graph", _HINT)
    if found.external_data:
        raise ModelError(f"embedder `{path}` keeps weights in other files, which are not opened", _HINT)


def _check_graph(path: Path, inputs: Sequence[Value], outputs: Sequence[Value]) -> str:
    """Name of the output with the hidden states."""
    names = [value.name for value in inputs]
    if "input_ids" not in names or set(names) - set(_INPUTS):
        raise ModelError(f"embedder `{path}` has inputs {names}, wanted some of {list(_INPUTS)}", _HINT)
    for value in inputs:
        if value.type != "tensor(int64)" or len(value.shape) != 2:
            raise ModelError(f"embedder `{path}`: `{value.name}` must be tensor(int64) [batch, tokens]", _HINT)
    states = {value.name for value in outputs if value.type in _FLOATS and len(value.shape) == 3}
    found = [name for name in _STATES if name in states] or (list(states) if len(states) == 1 else [])
    if not found:
        shown = [value.name for value in outputs]
        raise ModelError(f"embedder `{path}` has outputs {shown}, none of which is `{_STATES[0]}`", _HINT)
    return found[0]


def read_embedding(path: Path, size: int) -> FloatArray:
    """A vector given by hand: `.npy` or JSON, E numbers or one row of them.

    Args:
        path: The file.
        size: E.

    Returns:
        float32 [E], finite and not zero.

    Raises:
        ConfigError: Missing, or anything else.
    """
    try:
        if path.stat().st_size > MAX_VECTOR_BYTES:
            raise _no_vector(path, size, f"a file of more than {MAX_VECTOR_BYTES} bytes")
        values = _load_npy(path) if path.suffix.lower() == ".npy" else _load_json(path)
    except FileNotFoundError as error:
        raise ConfigError(f"embedding file `{path}` does not exist", "name a .npy or .json file") from error
    except (OSError, EOFError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _no_vector(path, size, first_line(error)) from error
    if values.shape not in ((size,), (1, size)):
        raise _no_vector(path, size, f"shape {list(values.shape)[:8]}")
    with np.errstate(over="ignore"):
        vector: FloatArray = np.ascontiguousarray(values.reshape(size).astype(np.float32))
    if not np.isfinite(vector).all():
        raise _no_vector(path, size, "values that are not finite")
    if not vector.any():
        raise _no_vector(path, size, "zeros only")
    return vector


def _load_npy(path: Path) -> Any:
    # Mapped, a header that claims more than the file holds is refused before anything is allocated; so are objects.
    values = np.lib.format.open_memmap(path, mode="r")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"no numbers but {values.dtype}"[:80])
    return values


def _load_json(path: Path) -> Any:
    values = json.loads(path.read_text(encoding="utf-8"))
    row = values[0] if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list) else values
    if not isinstance(row, list) or any(isinstance(item, bool) or not isinstance(item, int | float) for item in row):
        raise ValueError("no list of numbers")
    return np.array([float(item) if math.isfinite(item) else math.nan for item in row], np.float64)


def _no_vector(path: Path, size: int, got: str) -> ConfigError:
    return ConfigError(
        f"embedding file `{path}` must hold {size} numbers, got {got}",
        "a .npy array or a JSON list, as the hypernetwork's embedding model gives it",
    )
