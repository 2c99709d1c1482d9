"""One document, adapters of many rank budgets: encoded and generated once, merged and written for each budget.

For every budget the pipeline's own `attach_document` runs, over an engine and a hypernetwork that remember: so each
file is what `localhyper attach --rank R` writes. Knows no questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from localhyper.bundle import BundleInfo
from localhyper.engine import Activations, BaseModelInfo, CaptureSpec, Engine, FloatArray, TokenArray
from localhyper.evaluate.columns import library_in
from localhyper.hypernet import Hypernetwork
from localhyper.initial_factors import InitialFactors
from localhyper.library import AdapterInfo
from localhyper.lora import LoraTarget, LoraWeights, Metric
from localhyper.progress import CancelToken
from localhyper.search_head import SearchHead
from localhyper.sources.document import Document


class _OnceEngine:
    """As much of an `Engine` as an attach asks for; encodes each chunk, known by its tokens, once."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._encoded: dict[bytes, Activations] = {}

    @property
    def info(self) -> BaseModelInfo:
        """The loaded base model."""
        return self._engine.info

    def tokenize(self, text: str, *, special: bool = False) -> TokenArray:
        """As the engine does."""
        return self._engine.tokenize(text, special=special)

    def detokenize(self, ids: TokenArray) -> str:
        """As the engine does."""
        return self._engine.detokenize(ids)

    def encode_together(
        self, parts: Sequence[TokenArray], capture: CaptureSpec, *, cancel: CancelToken | None = None
    ) -> list[Activations]:
        """As the engine does the first time; from the disk again."""
        new = {ids.tobytes(): ids for ids in parts if ids.tobytes() not in self._encoded}
        for key, made in zip(
            new, self._engine.encode_together(list(new.values()), capture, cancel=cancel), strict=True
        ):
            number = len(self._encoded)
            self._encoded[key] = Activations(
                _on_disk(self._folder / f"{number}.hidden.npy", made.hidden),
                _on_disk(self._folder / f"{number}.ffn.npy", made.ffn),
            )
        return [self._encoded[ids.tobytes()] for ids in parts]


def _on_disk(path: Path, array: FloatArray) -> FloatArray:
    """The same array, read from a file where it is asked for."""
    np.save(path, array)
    mapped: FloatArray = np.asarray(np.load(path, mmap_mode="r"))
    return mapped


class _OnceHypernetwork:
    """A `Hypernetwork` that generates for each chunk once and keeps the weights on the disk, many times the text."""

    def __init__(self, hypernetwork: Hypernetwork, folder: Path) -> None:
        self._hypernetwork, self._folder = hypernetwork, folder
        self._known: dict[bytes, LoraWeights] = {}

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself."""
        return self._hypernetwork.info

    @property
    def reads_count(self) -> bool:
        """As the hypernetwork."""
        return self._hypernetwork.reads_count

    @cached_property
    def alone(self) -> Hypernetwork:
        """As the hypernetwork; what it makes is kept apart."""
        alone = self._hypernetwork.alone
        if alone is self._hypernetwork:
            return self
        folder = self._folder / "alone"
        folder.mkdir(exist_ok=True)
        return _OnceHypernetwork(alone, folder)

    def generate(self, activations: Activations, chunks: int = 1) -> LoraWeights:
        """As the hypernetwork does the first time; from the disk again."""
        chunk = hashlib.sha256(activations.hidden.tobytes()).digest()
        chunk += hashlib.sha256(activations.ffn.tobytes()).digest()
        if chunk not in self._known:
            self._known[chunk] = self._mapped(self._hypernetwork.generate(activations, chunks))
        return self._known[chunk]

    def _mapped(self, weights: LoraWeights) -> LoraWeights:
        number = len(self._known)
        return LoraWeights(
            {
                name: LoraTarget(
                    target.layers,
                    _on_disk(self._folder / f"{number}.a.{name}.npy", target.a),
                    _on_disk(self._folder / f"{number}.b.{name}.npy", target.b),
                )
                for name, target in weights.targets.items()
            }
        )

    def bias(self) -> LoraWeights | None:
        """As the hypernetwork does."""
        return self._hypernetwork.bias()

    def metrics(self) -> Mapping[str, Metric]:
        """As the hypernetwork does."""
        return self._hypernetwork.metrics()

    def search_head(self) -> SearchHead | None:
        """As the hypernetwork has it."""
        return self._hypernetwork.search_head()

    def initial(self) -> InitialFactors | None:
        """As the hypernetwork has them."""
        return self._hypernetwork.initial()


class AttachOnce:
    """A document whose adapters are asked for by rank budget."""

    def __init__(
        self, document: Document, engine: Engine, hypernetwork: Hypernetwork, folder: Path, cancel: CancelToken
    ) -> None:
        """Keep everything in `folder`, which exists and is the caller's to delete."""
        self._document, self._folder, self._cancel = document, folder, cancel
        self._engine = _OnceEngine(engine, folder)
        self._hypernetwork = _OnceHypernetwork(hypernetwork, folder)

    def adapter(self, rank: int) -> AdapterInfo:
        """What `localhyper attach --rank RANK` makes, in a library of its own; 0 = no recompression.

        Raises:
            LocalHyperError: Whatever `attach_document` raises.
        """
        from localhyper.pipeline import AttachOptions, attach_document

        home = self._folder / f"rank-{rank}"
        home.mkdir(exist_ok=True)
        library = library_in(home)
        options = AttachOptions(rank=rank, chunk_rank=0, name="evaluated")
        engine = cast("Engine", self._engine)  # an attach neither chats nor scores
        return attach_document(
            self._document, engine, self._hypernetwork, library, options, cancel=self._cancel
        ).adapter
