"""Hypernetwork bundles: one `.onnx` file with its description inside, run by onnxruntime.

`onnx_session` makes the session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from localhyper.bundle import (
    BUNDLE_FORMAT,
    METADATA_KEY,
    REMAKE_HINT,
    BundleInfo,
    check_base,
    read_bundle,
    read_companion,
)
from localhyper.engine import Activations, BaseModelInfo
from localhyper.errors import AdapterError, HypernetworkError
from localhyper.initial_factors import INITIAL_OUTPUTS, InitialFactors, make_initial
from localhyper.lora import FloatArray, LoraTarget, LoraWeights, Metric, check_metrics, validate
from localhyper.onnx_session import UNREADABLE_HINT, Value, available_providers, first_line, open_session
from localhyper.search_head import SearchHead, make_head

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = [
    "BUNDLE_FORMAT",
    "METADATA_KEY",
    "BundleInfo",
    "Hypernetwork",
    "OnnxHypernetwork",
    "available_providers",
    "check_base",
    "read_bundle",
]

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8  # for outputs that don't depend on the input, where onnxruntime still wants one
AXES = {"metric_excess": 2, "metric_floor": 1}  # of outputs that have not three
SEARCH_OUTPUTS = ("search_mean", "search_document", "search_question", "search_scalars")  # arguments of `make_head`
PARTS_OUTPUTS = tuple(name.replace("search", "parts") for name in SEARCH_OUTPUTS)  # likewise


class Hypernetwork(Protocol):
    """A loaded hypernetwork."""

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself."""
        ...

    def generate(self, activations: Activations, chunks: int = 1) -> LoraWeights:
        """One chunk's activations to its LoRA matrices, scaling folded in.

        They are of the chunk's own tokens, and of prefix and suffix where `info.reads_prefix`.

        `chunks` is the number of chunks of the document it is part of.
        """
        ...

    @property
    def reads_count(self) -> bool:
        """Whether the number of a document's chunks changes what `generate` makes of one of them."""
        ...

    @property
    def alone(self) -> Hypernetwork:
        """The hypernetwork for chunks that stand alone, reading the same activations: this one, or its companion."""
        ...

    def bias(self) -> LoraWeights | None:
        """The learned context-free adapter, appended once per document; None when there is none."""
        ...

    def metrics(self) -> Mapping[str, Metric]:
        """Input second moments per target for recompression; empty when the bundle carries none."""
        ...

    def search_head(self) -> SearchHead | None:
        """What finds the chunk that a question is about; None where the bundle has not learnt it."""
        ...

    def initial(self) -> InitialFactors | None:
        """What learning a task's examples begins with; None where the bundle has not learnt it."""
        ...


