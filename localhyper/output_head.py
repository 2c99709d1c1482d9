"""What a base model's tokens read in its residual stream: the rows of its output matrix, from its file.

Read block by block and dequantized as llama.cpp would, so that memory stays bounded whatever the vocabulary. Models
that tie their embeddings have no other output matrix than these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from localhyper.engine import FloatArray, TokenArray
from localhyper.errors import ModelError
from localhyper.gguf_header import HeaderError, TensorEntry, read_header
from localhyper.gguf_tensors import read_rows

ROWS = 8192  # of the matrix made at once
KEPT_BYTES = 256 << 20  # a normalised matrix of up to this size is made once and kept
HEADS = ("output.weight", "token_embd.weight")
EPSILON = 1e-5


def head_entry(entries: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """The output matrix among tensors by name, embeddings where they are tied; None where there is neither."""
    return next((entries[name] for name in HEADS if name in entries), None)


class OutputHead:
    """An output matrix in a file, its rows normalised: mean 0, variance 1, for some tokens' are twice as long."""

    def __init__(self, path: Path, entry: TensorEntry) -> None:
        """`entry` says where the matrix of shape (hidden, vocab) lies in the base model's file."""
        self.path, self.entry = path, entry
        self._kept: tuple[FloatArray, ...] = ()

    @classmethod
    def open(cls, path: Path) -> OutputHead:
        """Look for the matrix.

        Raises:
            ModelError: The file has none, or in a number format that is unknown here.
        """
        try:
            entries = {entry.name: entry for entry in read_header(path).tensors}
        except (HeaderError, OSError) as error:
            raise ModelError(f"base model `{path.name}` is unusable: {error}") from error
        found = head_entry(entries)
        if found is None or len(found.shape) != 2:
            raise ModelError(f"base model `{path.name}` has no output matrix", "examples cannot be learnt with it")
        return cls(path, found)

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return self.entry.shape[0]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.entry.shape[1]

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Number of the first token and normalised rows, float32 [up to ROWS, hidden], all of the vocabulary."""
        starts = range(0, self.vocabulary, ROWS)
        if not self._kept and 4 * self.entry.elements <= KEPT_BYTES:
            self._kept = tuple(self._rows(start) for start in starts)
        for number, start in enumerate(starts):
            yield start, self._kept[number] if self._kept else self._rows(start)

    def _rows(self, start: int) -> FloatArray:
        try:
            rows = read_rows(self.path, self.entry, start, min(ROWS, self.vocabulary - start))
        except HeaderError as error:
            raise ModelError(
                f"base model `{self.path.name}` stores its output matrix as {self.entry.type_name}, unknown here",
                "examples cannot be learnt with it",
            ) from error
        rows = rows - rows.mean(axis=1, keepdims=True)
        normalised: FloatArray = rows / np.sqrt(rows.var(axis=1, keepdims=True) + EPSILON)
        return normalised

    def missing(self, wanted: TokenArray, likely: FloatArray) -> FloatArray:
        """What a model's predictions lack, Eᵀ(y - p): float32 [n, hidden].

        Args:
            wanted: Right tokens y, [n].
            likely: Probabilities p that the model gives, float32 [n, vocab].
        """
        lacking = np.zeros((len(wanted), self.hidden), np.float32)
        for start, rows in self.blocks():
            share = -likely[:, start : start + len(rows)]
            places = np.flatnonzero((wanted >= start) & (wanted < start + len(rows)))
            share[places, wanted[places] - start] += 1
            lacking += share @ rows
        return lacking

    def turn(self, floor: float) -> FloatArray:
        """(EᵀE / vocab + floor · mean diagonal)⁻¹, float32 [hidden, hidden], which keeps the mean length of rows.

        The directions that most tokens share say little of one of them. Rows turned by it tell tokens apart, as
        whitened keys tell inputs apart.

        Raises:
            ModelError: The matrix holds values that are not finite.
        """
        hidden = self.hidden
        second = np.zeros((hidden, hidden), np.float32)
        for _, rows in self.blocks():
            second += rows.T @ rows
        second /= self.vocabulary
        if not np.isfinite(second).all():
            raise ModelError(f"base model `{self.path.name}` has values in its output matrix that are not finite")
        shifted = second + np.eye(hidden, dtype=np.float32) * floor * np.trace(second) / hidden
        turn = np.linalg.inv(shifted)
        length = np.sqrt(np.trace(second) / np.trace(turn @ second @ turn))
        turned: FloatArray = (turn * length).astype(np.float32)
        return turned
