"""Muon with its Newton-Schulz iterations in a number format that the device multiplies fast.

PyTorch's iterates in bfloat16. Processors without such instructions multiply that a hundred times slower than
float32, and an update of 2 million weights then took three quarters of a training step (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from localhyper.export.speed import fast_dtype


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """A matrix with its singular values brought near to 1, in its own number format.

    The quintic iteration of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): singular values end
    between 0.7 and 1.2, not at 1, in exchange for few steps.

    Args:
        matrix: [rows, columns].
        coefficients: a, b, c of x -> a x + b x³ + c x⁵.
        steps: Iterations.
        eps: Least norm that is divided by.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the smaller of the two Gram matrices
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, state and groups alike, that iterates in the format `fast_dtype` names for its device.

    Attributes:
        dtype: That format. What is bfloat16 is left to PyTorch.
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, weight_decay: float) -> None:
        """All matrices lie on one device; with more rows than columns, steps are longer by the root of the ratio."""
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="original")
        self.dtype = fast_dtype(params[0].device.type)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; `closure`, if given, computes loss and gradients anew."""
        if self.dtype is torch.bfloat16:
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._descend(matrix, matrix.grad, group)
        return loss

    def _descend(self, matrix: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[matrix], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = grad.lerp(buffer, momentum) if group["nesterov"] else buffer
        update = orthogonalized(update.to(self.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = matrix.shape
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