class OnnxHypernetwork:
    """A bundle in an onnxruntime session."""

    def __init__(
        self, info: BundleInfo, session: InferenceSession, companion: Callable[[], OnnxHypernetwork] | None = None
    ) -> None:
        """Use `load` instead: it checks the file first. `companion` loads the bundle for single chunks."""
        self._info = info
        self._session = session
        self._companion = companion
        self._inputs = {value.name: value for value in session.get_inputs()}
        self._outputs = {value.name: value for value in session.get_outputs()}
        self._constants: dict[str, FloatArray] | None = None
        _check_inputs(info, self._inputs)
        _check_outputs(info, self._outputs)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        threads: int = 0,
        providers: Sequence[str] = (),
        expected_base: BaseModelInfo | None = None,
    ) -> OnnxHypernetwork:
        """Check a bundle and make a session of it.

        Args:
            path: The `.onnx` file.
            threads: CPU threads for one operator; 0 = all physical cores.
            providers: Execution providers in order of preference; the CPU is always the last resort.
            expected_base: Refuse the bundle unless it belongs to this base model.

        Raises:
            HypernetworkError: Missing, damaged, for another base, inputs or outputs other than described.
        """
        info = read_bundle(path)
        if expected_base is not None:
            check_base(info, expected_base)

        def opened(bundle: Path) -> InferenceSession:
            return open_session(bundle, "hypernetwork", HypernetworkError, threads=threads, providers=providers)

        companion = read_companion(info)
        if companion is None:
            return cls(info, opened(path))
        return cls(info, opened(path), lambda: cls(companion, opened(companion.path)))

    @property
    def info(self) -> BundleInfo:
        """What the bundle says of itself."""
        return self._info

    @property
    def reads_count(self) -> bool:
        """Whether the number of a document's chunks changes what `generate` makes of one of them."""
        return "chunks" in self._inputs

    @cached_property
    def alone(self) -> OnnxHypernetwork:
        """The hypernetwork for chunks that stand alone, loaded when it is first asked for.

        Raises:
            HypernetworkError: Its bundle cannot be run.
        """
        return self if self._companion is None else self._companion()

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers the session really uses."""
        return tuple(self._session.get_providers())

    def generate(self, activations: Activations, chunks: int = 1) -> LoraWeights:
        """One chunk's activations to its LoRA matrices, scaling folded in.

        They are of the chunk's own tokens, and of prefix and suffix where `info.reads_prefix`.

        `chunks` is the number of chunks of the document it is part of.

        Raises:
            HypernetworkError: Activations of the wrong shape, or output that is not finite or not as described.
        """
        if self._info.embedding is not None:
            raise HypernetworkError(f"hypernetwork `{self._info.name}` reads a vector of a text, not activations")
        self._check_activations(activations)
        feeds = {"activations": activations.hidden, "ffn": activations.ffn, "chunks": _chunk_count(chunks)}
        return self._generated({name: feeds[name] for name in self._inputs})

    def from_embedding(self, vector: FloatArray) -> LoraWeights:
        """A description's embedding, float32 [E] of any length but 0, to its LoRA matrices, scaling folded in.

        Raises:
            HypernetworkError: It reads no embedding; a vector of another size, zero or not finite; output as above.
        """
        spec = self._info.embedding
        if spec is None:
            raise HypernetworkError(f"hypernetwork `{self._info.name}` reads activations, not a vector of a text")
        if vector.shape != (spec.size,) or vector.dtype != np.float32:
            raise HypernetworkError(
                f"the embedding must be float32 [{spec.size}], got {vector.dtype} {list(vector.shape)}"
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise HypernetworkError("the embedding is zero, or has values that are not finite")
        return self._generated({"embedding": vector})

    def _generated(self, feeds: Mapping[str, FloatArray]) -> LoraWeights:
        names = [f"{part}.{target}" for target in self._info.targets for part in ("a", "b")]
        return self._weights(self._run(names, feeds), "")

    def bias(self) -> LoraWeights | None:
        """The learned context-free adapter, appended once per document; None when there is none."""
        if not any(name.startswith("bias_a.") for name in self._outputs):
            return None
        return self._weights(self._constant_values(), "bias_")

    def metrics(self) -> Mapping[str, Metric]:
        """Input second moments per target for recompression; empty when the bundle carries none."""
        values = self._constant_values()
        return {
            target: Metric(
                values[f"metric_basis.{target}"],
                values[f"metric_excess.{target}"],
                values.get(f"metric_floor.{target}"),
            )
            for target in self._info.targets
            if f"metric_basis.{target}" in values
        }

    def search_head(self) -> SearchHead | None:
        """What finds the chunk that a question is about; None where the bundle has not learnt it.

        Raises:
            HypernetworkError: It has one that is unusable.
        """
        if SEARCH_OUTPUTS[0] not in self._outputs:
            return None
        values = self._constant_values()
        try:
            head = make_head(*(values[name] for name in SEARCH_OUTPUTS))
            if PARTS_OUTPUTS[0] not in self._outputs:
                return head
            return replace(head, parts=make_head(*(values[name] for name in PARTS_OUTPUTS)))
        except HypernetworkError as error:
            raise self._bad(error.message) from error

    def initial(self) -> InitialFactors | None:
        """What learning a task's examples begins with; None where the bundle has not learnt it.

        Raises:
            HypernetworkError: It has some that are unusable.
        """
        values = {name: value for name, value in self._constant_values().items() if _is_initial(name)}
        if not values:
            return None
        try:
            return make_initial(values, self._info.base_block_count)
        except HypernetworkError as error:
            raise self._bad(error.message) from error

    def _constant_values(self) -> dict[str, FloatArray]:
        """Outputs that don't depend on the input, computed once."""
        if self._constants is None:
            names = [name for name in self._outputs if name.split(".")[0] not in ("a", "b")]
            capture, info = self._info.capture, self._info
            shapes = {
                "activations": (len(capture.taps), PROBE_TOKENS, info.base_hidden_size),
                "ffn": (len(capture.ffn_blocks), PROBE_TOKENS, self._ffn_size()),
                "chunks": (1,),
                "embedding": (info.embedding.size if info.embedding is not None else 0,),
            }
            feeds = {name: np.zeros(shapes[name], np.float32) for name in self._inputs}
            values = self._run(names, feeds) if names else {}
            self._check_constant_metrics(values)
            self._constants = values
        return self._constants

    def _check_constant_metrics(self, values: Mapping[str, FloatArray]) -> None:
        for target, layers in self._info.targets.items():
            basis, excess = values.get(f"metric_basis.{target}"), values.get(f"metric_excess.{target}")
            if basis is None or excess is None:
                continue
            width = basis.shape[1] if basis.ndim == 3 else 0
            shape = LoraTarget(layers, np.zeros((len(layers), 0, width), np.float32), np.zeros((0, 0, 0), np.float32))
            try:
                floor = values.get(f"metric_floor.{target}")
                check_metrics(LoraWeights({target: shape}), {target: Metric(basis, excess, floor)})
            except AdapterError as error:
                raise self._bad(error.message) from error

    def _ffn_size(self) -> int:
        declared = self._inputs["ffn"].shape[2] if "ffn" in self._inputs else 0
        return declared if isinstance(declared, int) else self._info.base_ffn_size

    def _check_activations(self, activations: Activations) -> None:
        capture, info = self._info.capture, self._info
        tokens = activations.hidden.shape[1] if capture.taps else activations.ffn.shape[1]
        if not 0 < tokens <= info.most_tokens:
            raise HypernetworkError(f"a chunk must have 1 to {info.most_tokens} tokens, got {tokens}")
        for name, array, rows in (
            ("activations", activations.hidden, len(capture.taps)),
            ("ffn", activations.ffn, len(capture.ffn_blocks)),
        ):
            if name not in self._inputs:
                continue
            width = info.base_hidden_size if name == "activations" else self._ffn_size()
            if array.shape != (rows, tokens, width) or array.dtype != np.float32:
                raise HypernetworkError(
                    f"`{name}` must be float32 [{rows}, {tokens}, {width}], got {array.dtype} {list(array.shape)}"
                )

    def _run(self, names: Sequence[str], feeds: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        try:
            values = self._session.run(list(names), dict(feeds))
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            logger.exception("onnxruntime failed on %s", self._info.path)
            raise self._bad(f"it cannot be run ({first_line(error)})") from error
        arrays = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
        for name, array in arrays.items():
            if array.dtype != np.float32:
                raise self._bad(f"output `{name}` must be float32, got {array.dtype}")
        return cast("dict[str, FloatArray]", arrays)

    def _weights(self, values: Mapping[str, FloatArray], prefix: str) -> LoraWeights:
        try:
            return validate(
                LoraWeights(
                    {
                        target: LoraTarget(layers, values[f"{prefix}a.{target}"], values[f"{prefix}b.{target}"])
                        for target, layers in self._info.targets.items()
                    }
                )
            )
        except AdapterError as error:
            raise self._bad(f"it made unusable weights: {error.message}") from error

    def _bad(self, what: str) -> HypernetworkError:
        return HypernetworkError(f"hypernetwork `{self._info.path}`: {what}", UNREADABLE_HINT)


def _is_initial(name: str) -> bool:
    """Whether an output is of what learning examples begins with."""
    return name.split(".", 1)[0] in INITIAL_OUTPUTS


def _chunk_count(chunks: int) -> FloatArray:
    return np.array([max(1, chunks)], np.float32)


def _check_inputs(info: BundleInfo, inputs: Mapping[str, Value]) -> None:
    wanted = {"activations"} if info.capture.taps else set()
    wanted |= {"ffn"} if info.capture.ffn_blocks else set()
    wanted |= {"embedding"} if info.embedding is not None else set()
    if set(inputs) - ({"chunks"} if info.embedding is None else set()) != wanted:
        raise HypernetworkError(
            f"hypernetwork `{info.path}` has inputs {sorted(inputs)}, its description needs {sorted(wanted)}",
            UNREADABLE_HINT,
        )
    sizes = {
        "activations": (len(info.capture.taps), None, info.base_hidden_size),
        "ffn": (len(info.capture.ffn_blocks), None, info.base_ffn_size or None),
    }
    if "chunks" in inputs:
        _check_value(info, inputs["chunks"], (1,))
    if info.embedding is not None:
        _check_value(info, inputs["embedding"], (info.embedding.size,))
        return
    for name in wanted:
        value = inputs[name]
        _check_value(info, value, sizes[name])
        if isinstance(value.shape[1], int):
            raise HypernetworkError(f"hypernetwork `{info.path}`: `{name}` must take any number of tokens")


def _check_outputs(info: BundleInfo, outputs: Mapping[str, Value]) -> None:
    known = {f"{part}.{name}" for part in ("a", "b") for name in info.targets}
    pairs = [("bias_a", "bias_b"), ("metric_basis", "metric_excess")]
    optional = {f"{part}.{name}" for pair in (*pairs, ("metric_floor",)) for part in pair for name in info.targets}
    optional |= {*SEARCH_OUTPUTS, *PARTS_OUTPUTS}
    optional |= {name for name in outputs if _is_initial(name) and "." in name and info.kind == "task"}
    missing, unknown = known - set(outputs), set(outputs) - known - optional
    if missing or unknown:
        raise HypernetworkError(
            f"hypernetwork `{info.path}`: outputs missing {sorted(missing)}, not understood {sorted(unknown)}",
            UNREADABLE_HINT,
        )
    bias = {name for name in outputs if name.startswith("bias_")}
    if bias and len(bias) != 2 * len(info.targets):
        raise HypernetworkError(f"hypernetwork `{info.path}`: a bias needs both halves of every target")
    for name in info.targets:
        if (f"metric_basis.{name}" in outputs) != (f"metric_excess.{name}" in outputs):
            raise HypernetworkError(f"hypernetwork `{info.path}`: the metric of `{name}` has only one half")
    _check_whitening(info, outputs)
    _check_search(info, outputs)
    for name, value in outputs.items():
        if name in SEARCH_OUTPUTS or name in PARTS_OUTPUTS or _is_initial(name):
            continue  # looked at where they are used
        axes = AXES.get(name.split(".", 1)[0], 3)
        _check_value(info, value, (len(info.targets[name.split(".", 1)[1]]), *[None] * (axes - 1)))


def _check_search(info: BundleInfo, outputs: Mapping[str, Value]) -> None:
    """All of a search head or nothing, and of the width of the activations; `make_head` checks what goes together."""
    width = len(info.capture.taps) * info.base_hidden_size
    shapes = ((width,), (width, None), (width, None), (3,))
    for names in (SEARCH_OUTPUTS, PARTS_OUTPUTS):
        there = [name for name in names if name in outputs]
        if there and (len(there) != len(names) or info.kind != "document" or not info.capture.taps):
            raise HypernetworkError(
                f"hypernetwork `{info.path}`: a search head needs {', '.join(names)}, and taps of a document",
                REMAKE_HINT,
            )
        for name, shape in zip(there, shapes, strict=False):
            _check_value(info, outputs[name], shape)
    if PARTS_OUTPUTS[0] in outputs and SEARCH_OUTPUTS[0] not in outputs:
        raise HypernetworkError(f"hypernetwork `{info.path}` has {PARTS_OUTPUTS[0]} without a search head", REMAKE_HINT)


def _check_whitening(info: BundleInfo, outputs: Mapping[str, Value]) -> None:
    """A floor needs the rest of its metric; whitening needs a metric with a floor, and the inputs of every block."""
    for name, layers in info.targets.items():
        whole = f"metric_basis.{name}" in outputs
        if f"metric_floor.{name}" in outputs and not whole:
            raise HypernetworkError(f"hypernetwork `{info.path}`: the metric of `{name}` has only its floor")
        if not info.whitening:
            continue
        if name != "ffn_down" or not set(layers) <= set(info.capture.ffn_blocks):
            raise HypernetworkError(
                f"hypernetwork `{info.path}` whitens `{name}`, whose inputs it does not read", REMAKE_HINT
            )
        if not whole or f"metric_floor.{name}" not in outputs:
            raise HypernetworkError(f"hypernetwork `{info.path}` whitens `{name}` without its metric", REMAKE_HINT)


def _check_value(info: BundleInfo, value: Value, wanted: tuple[int | None, ...]) -> None:
    """Compare type and fixed axes; an axis that is None or symbolic on either side fits."""
    fits = len(value.shape) == len(wanted) and all(
        want is None or not isinstance(got, int) or got == want for got, want in zip(value.shape, wanted, strict=False)
    )
    if value.type != "tensor(float)" or not fits:
        shape = [axis if axis is not None else "any" for axis in wanted]
        raise HypernetworkError(
            f"hypernetwork `{info.path}`: `{value.name}` must be tensor(float) {shape}, got {value.type} {value.shape}",
            UNREADABLE_HINT,
        )
