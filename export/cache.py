"""Activations of documents seen before, in memory up to a budget: the base model is frozen, so they never change."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

Activation = tuple[Tensor, Tensor]  # hidden [taps, tokens, hidden], ffn [blocks, tokens, ffn]


class ActivationCache:
    """Least recently used activations, keyed by a document's token ids. A budget of 0 keeps nothing."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self._used = budget_bytes, 0
        self._kept: OrderedDict[bytes, Activation] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key: bytes) -> Activation | None:
        """The activations kept under `key`, or None."""
        found = self._kept.get(key)
        self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, value: Activation) -> None:
        """Keep activations; the ones unused for longest make room."""
        size = _size(value)
        if size > self.budget_bytes or key in self._kept:
            return
        while self._used + size > self.budget_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._used -= _size(dropped)
        self._kept[key] = value
        self._used += size


def _size(value: Activation) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in value)
