"""Rows of a document as one sequence: what all of them begin with once, then what is left of each.

Questions share the template's beginning, more than half of a short row, and rows of one sequence are padded once. A
token sees the shared beginning and what comes before it in its own row, at the places they would have alone, so each
row gives what it gives by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from localhyper.export.torch_base import Attend, find

Row = tuple[list[int], list[int]]  # ids, and the next token where it is to be learnt, -100 elsewhere
SHARED, PADDING = 0, -1


@dataclass(frozen=True)
class Packing:
    """Which row each token of a sequence belongs to.

    Attributes:
        parts: int64 [documents, tokens]: 0 = the beginning that all share, then rows from 1; -1 = padding.
        places: int64 [documents, tokens], positions.
    """

    parts: Tensor
    places: Tensor

    def to(self, device: torch.device | str) -> Packing:
        """The same on a device."""
        return Packing(self.parts.to(device, non_blocking=True), self.places.to(device, non_blocking=True))

    def attend(self) -> Attend:
        """Attention in which rows don't see each other."""
        own, other = self.parts[:, :, None], self.parts[:, None, :]
        earlier = torch.ones(own.shape[1], own.shape[1], dtype=torch.bool, device=own.device).tril()
        seen = (earlier & ((other == SHARED) | (other == own)))[:, None]
        return lambda block, q, k, v: find(q, k, v, seen)


@dataclass(frozen=True)
class Packed:
    """One document's rows in a sequence; see `Packing`."""

    ids: list[int]
    targets: list[int]
    parts: list[int]
    places: list[int]


def pack(rows: Sequence[Row], most: int) -> Packed:
    """The rows of a document as one sequence of at most `most` tokens: the first of them, and others while they fit."""
    shared = shared_beginning(rows)
    ids, targets = list(rows[0][0][:shared]), [-100] * shared
    parts, places = [SHARED] * shared, list(range(shared))
    for number, (row, marks) in enumerate(rows, 1):
        if number > 1 and len(ids) + len(row) - shared > most:
            continue
        ids += row[shared:]
        targets += marks[shared:]
        parts += [number] * (len(row) - shared)
        places += range(shared, len(row))
    return Packed(ids, targets, parts, places)


def shared_beginning(rows: Sequence[Row]) -> int:
    """Tokens that all rows begin with and none of them learns after."""
    most = min(len(ids) for ids, _ in rows) - 1
    first = rows[0][0]
    for place in range(most):
        if any(ids[place] != first[place] or marks[place] != -100 for ids, marks in rows):
            return place
    return most
