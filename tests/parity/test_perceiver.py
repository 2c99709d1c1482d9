"""The Perceiver hypernetwork gives the reference implementation's numbers, and plugs into our training and ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from torch import Tensor, nn  # noqa: E402

from localhyper.errors import ConfigError  # noqa: E402
from localhyper.export.perceiver import (  # noqa: E402
    DocToLora,
    LatentStack,
    ModuleLora,
    Perceiver,
    PerceiverConfig,
    PerceiverHypernetwork,
    RmsNorm,
)

pytestmark = [pytest.mark.parity, pytest.mark.torch]

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 5e-6
Golden = dict[str, NDArray[np.float32]]
COMMON: dict[str, Any] = {
    "hidden": 64, "blocks": (0, 1, 2, 3), "inputs": (128,), "outputs": (64,), "rank": 4, "latent": 24, "cross_blocks": 2
}  # fmt: skip
CONFIGS = {
    "qwen3_l2l": PerceiverConfig(**COMMON, taps=(0, 1, 2, 3), queries=8),
    "qwen3_niah": PerceiverConfig(**COMMON, taps=(1,), queries=32, layer_to_layer=False),
}
SMALL: dict[str, Any] = {
    "hidden": 12, "blocks": (1, 3), "inputs": (20,), "outputs": (12,), "rank": 3, "latent": 8, "queries": 5,
    "taps": (1, 3), "cross_blocks": 2, "heads": 4, "kv_heads": 2, "head_size": 6,
}  # fmt: skip


def load_golden(name: str) -> Golden:
    with np.load(FIXTURES / f"d2l_{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def weights_of(golden: Golden) -> dict[str, Tensor]:
    return {key.removeprefix("weight/"): torch.from_numpy(v) for key, v in golden.items() if key.startswith("weight/")}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def reference(request: pytest.FixtureRequest) -> tuple[DocToLora, Golden]:
    """A hypernetwork with a published-layout state dict, and what the reference implementation made of it."""
    golden = load_golden(request.param)
    net = DocToLora(CONFIGS[request.param])
    net.load_state_dict(weights_of(golden), strict=True)
    return net.eval(), golden


def inputs_of(golden: Golden, case: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(golden[f"{case}/ctx_features"]), torch.from_numpy(golden[f"{case}/ctx_attn_mask"])


def near(got: Tensor, want: NDArray[np.float32]) -> float:
    assert tuple(got.shape) == want.shape
    return float(np.abs(got.detach().numpy() - want).max())


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Give every parameter, zero at the start or not, a value of its own."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("case", ["1chunk", "3chunks"])
def test_generated_and_combined_matrices(reference: tuple[DocToLora, Golden], case: str) -> None:
    net, golden = reference
    features, mask = inputs_of(golden, case)
    with torch.no_grad():
        generated = net(features, mask)
        combined = net.combine(generated, [len(features)])["down_proj"]
    for side in ("a", "b"):
        want = golden[f"{case}/comb_{side.upper()}"]
        assert near(getattr(combined, side), want) <= TOLERANCE
        # The reference's generated matrices are, to the bit, the rows of its combined ones before the bias.
        rows = want[0, :, : len(features) * net.config.rank].reshape(4, len(features), net.config.rank, -1)
        assert near(getattr(generated["down_proj"], side), rows.transpose(1, 0, 2, 3)) <= TOLERANCE
        assert np.abs(want).max() > 0.05, "the golden matrices must be far from zero for this to mean anything"


def test_every_step_of_the_trace(reference: tuple[DocToLora, Golden]) -> None:
    net, golden = reference
    seen: dict[str, Tensor] = {}
    perceiver = net.aggregator.perceiver

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            seen.setdefault(name, output)

        return hook

    first: Any = perceiver.encoder.layers[0]
    watched: dict[str, nn.Module] = {
        "modality_projection": perceiver.modality_projection,
        "encoder_block0_latents_normed": first.input_latents_layernorm,
        "encoder_block0_context_normed": first.input_context_layernorm,
        "encoder_block0_attn_out": first.self_attn,
        "encoder_block0_mlp_out": first.mlp,
        "encoder_block0": first,
        "encoder_block1": perceiver.encoder.layers[1],
        "encoder_out": perceiver.encoder,
        "decoder_block0": perceiver.decoder.layers[0],
        "decoder_out": perceiver.decoder,
        "lora_emb": net.aggregator,
        "prehead_out": net.layers[-1],
        "flat_loras": net.head,
    }
    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    with torch.no_grad():
        net(*inputs_of(golden, "1chunk"))
    for handle in handles:
        handle.remove()
    compared = [name for name in watched if f"trace/{name}" in golden]
    assert len(compared) >= 6
    for name in compared:
        want = golden[f"trace/{name}"]
        # Normed latents are the same for every sequence, normed context is stored flat.
        got = seen[name].flatten(0, 1)[None] if name.endswith("context_normed") else seen[name].expand(want.shape)
        assert near(got, want) <= TOLERANCE * max(1.0, float(np.abs(want).max())), name


def test_a_chunk_alone_equals_a_chunk_in_a_padded_batch(reference: tuple[DocToLora, Golden]) -> None:
    net, golden = reference
    features, mask = inputs_of(golden, "3chunks")
    tokens = int(mask[2].sum())
    assert tokens < mask.shape[1]
    with torch.no_grad():
        batch = net(features, mask)["down_proj"]
        alone = net(features[2:, ..., :tokens, :], mask[2:, :tokens])["down_proj"]
    assert near(alone.a, batch.a[2:].numpy()) <= TOLERANCE and near(alone.b, batch.b[2:].numpy()) <= TOLERANCE


@pytest.mark.parametrize("name", ["head.weight", "scaler_A.down_proj", "aggregator.perceiver.decoder.layernorm.weight"])
def test_a_state_dict_with_a_tensor_missing_is_refused(name: str) -> None:
    weights = weights_of(load_golden("qwen3_niah"))
    del weights[name]
    with pytest.raises(RuntimeError, match=name):
        DocToLora(CONFIGS["qwen3_niah"]).load_state_dict(weights, strict=True)


def two_modules() -> DocToLora:
    sizes = {"modules": ("down_proj", "up_proj"), "inputs": (20, 12), "outputs": (12, 30)}
    net = DocToLora(PerceiverConfig(**{**SMALL, **sizes}))
    randomise(net)
    return net


def test_each_module_reads_its_own_part_of_the_head() -> None:
    net = two_modules()
    assert net.head.weight.shape == (2, 2, 8, 42)
    features, mask = torch.randn(2, 2, 7, 12), torch.ones(2, 7)
    with torch.no_grad():
        embedding = net.layers[0](net.aggregator(features, mask))
        made = net(features, mask)
    for index, (name, into, out) in enumerate((("down_proj", 20, 12), ("up_proj", 12, 30))):
        assert made[name].a.shape == (2, 2, 3, into) and made[name].b.shape == (2, 2, 3, out)
        unit = embedding[1, 0, index, 2] / embedding[1, 0, index, 2].norm()
        row = unit @ net.head.weight[0, index]
        assert torch.allclose(made[name].a[1, 0, 2], row[:into] * net.scaler_A[name][0, 0, 2], atol=1e-6)
        assert torch.allclose(made[name].b[1, 0, 2], row[into : into + out] * net.scaler_B[name][0, 0, 2], atol=1e-6)


def test_documents_of_different_length_are_padded_behind_their_bias() -> None:
    net = two_modules()
    generated = {m: ModuleLora(torch.randn(4, 2, 3, i), torch.randn(4, 2, 3, i)) for m, i in (("down_proj", 20),)}
    net.bias_B["down_proj"] = nn.Parameter(torch.randn(2, 3, 20))
    lora = net.combine(generated, [1, 3])["down_proj"]
    assert lora.a.shape == (2, 2, 12, 20)
    short, long = lora.a
    assert torch.equal(short[:, :3], generated["down_proj"].a[0])
    assert torch.equal(short[:, 3:6], net.bias_A["down_proj"]) and not short[:, 6:].any()
    assert torch.equal(long[:, 6:9], generated["down_proj"].a[3]) and torch.equal(long[:, 9:], net.bias_A["down_proj"])


def test_gains_are_linear_on_chunks_and_quadratic_on_bias_and_user_scaling() -> None:
    net = two_modules()
    with torch.no_grad():
        generated = net(torch.randn(2, 2, 7, 12), torch.ones(2, 7))

        def update(**gains: Any) -> Tensor:
            lora = net.combine(generated, [2], **gains)["up_proj"]
            product: Tensor = lora.b.transpose(2, 3) @ lora.a
            return product

        bias = net.bias_B["up_proj"].transpose(1, 2) @ net.bias_A["up_proj"]
        parts = generated["up_proj"].b.transpose(2, 3) @ generated["up_proj"].a
        assert torch.allclose(update(), parts.sum(0) + bias, atol=1e-5)
        chunks = update(chunk_gains=torch.tensor([0.5, 2.0]))
        assert torch.allclose(chunks, 0.5 * parts[0] + 2 * parts[1] + bias, atol=1e-5)
        assert torch.allclose(update(bias_gain=0.5), parts.sum(0) + 0.25 * bias, atol=1e-5)
        assert torch.allclose(update(gain=3.0), 9 * parts.sum(0) + bias, atol=1e-4)


def test_without_bias_no_rows_are_added_but_their_place_is_kept() -> None:
    net = DocToLora(PerceiverConfig(**SMALL, use_bias=False))
    assert not any(key.startswith("bias_") for key in net.state_dict())
    with torch.no_grad():
        lora = net.combine(net(torch.randn(1, 2, 7, 12), torch.ones(1, 7)), [1])["down_proj"]
    assert lora.a.shape == (1, 2, 6, 20) and lora.a[:, :, :3].any() and not lora.a[:, :, 3:].any()


def test_self_attention_and_shared_weights_repeat_tensors_under_every_index() -> None:
    net = DocToLora(PerceiverConfig(**{**SMALL, "cross_blocks": 3}, self_blocks=2, shared_weights=True))
    layers = net.aggregator.perceiver.encoder.layers
    assert [layer.input_context_layernorm is not None for layer in layers] == [True, False, False] * 3
    assert layers[3] is layers[6] and layers[3] is not layers[0]
    assert layers[1] is layers[4] is layers[7] and layers[2] is layers[5] is layers[8] and layers[1] is not layers[2]
    other = DocToLora(PerceiverConfig(**{**SMALL, "cross_blocks": 3}, self_blocks=2))
    assert set(net.state_dict()) == set(other.state_dict())
    randomise(net)
    other.load_state_dict(net.state_dict(), strict=True)
    features, mask = torch.randn(1, 2, 7, 12), torch.ones(1, 7)
    assert torch.equal(net(features, mask)["down_proj"].b, other(features, mask)["down_proj"].b)


def test_mlps_shared_by_all_blocks_have_their_published_names() -> None:
    net = DocToLora(PerceiverConfig(**SMALL, per_layer_processing=False))
    names = {key for key in net.state_dict() if key.startswith("layers.0.")}
    assert names == {f"layers.0.mlp.{place}.{part}" for place in (0, 2, 5, 6) for part in ("weight", "bias")}
    assert net.state_dict()["layers.0.mlp.2.weight"].shape == (32, 8)


def test_training_starts_from_no_update() -> None:
    torch.manual_seed(0)
    net = DocToLora(PerceiverConfig(**SMALL))
    made = net(torch.randn(1, 2, 7, 12), torch.ones(1, 7))
    lora = net.combine(made, [1])["down_proj"]
    assert not lora.b.any() and lora.a.any(-1).all()
    # … and yet both the generated and the bias side learn from the first step on.
    torch.autograd.backward((lora.b.transpose(2, 3) @ lora.a).sum())
    assert net.scaler_B["down_proj"].grad.any() and net.bias_B["down_proj"].grad.any()
    assert all(bool(torch.all(m.weight == 1)) for m in net.modules() if isinstance(m, RmsNorm))


def test_wrapper_folds_the_scaling_and_norms_only_the_last_tap() -> None:
    net = PerceiverHypernetwork(PerceiverConfig(**SMALL), torch.linspace(0.5, 2, 12))
    randomise(net)
    hidden, mask = torch.randn(2, 2, 7, 12) * 5, torch.ones(2, 7)
    a, b = net(hidden, torch.empty(2, 0, 7, 20), mask, torch.ones(1))
    assert a.shape == (2, 2, 3, 20) and b.shape == (2, 2, 12, 3)
    normed = torch.nn.functional.rms_norm(hidden[:, 1:], (12,), net.final_norm, 1e-5)
    inner = net.net(torch.cat((hidden[:, :1], normed), 1), mask)
    full_a, full_b = net.with_bias(a.detach(), b.detach())
    combined = net.net.combine(inner, [1, 1])["down_proj"]
    want = (2 * 3**1.5 * combined.b.transpose(2, 3) @ combined.a).detach()
    assert torch.allclose((full_b @ full_a).detach(), want, atol=1e-5 * float(want.abs().max()))
    raw = PerceiverHypernetwork(PerceiverConfig(**SMALL, last_tap_normed=False))
    assert torch.equal(raw.features(hidden), hidden)


@pytest.mark.parametrize(
    "wrong",
    [{"taps": (1,)}, {"layer_to_layer": False}, {"modules": ("b", "a")}, {"inputs": (1, 2)}, {"heads": 3}],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PerceiverConfig(**{**SMALL, **wrong})


def test_wrapper_refuses_other_modules() -> None:
    with pytest.raises(ConfigError, match="down_proj"):
        PerceiverHypernetwork(PerceiverConfig(**{**SMALL, "modules": ("up_proj",)}))


@pytest.mark.slow
def test_onnx_agrees_at_unseen_chunks_and_tokens(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the [cpu] extra")
    pytest.importorskip("onnxscript", reason="onnxscript is in the [train] extra")
    net = PerceiverHypernetwork(PerceiverConfig(**SMALL)).eval()
    randomise(net)
    path = tmp_path / "perceiver.onnx"
    chunks, tokens = torch.export.Dim("chunks", min=1, max=64), torch.export.Dim("tokens", min=2, max=4096)
    example = (torch.randn(2, 2, 9, 12), torch.zeros(2, 0, 9, 20), torch.ones(2, 9), torch.ones(1))
    shapes: tuple[dict[int, Any], ...] = ({0: chunks, 2: tokens}, {0: chunks, 2: tokens}, {0: chunks, 1: tokens}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates
        program = torch.onnx.export(net, example, dynamo=True, dynamic_shapes=shapes, optimize=True, verbose=False)
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for count, length in ((1, 2), (3, 33)):
        mask = torch.ones(count, length)
        mask[-1, length // 2 + 1 :] = 0
        given = (torch.randn(count, 2, length, 12), torch.zeros(count, 0, length, 20), mask, torch.ones(1))
        inputs = ("hidden", "ffn", "mask", "chunks")
        arrays = {name: value.numpy() for name, value in zip(inputs, given, strict=True)}
        got = session.run(None, {name: arrays[name] for name in names})
        with torch.no_grad():
            want = net(*given)
        for mine, theirs in zip(got, want, strict=True):
            assert near(theirs, mine) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_parts_are_what_the_published_keys_name() -> None:
    perceiver = DocToLora(CONFIGS["qwen3_l2l"]).aggregator.perceiver
    assert isinstance(perceiver, Perceiver) and isinstance(perceiver.decoder, LatentStack)
    assert len(perceiver.decoder.layers) == 1 and perceiver.decoder.latents_q.shape == (4, 24)
