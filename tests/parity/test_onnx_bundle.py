"""torch = ONNX for the association hypernetwork at lengths the export never saw; what the bundle says of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
onnx = pytest.importorskip("onnx", reason="onnx is in the [train] extra")

from localhyper.engine import Activations, BaseModelInfo  # noqa: E402
from localhyper.errors import HypernetworkError  # noqa: E402
from localhyper.export import bundle_checkpoint  # noqa: E402
from localhyper.export.bundle_weights import read_bundle_weights  # noqa: E402
from localhyper.export.given_weights import read_given, take_given  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.metric import LowRankMoment, low_rank  # noqa: E402
from localhyper.export.onnx_bundle import BundleGraph, check_parity, rounded, write_bundle  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork, read_bundle  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.torch]

CONFIG = AssociationConfig(
    hidden=24,
    ffn=40,
    taps=(0, 2),
    blocks=(1, 3),
    gains=(0.5, 8.0),
    metric_rank=8,
    width=16,
    heads=2,
    slots=3,
    max_tokens=256,
)
BASE = BaseModelInfo("tiny", Path("tiny.gguf"), "llama", 4, 24, 40, 4, 2, 512, 300, "F32", 1, "0" * 64)


def make_moment() -> LowRankMoment:
    torch.manual_seed(1)
    sample = torch.randn(len(CONFIG.blocks), 400, CONFIG.ffn, dtype=torch.float64) * torch.linspace(0.1, 4, CONFIG.ffn)
    return low_rank(sample.transpose(1, 2) @ sample / 400, CONFIG.metric_rank)


@pytest.fixture(scope="module")
def trained() -> AssociationHypernetwork:
    """A hypernetwork whose zero-initialised parts are random, so that every path carries a signal."""
    torch.manual_seed(0)
    net = AssociationHypernetwork(CONFIG, make_moment())
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return net


@pytest.fixture(scope="module")
def bundle(trained: AssociationHypernetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("bundle") / "tiny.onnx"
    write_bundle(trained, BASE, path, name="tiny", prefix="<|im_start|>user\n", card={"steps": 1})
    return path


@pytest.mark.parametrize("length", [2, 61, 256])
def test_torch_and_onnx_agree_at_unseen_lengths(trained: AssociationHypernetwork, bundle: Path, length: int) -> None:
    parity = check_parity(BundleGraph(rounded(trained)), bundle, (length,))
    assert parity.max_difference <= 1e-4


def test_rounding_to_float16_changes_little(trained: AssociationHypernetwork, bundle: Path) -> None:
    hidden, ffn = torch.randn(2, 50, 24), torch.randn(2, 50, 40)
    with torch.no_grad():
        a, b, *_ = BundleGraph(trained.eval())(hidden, ffn, torch.ones(1))
    made = OnnxHypernetwork.load(bundle).generate(Activations(hidden.numpy(), ffn.numpy())).targets["ffn_down"]
    assert np.abs(made.b - b.numpy()).max() <= 5e-3 * np.abs(b.numpy()).max()
    assert np.abs(made.a - a.numpy()).max() <= 5e-3 * np.abs(a.numpy()).max()


def test_bundle_describes_itself(bundle: Path) -> None:
    info = read_bundle(bundle)
    assert (info.name, info.kind, info.capture.taps, info.capture.ffn_blocks) == ("tiny", "document", (0, 2), (1, 3))
    assert info.targets == {"ffn_down": (1, 3)} and info.chunk_tokens == 256 and info.card == {"steps": 1}
    net = OnnxHypernetwork.load(bundle)
    bias, metric = net.bias(), net.metrics()["ffn_down"]
    assert bias is not None and bias.targets["ffn_down"].a.shape == (2, CONFIG.bias_rank, 40)
    assert metric.basis.shape == (2, 40, 8) and (metric.excess >= 0).all()
    assert info.whitening == CONFIG.whitening > 0 and metric.floor is not None and (metric.floor > 0).all()


def test_bundle_holds_no_trace_of_the_machine_it_was_made_on(bundle: Path) -> None:
    data = bundle.read_bytes()
    assert str(Path.cwd()).encode() not in data and b"site-packages" not in data


def test_padding_changes_nothing(trained: AssociationHypernetwork) -> None:
    hidden, ffn = torch.randn(1, 2, 30, 24), torch.randn(1, 2, 30, 40)
    mask = torch.zeros(1, 30)
    mask[:, :20] = 1
    with torch.no_grad():
        a, b = trained(hidden, ffn, mask, torch.ones(1))
        short_a, short_b = trained(hidden[:, :, :20], ffn[:, :, :20], torch.ones(1, 20), torch.ones(1))
    update, short = b @ a, short_b @ short_a
    assert torch.allclose(update, short, atol=1e-5 * float(short.abs().max()))


def test_a_key_answers_one_on_its_own_context(trained: AssociationHypernetwork) -> None:
    ffn = torch.randn(1, 2, 12, 40)
    response = (trained.token_keys(ffn) * ffn).sum(-1)
    assert torch.allclose(response, torch.ones_like(response), atol=1e-4)


def test_whitening_is_the_inverse_second_moment() -> None:
    torch.manual_seed(3)
    sample = torch.randn(2, 400, 40, dtype=torch.float64) * torch.linspace(0.1, 4, 40)
    moment = sample.transpose(1, 2) @ sample / 400
    net = AssociationHypernetwork(dataclasses.replace(CONFIG, metric_rank=39), low_rank(moment, 39, 0.0))
    m = torch.randn(1, 2, 5, 40)
    want = torch.linalg.solve(moment, m[0].double().transpose(1, 2)).transpose(1, 2)
    cosine = torch.cosine_similarity(net.whiten(m)[0].double(), want, dim=-1)
    assert cosine.min() > 0.999


def test_the_bundle_gives_the_moment_that_keys_are_whitened_by(trained: AssociationHypernetwork, bundle: Path) -> None:
    metric = OnnxHypernetwork.load(bundle).metrics()["ffn_down"]
    want = rounded(trained).moment()
    for layer in range(2):
        np.testing.assert_allclose(metric.moment(layer), want[layer].numpy(), rtol=1e-4, atol=1e-4 * float(want.max()))


def test_weights_beyond_float16_are_refused(trained: AssociationHypernetwork, tmp_path: Path) -> None:
    wild = AssociationHypernetwork(CONFIG, make_moment())
    wild.load_state_dict(trained.state_dict())
    with torch.no_grad():
        wild.encoder.positions[0, 0] = 1e6
    with pytest.raises(HypernetworkError):
        write_bundle(wild, BASE, tmp_path / "wild.onnx", name="wild", prefix="", card={})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_weights_come_back_out_of_a_bundle(trained: AssociationHypernetwork, bundle: Path) -> None:
    got, want = read_bundle_weights(bundle, CONFIG), rounded(trained).state_dict()
    assert got.keys() == want.keys()
    for name, values in want.items():
        torch.testing.assert_close(got[name], values, rtol=1e-6, atol=1e-7, msg=name)
    with pytest.raises(HypernetworkError, match=r"other weights|do not fit"):
        read_bundle_weights(bundle, replace(CONFIG, width=32))


@pytest.mark.slow
def test_a_bundle_becomes_a_checkpoint_to_begin_from(
    trained: AssociationHypernetwork, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in CONFIG.as_dict().items()}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[hypernetwork]\n" + "".join(f"{key} = {value}\n" for key, value in sizes.items()), "utf-8")
    out = tmp_path / "begin.pt"
    assert bundle_checkpoint.main([str(recipe), str(bundle), "--out", str(out)]) == 0
    begun = AssociationHypernetwork(CONFIG, make_moment())
    given = read_given(out, torch.device("cpu"), CONFIG)
    assert take_given(begun, out, given["hypernetwork"]) == []
    torch.testing.assert_close(begun.state_dict(), rounded(trained).state_dict(), rtol=1e-3, atol=1e-5)
    with pytest.raises(SystemExit) as stop:
        bundle_checkpoint.main([str(recipe), str(tmp_path / "no.onnx"), "--out", str(tmp_path / "no.pt")])
    assert stop.value.code not in (0, None) and "error: " in capsys.readouterr().err
    assert not (tmp_path / "no.pt").exists()
