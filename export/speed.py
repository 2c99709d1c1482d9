"""How fast a training step is beside what the device can do: floating-point operations and the measured matmul peak."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAK_SECONDS = 0.5
PEAK_SHAPE = (2048, 1536, 1536)


class Flops:
    """Operations counted so far; 0 where counting is off."""

    def __init__(self, counter: FlopCounterMode | None) -> None:
        self._counter = counter

    def total(self) -> int:
        """Floating-point operations of matrix products and attention, forward and backward."""
        return int(self._counter.get_total_flops()) if self._counter is not None else 0


@contextlib.contextmanager
def count_flops(*, enabled: bool) -> Iterator[Flops]:
    """Count the operations of what runs inside; costs some time, so not for every step."""
    if not enabled:
        yield Flops(None)
        return
    with FlopCounterMode(display=False) as counter:
        yield Flops(counter)


def fast_dtype(device: str) -> torch.dtype:
    """The lowest precision of the base model in which a device multiplies fast: bfloat16 or float32.

    A CPU without instructions for bfloat16 emulates it, some seventy times slower than float32.
    """
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product of the base model's size, measured for half a second."""
    rows, inner, columns = PEAK_SHAPE
    a, b = torch.randn(rows, inner, device=device).to(dtype), torch.randn(inner, columns, device=device).to(dtype)
    for _ in range(3):
        torch.matmul(a, b)
    _wait(device)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < PEAK_SECONDS:
        torch.matmul(a, b)
        count += 1
        _wait(device)
    return 2.0 * rows * inner * columns * count / (time.monotonic() - began)
