"""The ONNX hypernetwork on a tiny real bundle, and the checks before and after it runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from localhyper.bundle import check_base, read_bundle
from localhyper.engine import Activations, BaseModelInfo, CaptureSpec
from localhyper.errors import HypernetworkError
from localhyper.hypernet import OnnxHypernetwork, available_providers
from tests.tiny_onnx import FINGERPRINT, TinyBundle, bias_arrays, build, describe, write


def base(**changes: object) -> BaseModelInfo:
    """A base model that fits the tiny bundle."""
    info = BaseModelInfo("tiny-base", Path("x.gguf"), "llama", 4, 8, 12, 2, 2, 128, 300, "F32", 1, FINGERPRINT)
    return replace(info, **changes)  # type: ignore[arg-type]


def activations(tokens: int, seed: int = 0) -> Activations:
    """Random activations of the tiny bundle's shapes."""
    rng = np.random.default_rng(seed)
    return Activations(
        rng.standard_normal((2, tokens, 8)).astype(np.float32), rng.standard_normal((2, tokens, 12)).astype(np.float32)
    )


def test_the_description_is_read_without_onnxruntime(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx", TinyBundle(prefix="<|im_start|>", suffix="é\n"))
    info = read_bundle(path)
    assert info.name == "tiny"
    assert info.capture == CaptureSpec((0, 2), (1, 3))
    assert dict(info.targets) == {"ffn_down": (1, 3)}
    assert (info.prefix, info.suffix, info.chunk_tokens, info.rank) == ("<|im_start|>", "é\n", 16, 0)
    assert info.card == {"note": "random weights for tests"}
    code = "import sys; from localhyper.bundle import read_bundle; from pathlib import Path\n"
    code += "read_bundle(Path(sys.argv[1])); assert not {'onnxruntime', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, path], check=True)


def test_generate_gives_the_graphs_numbers(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx"), threads=1, expected_base=base())
    turn = next(
        onnx.numpy_helper.to_array(tensor) for tensor in build(TinyBundle()).graph.initializer if tensor.name == "turn"
    )
    for tokens in (1, 5, 16):
        given = activations(tokens, tokens)
        target = network.generate(given).targets["ffn_down"]
        assert (target.layers, target.rank) == ((1, 3), tokens)
        np.testing.assert_array_equal(target.a, given.ffn)
        np.testing.assert_allclose(target.b, turn @ given.hidden[1].T, atol=1e-5)
    assert network.providers == ("CPUExecutionProvider",)


def test_bias_and_metrics_come_from_constant_outputs(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx"))
    bias = network.bias()
    assert bias is not None
    a, b = bias_arrays(TinyBundle())
    np.testing.assert_array_equal(bias.targets["ffn_down"].a, a)
    np.testing.assert_array_equal(bias.targets["ffn_down"].b, b)
    assert network.metrics()["ffn_down"].excess.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    plain = OnnxHypernetwork.load(write(tmp_path / "plain.onnx", TinyBundle(bias=False, metric=False)))
    assert plain.bias() is None
    assert plain.metrics() == {}


def test_an_unknown_provider_falls_back_to_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx"), providers=["NoSuchExecutionProvider"])
    assert network.providers == ("CPUExecutionProvider",)
    assert "NoSuchExecutionProvider" in caplog.text
    assert "CPUExecutionProvider" in available_providers()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "cd" * 32}, f"its fingerprint is {FINGERPRINT}, `tiny-base` has {'cd' * 32}"),
        ({"architecture": "qwen2"}, "its architecture is llama, `tiny-base` has qwen2"),
        ({"block_count": 5}, "its blocks is 4, `tiny-base` has 5"),
        ({"hidden_size": 9}, "hidden size"),
    ],
)
def test_another_base_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write(tmp_path / "tiny.onnx")
    check_base(read_bundle(path), base())
    with pytest.raises(HypernetworkError) as caught:
        OnnxHypernetwork.load(path, expected_base=base(**changes))
    assert message in caught.value.message
    assert "--hypernet" in caught.value.hint


def test_activations_of_another_shape_are_refused(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx"))
    good = activations(3)
    with pytest.raises(HypernetworkError, match="1 to 16 tokens, got 17"):
        network.generate(activations(17))
    with pytest.raises(HypernetworkError, match=r"`ffn` must be float32 \[2, 3, 12\]"):
        network.generate(Activations(good.hidden, good.ffn[:, :2]))
    with pytest.raises(HypernetworkError, match="float64"):
        network.generate(Activations(good.hidden.astype(np.float64), good.ffn))


def test_output_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    network = OnnxHypernetwork.load(write(tmp_path / "tiny.onnx"))
    given = activations(3)
    given.ffn[0, 0, 0] = np.inf
    with pytest.raises(HypernetworkError, match="not finite"):
        network.generate(given)


def test_a_graph_other_than_described_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"taps": [0, 1, 2]}, "must be tensor"),
        ({"ffn_blocks": []}, "has inputs"),
        ({"targets": {"ffn_down": [1]}}, "must be tensor"),
        ({"targets": {"attn_v": [1, 3]}}, "outputs missing"),
        ({"base": {**describe(TinyBundle())["base"], "hidden_size": 9}}, "must be tensor"),  # type: ignore[dict-item]
    ]
    for number, (metadata, message) in enumerate(cases):
        path = write(tmp_path / f"{number}.onnx", TinyBundle(metadata=metadata))
        with pytest.raises(HypernetworkError, match=message):
            OnnxHypernetwork.load(path)
