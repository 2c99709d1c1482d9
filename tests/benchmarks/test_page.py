"""The page says what was measured: ratios worked out by hand, and a warning where the machine was busy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.bundle import BundleInfo
from localhyper.engine import CaptureSpec
from tests.benchmarks.figures import Comparison, Figures, SizeRow, Timing
from tests.benchmarks.machine import Machine, this_machine
from tests.benchmarks.page import page
from tests.fakes import fake_info

ATTACH = Comparison("attach", "attach", "prefill", "s", (3.0, 2.0, 9.0), (2.0, 2.0, 3.0), "≤ 1.5")
FIGURES = Figures(
    comparisons=(ATTACH,),
    timings=(Timing("load", "ms", (1.0, 5.0, 2.0), "< 10 ms"),),
    sizes=(SizeRow(1024, 4, 2_250_000, 64, 1_620_000, 0.9701),),
    stages={1024: {"encode": 1.25, "merge": 0.5}},
    notes=("torch was skipped",),
)
MACHINE = Machine("Quick 3000", 8, 16, 31.6, "Linux x86_64", 0.2, {"numpy": "2.0"})


def written(machine: Machine = MACHINE) -> str:
    bundle = BundleInfo(
        path=Path("b.onnx"), sha256="5" * 64, name="scripted", kind="document", base_architecture="llama",
        base_block_count=4, base_hidden_size=16, base_fingerprint="f" * 64, capture=CaptureSpec((0,)),
        targets={"ffn_down": (0,)}, rank=1, chunk_tokens=256, prefix="", suffix="", licence="", card={},
    )  # fmt: skip
    return page(FIGURES, machine, fake_info(), bundle, 3, "make bench", "2030-01-02")


def test_a_ratio_is_median_over_median_and_its_spread_is_by_round() -> None:
    assert ATTACH.ratio == pytest.approx(1.5)
    assert ATTACH.spread == pytest.approx((1.0, 3.0))


def test_the_page_holds_every_figure_the_machine_and_the_command() -> None:
    text = written()
    for part in (
        "| attach | **1.50** [1.00, 3.00] | attach 3 s | prefill 2 s | ≤ 1.5 |",
        "| load | **2 ms** | 1 to 5 ms | < 10 ms |",
        "| 1024 | 4 | 2.25 MB | 64 | 1.62 MB | 0.970 |",
        "| 1024 | 1.250 s | 0.500 s |",
        "Note: torch was skipped.",
        "`make bench` on 2030-01-02",
        "Quick 3000; cores: 8 physical, 16 logical; 32 GiB",
        "numpy 2.0",
        "scripted (555555555555)",
    ):
        assert part in text, part


def test_the_page_warns_where_other_work_was_running() -> None:
    assert "other work was running" not in written()
    assert "other work was running" in written(replace(MACHINE, load=5.0))


def test_this_machine_can_be_described() -> None:
    machine = this_machine()
    assert machine.processor and machine.cores >= 1 and machine.memory_gib > 0
    assert "numpy" in machine.versions and "Python" in machine.versions
