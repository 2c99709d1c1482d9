"""Adapters that are not alike: the sum over the union of targets and blocks is the sum of the dense updates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localhyper.errors import AdapterError
from localhyper.lora import LoraTarget, LoraWeights, even_ranks, validate
from localhyper.lora_union import combine, stack_blocks
from tests.tiny_gguf import lora_deltas, tiny_lora


def cut(weights: LoraWeights, rows: slice) -> LoraWeights:
    """Only some of the blocks."""
    return LoraWeights({n: LoraTarget(t.layers[rows], t.a[rows], t.b[rows]) for n, t in weights.targets.items()})


@settings(max_examples=20, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    scales=st.lists(st.sampled_from([1.0, -2.0, 0.5]), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_the_union_is_the_sum_of_the_dense_updates(ranks: list[int], scales: list[float], seed: int) -> None:
    modules = [("ffn_down",), ("ffn_up", "attn_q"), ("ffn_down", "attn_q"), ("attn_k",)]
    blocks = [slice(None), slice(1, None), slice(None, 1), slice(None)]
    parts = [
        cut(tiny_lora(rank=rank, seed=seed + number, modules=modules[number], size=abs(scales[number])), blocks[number])
        for number, rank in enumerate(ranks)
    ]
    wanted: dict[str, np.ndarray] = {}
    for part in parts:
        for name, delta in lora_deltas(part).items():
            wanted[name] = wanted.get(name, np.zeros_like(delta)) + delta
    total = validate(combine(parts))
    got = lora_deltas(even_ranks(total))
    assert got.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert np.allclose(got[name], delta, atol=1e-5)


def test_a_target_of_one_adapter_keeps_its_rank() -> None:
    total = combine([tiny_lora(rank=4), tiny_lora(rank=2, modules=("ffn_up",))])
    assert (total.targets["ffn_down"].rank, total.targets["ffn_up"].rank) == (4, 2)


def test_widths_must_agree() -> None:
    wide = tiny_lora().targets["ffn_down"]
    narrow = LoraTarget(wide.layers, wide.a[:, :, :5], wide.b)
    with pytest.raises(AdapterError, match=r"cannot merge `ffn_down`: widths"):
        combine([LoraWeights({"ffn_down": wide}), LoraWeights({"ffn_down": narrow})])
    with pytest.raises(AdapterError, match="different widths"):
        stack_blocks("ffn_down", {0: (wide.a[0], wide.b[0]), 1: (narrow.a[0], narrow.b[0])})
    with pytest.raises(AdapterError, match="nothing to merge"):
        combine([])


def test_one_block_of_a_huge_rank_does_not_fill_the_memory() -> None:
    def pair(rank: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((rank, 64), np.float32), np.zeros((64, rank), np.float32)

    with pytest.raises(AdapterError, match="ranks from 1 to 16384"):
        stack_blocks("ffn_down", {0: pair(1 << 14), **{block: pair(1) for block in range(1, 100)}})
    assert stack_blocks("ffn_down", {0: pair(8), **{block: pair(1) for block in range(1, 100)}}).rank == 8
