"""Muon's steps are PyTorch's, in whatever number format they are computed."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from torch import Tensor, nn  # noqa: E402
from torch.optim import Optimizer  # noqa: E402

from localhyper.export import muon  # noqa: E402
from localhyper.export.muon import Muon, orthogonalized  # noqa: E402
from localhyper.export.schedule import Schedule  # noqa: E402
from localhyper.export.training_loop import make_optimizers  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

COEFFICIENTS, STEPS, EPSILON = (3.4445, -4.7750, 2.0315), 5, 1e-7
SHAPES = [(48, 48), (24, 96), (96, 24)]


def descend(optimizer: Optimizer, weight: nn.Parameter, steps: int, seed: int = 0) -> Tensor:
    """The weight after steps along random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return weight.detach().clone()


def same_weights(shape: tuple[int, int]) -> tuple[nn.Parameter, nn.Parameter]:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    return nn.Parameter(start.clone()), nn.Parameter(start.clone())


def torchs(weight: nn.Parameter) -> Optimizer:
    optimizer: Optimizer = torch.optim.Muon([weight], lr=0.1, weight_decay=0.2, adjust_lr_fn="original")
    return optimizer


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_in_float32_are_those_of_pytorch_up_to_bfloat16(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "fast_dtype", lambda device: torch.float32)
    mine, theirs = same_weights(shape)
    before = mine.detach().clone()
    ours = descend(Muon([mine], 0.1, 0.2), mine, 3) - before
    want = descend(torchs(theirs), theirs, 3) - before
    assert float((ours - want).norm() / want.norm()) < 0.02


def test_steps_in_bfloat16_are_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "fast_dtype", lambda device: torch.bfloat16)
    mine, theirs = same_weights((24, 40))
    assert torch.equal(descend(Muon([mine], 0.1, 0.2), mine, 3), descend(torchs(theirs), theirs, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalized(matrix, COEFFICIENTS, STEPS, EPSILON) @ right.T
    diagonal = turned.diagonal()
    assert float((turned - diagonal.diag()).abs().max()) < 1e-4
    clear = values > 0.05 * values[0]  # the least ones need more iterations
    assert float(diagonal[clear].min()) > 0.65 and float(diagonal.max()) < 1.25


def test_nothing_comes_of_no_gradient() -> None:
    assert not orthogonalized(torch.zeros(3, 5), COEFFICIENTS, STEPS, EPSILON).any()
    weight = nn.Parameter(torch.ones(3, 5))
    Muon([weight], 0.1, 0.2).step()
    assert torch.equal(weight, torch.ones(3, 5))


def test_a_checkpoint_of_pytorchs_muon_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "fast_dtype", lambda device: torch.float32)
    mine, theirs = same_weights((16, 16))
    ours, want = Muon([mine], 0.3, 0.0), torchs(theirs)
    descend(want, theirs, 2)
    ours.load_state_dict(copy.deepcopy(want.state_dict()))
    assert ours.param_groups[0]["lr"] == 0.1
    mine.data.copy_(theirs.data)
    before = mine.detach().clone()
    moved, other = descend(ours, mine, 1, 5) - before, descend(want, theirs, 1, 5) - before
    assert float((moved - other).norm() / other.norm()) < 0.02


def test_the_loss_is_computed_anew_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "fast_dtype", lambda device: torch.float32)
    weight = nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], 0.1, 0.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0 and float(weight.detach()[0, 0]) < 1


def test_training_takes_it_for_matrices() -> None:
    module = nn.Linear(8, 4)
    matrices, others = make_optimizers(module, Schedule(muon_lr=0.5, weight_decay=0.25))
    assert isinstance(matrices, Muon) and matrices.param_groups[0]["params"][0] is module.weight
    assert matrices.param_groups[0]["lr"] == 0.5 and matrices.param_groups[0]["weight_decay"] == 0.25
    assert isinstance(others, torch.optim.AdamW)
