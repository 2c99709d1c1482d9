"""Factors to begin with: which a bundle may hold, and that learning begins with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localhyper.engine import FloatArray
from localhyper.errors import HypernetworkError
from localhyper.example_descent import Descent, DescentSettings, Shown
from localhyper.hypernet import OnnxHypernetwork
from localhyper.initial_factors import InitialFactors, make_initial
from localhyper.upper_blocks import UpperBlocks
from localhyper.upper_weights import read_upper
from tests.tiny_gguf import TinySpec, reference_forward, write_tiny_gguf
from tests.tiny_onnx import TinyBundle, write

SPEC = TinySpec(blocks=3)
WIDTHS = {"attn_q": (SPEC.hidden, SPEC.hidden), "ffn_down": (SPEC.ffn, SPEC.hidden)}


def arrays(count: int = 2, rank: int = 3) -> dict[str, FloatArray]:
    """As a bundle holds them, of the last `count` blocks."""
    random, found = np.random.default_rng(5), {}
    for module, (inputs, outputs) in WIDTHS.items():
        found[f"initial_a.{module}"] = random.normal(size=(count, rank, inputs)).astype(np.float32)
        found[f"initial_b.{module}"] = 0.02 * random.normal(size=(count, outputs, rank)).astype(np.float32)
    return found


def descent(folder: Path, initial: InitialFactors | None) -> Descent:
    settings = DescentSettings(steps=2).fitting(initial, SPEC.blocks)
    upper = UpperBlocks(read_upper(write_tiny_gguf(folder / "t.gguf", SPEC), settings.start(SPEC.blocks)))
    ids = np.arange(40, 52).astype(np.int32)
    states = reference_forward(SPEC, ids[:-1]).taps[settings.start(SPEC.blocks)]
    return Descent(upper, [Shown(states, 8, ids[-3:])], settings, initial)


def test_learning_begins_with_them_in_their_blocks_and_modules(tmp_path: Path) -> None:
    for count, rank in ((2, 3), (1, 2)):
        initial = make_initial(arrays(count, rank), SPEC.blocks)
        begun = descent(tmp_path, initial)
        assert begun.weights().targets.keys() == initial.weights.targets.keys() == WIDTHS.keys()
        for module, target in begun.weights().targets.items():
            given = initial.weights.targets[module]
            assert target.layers == given.layers == tuple(range(SPEC.blocks - count, SPEC.blocks))
            assert np.array_equal(target.a, given.a) and np.array_equal(target.b, given.b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"initial_b.attn_q": None}, "need initial_a and initial_b"),
        ({"initial_a.attn_q": np.float32(3)}, "1 to 3 blocks"),
        ({"initial_a.attn_q": np.full((2, 3, 32), np.inf, np.float32)}, "not finite"),
        ({"initial_a.attn_q": np.ones((2, 4, 32), np.float32)}, "rank"),
    ],
)
def test_what_a_bundle_must_not_hold_is_one_clear_line(change: dict[str, Any], said: str) -> None:
    values = {name: value for name, value in (arrays() | change).items() if value is not None}
    with pytest.raises(HypernetworkError, match=None) as caught:
        make_initial({name: np.asarray(value) for name, value in values.items()}, SPEC.blocks)
    assert said in caught.value.message and "\n" not in caught.value.message


def test_modules_of_other_blocks_or_ranks_do_not_go_together() -> None:
    one, other = arrays(2, 3), arrays(1, 3)
    for name in [name for name in one if name.endswith("ffn_down")]:
        one[name] = other[name]
    with pytest.raises(HypernetworkError, match="same blocks and of one rank"):
        make_initial(one, SPEC.blocks)
    with pytest.raises(HypernetworkError, match="1 to 1 blocks"):
        make_initial(arrays(2), 1)


def test_a_task_bundle_gives_its_factors_and_a_document_bundle_must_have_none(tmp_path: Path) -> None:
    values = {"initial_a.attn_q": np.ones((2, 3, 8), np.float32), "initial_b.attn_q": np.ones((2, 8, 3), np.float32)}
    for kind, constants in (("task", values), ("task", {}), ("document", values)):
        tiny = TinyBundle(bias=False, metric=False, metadata={"kind": kind}, constants=constants)
        path = write(tmp_path / "bundle.onnx", tiny)
        if kind == "document":
            with pytest.raises(HypernetworkError, match=r"not understood \['initial_a.attn_q', 'initial_b.attn_q'\]"):
                OnnxHypernetwork.load(path, threads=1)
            continue
        found = OnnxHypernetwork.load(path, threads=1).initial()
        assert (found is None) == (not constants)
        assert found is None or (found.start, found.rank) == (2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"initial_b.attn_q": None}, "need initial_a and initial_b"),
        ({"initial_a.attn_q": np.full((2, 3, 8), np.nan, np.float32)}, "not finite"),
        ({"initial_a.attn_q": np.ones((9, 3, 8), np.float32)}, "1 to 4 blocks"),
    ],
)
def test_a_bundle_with_broken_factors_is_one_clear_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = {"initial_a.attn_q": np.ones((2, 3, 8), np.float32), "initial_b.attn_q": np.ones((2, 8, 3), np.float32)}
    constants = {name: value for name, value in (values | change).items() if value is not None}
    tiny = TinyBundle(bias=False, metric=False, metadata={"kind": "task"}, constants=constants)
    with pytest.raises(HypernetworkError) as caught:
        OnnxHypernetwork.load(write(tmp_path / "bundle.onnx", tiny), threads=1).initial()
    assert said in caught.value.message and "bundle.onnx" in caught.value.message


def test_factors_of_another_base_model_are_refused(tmp_path: Path) -> None:
    values = arrays()
    values["initial_a.ffn_down"] = np.ones((2, 3, SPEC.ffn + 1), np.float32)
    with pytest.raises(HypernetworkError, match=r"`ffn_down` in block 1 are for \[\d+, \d+\], the base model has"):
        descent(tmp_path, make_initial(values, SPEC.blocks))
    values = {name.replace("ffn_down", "ffn_sideways"): value for name, value in arrays().items()}
    with pytest.raises(HypernetworkError, match=r"`ffn_sideways` in block 1 .* there is none"):
        descent(tmp_path, make_initial(values, SPEC.blocks))
