"""What a published checkpoint may say: defaults of older files, refusals that name the setting, other modules, use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("onnx", reason="onnx is in the [train] extra")

from localhyper.base_header import BaseHeader, read_base_header  # noqa: E402
from localhyper.bundle import read_bundle  # noqa: E402
from localhyper.engine import Activations  # noqa: E402
from localhyper.errors import HypernetworkError  # noqa: E402
from localhyper.export.checkpoint_file import open_checkpoint  # noqa: E402
from localhyper.export.checkpoint_pickle import Record  # noqa: E402
from localhyper.export.import_checkpoint import find_checkpoint, name_of  # noqa: E402
from localhyper.export.perceiver import DocToLora, PerceiverConfig  # noqa: E402
from localhyper.export.published import PublishedRun, check_run_base, load_network, read_run  # noqa: E402
from localhyper.export.published_bundle import choose_dtype, final_norm, round_weights  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from tests.cli.conftest import Shell  # noqa: E402
from tests.parity.gguf_base import pairs_of_halves  # noqa: E402
from tests.published_files import reference_values, write_checkpoint  # noqa: E402
from tests.tiny_gguf import TinySpec, tiny_weights, write_tiny_gguf  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.torch]

SPEC = TinySpec(blocks=3, context=512)
CONFIG = PerceiverConfig(
    hidden=SPEC.hidden,
    taps=(0, 1, 2),
    blocks=(0, 1, 2),
    modules=("down_proj", "k_proj", "q_proj"),
    inputs=(SPEC.ffn, SPEC.hidden, SPEC.hidden),
    outputs=(SPEC.hidden, 32, 64),
    rank=2,
    latent=16,
    queries=3,
    cross_blocks=2,
    self_blocks=1,
    shared_weights=True,
)


def settings(config: PerceiverConfig = CONFIG, **encoder: object) -> dict[str, Any]:
    """The non-tensor entries of a checkpoint of these sizes."""
    aggregator = {
        "aggregator_type": "perceiver",
        "num_layers": len(config.blocks),
        "num_modules": len(config.modules),
        "num_extra_modules": 0,
        "output_size": config.latent,
        "feature_size": config.hidden,
        "lora_r": config.rank,
        "per_rank_gen": True,
        "n_latent_queries": config.queries,
        "num_blocks": config.cross_blocks,
        "num_self_attn_per_block": config.self_blocks,
        "shared_weights": config.shared_weights,
        "layer_to_layer_ctx_encoder": config.layer_to_layer,
    }
    lora = {"r": config.rank, "lora_alpha": 2 * config.rank**1.5, "target_modules": set(config.modules)}
    hyper = {
        "latent_size": config.latent,
        "per_rank_gen": True,
        "use_bias": config.use_bias,
        "per_layer_processing": config.per_layer_processing,
        "num_pre_head_layers": config.pre_head,
        "lora_config": Record("LoraConfig", dict(lora)),
        "extra_modules": None,
        "layer_indices": np.array(config.blocks, np.int64),
        "feature_sizes": tuple(
            dict(zip(config.modules, widths, strict=True)) for widths in (config.inputs, config.outputs)
        ),
        "aggregator_config": Record("AggregatorConfig", dict(aggregator)),
    }
    kind = "per_layer_activations" if config.layer_to_layer else "early_exit"
    return {
        "base_model_name_or_path": "someone/tiny",
        "hypernet_config": Record("HypernetConfig", hyper),
        "ctx_encoder_args": Record("CtxEncoderArguments", {"ctx_encoder_type": kind, **encoder}),
    }


def random_weights(config: PerceiverConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a hypernetwork, none of them zero."""
    torch.manual_seed(seed)
    net = DocToLora(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def read(path: Path) -> PublishedRun:
    with open_checkpoint(path) as checkpoint:
        return read_run(checkpoint)


def write(path: Path, values: dict[str, Any], tensors: dict[str, NDArray[np.float32]] | None = None) -> Path:
    return write_checkpoint(path, tensors or {}, values)


def refusal(path: Path, act: Callable[[Path], object] = read) -> str:
    with pytest.raises(HypernetworkError) as caught:
        act(path)
    message = caught.value.message
    assert "\n" not in message and str(path) in message and caught.value.hint
    return message


def test_sizes_are_read_from_the_settings(tmp_path: Path) -> None:
    run = read(write(tmp_path / "x.bin", settings()))
    assert run.config == CONFIG and run.encoder == "per_layer_activations" and not run.quantized_encoder
    assert run.scaling == pytest.approx(2 * 2**1.5) and run.base_name == "someone/tiny"


def test_fields_that_older_checkpoints_lack_have_their_defaults(tmp_path: Path) -> None:
    values = reference_values("qwen3_niah")
    for key in ("num_pre_head_layers", "use_per_rank_bias", "use_bias"):
        del values["hypernet_config"].fields[key]
    values["ctx_encoder_args"].fields.clear()
    values["ctx_encoder_args"].fields["layer_idx"] = 2
    run = read(write(tmp_path / "x.bin", values))
    assert run.config.pre_head == 4 and run.config.use_bias
    assert run.encoder == "early_exit" and run.config.taps == (2,) and run.config.last_tap_normed


def test_an_encoder_of_embeddings_is_not_normed(tmp_path: Path) -> None:
    config = PerceiverConfig(**{**CONFIG.as_dict(), "taps": (0,), "layer_to_layer": False})  # type: ignore[arg-type]
    run = read(write(tmp_path / "x.bin", settings(config, ctx_encoder_type="embed_only")))
    assert run.config.taps == (0,) and not run.config.last_tap_normed


HYPER = ("hypernet_config",)
LORA, AGGREGATOR = (*HYPER, "lora_config"), (*HYPER, "aggregator_config")
ENCODER = ("ctx_encoder_args",)
WRONG: list[tuple[tuple[str, ...], str, object, str]] = [
    (HYPER, "latent_size", 0, "latent_size"),
    (HYPER, "latent_size", True, "latent_size"),
    (HYPER, "latent_size", 10**9, "latent_size"),
    (HYPER, "latent_size", 8, "output_size"),
    (HYPER, "extra_modules", ["embed"], "extra_modules"),
    (HYPER, "per_rank_gen", False, "per_rank_gen"),
    (HYPER, "num_pre_head_layers", 1000, "num_pre_head_layers"),
    (HYPER, "per_layer_processing", "yes", "per_layer_processing"),
    (HYPER, "layer_indices", [0, 1, 2], "layer_indices"),
    (HYPER, "layer_indices", np.array([2, 1, 0], np.int64), "layer_indices"),
    (HYPER, "layer_indices", np.array([0, 1], np.int64), "num_layers"),
    (HYPER, "feature_sizes", ({}, {}), "feature_sizes.down_proj"),
    (HYPER, "feature_sizes", None, "feature_sizes"),
    (HYPER, "lora_config", None, "lora_config"),
    (LORA, "r", 3, "lora_r"),
    (LORA, "r", 10**6, "lora_config.r"),
    (LORA, "lora_alpha", float("nan"), "lora_alpha"),
    (LORA, "target_modules", frozenset({"lm_head"}), "target_modules"),
    (LORA, "target_modules", "all-linear", "target_modules"),
    (LORA, "target_modules", [], "target_modules"),
    (AGGREGATOR, "aggregator_type", "pooler", "aggregator_type"),
    (AGGREGATOR, "num_modules", 2, "num_modules"),
    (AGGREGATOR, "num_extra_modules", 1, "num_extra_modules"),
    (AGGREGATOR, "num_blocks", 10**6, "num_blocks"),
    (AGGREGATOR, "n_latent_queries", None, "n_latent_queries"),
    (AGGREGATOR, "layer_to_layer_ctx_encoder", False, "layer_to_layer_ctx_encoder"),
    (ENCODER, "ctx_encoder_type", "vision", "ctx_encoder_type"),
    (ENCODER, "ctx_encoder_model_name_or_path", "google/gemma-3-1b-it", "a second model"),
    (ENCODER, "ctx_encoder_last_layer", 2, "ctx_encoder_last_layer"),
    ((), "base_model_name_or_path", None, "base_model_name_or_path"),
    ((), "ctx_encoder_args", {}, "ctx_encoder_args"),
]


@pytest.mark.parametrize(("where", "key", "value", "named"), WRONG, ids=[f"{row[1]}-{row[3]}" for row in WRONG])
def test_a_setting_that_does_not_fit_is_named(
    tmp_path: Path, where: tuple[str, ...], key: str, value: object, named: str
) -> None:
    values = settings()
    place: Any = values
    for step in where:
        place = (place if isinstance(place, dict) else place.fields)[step]
    (place if isinstance(place, dict) else place.fields)[key] = value
    assert named in refusal(write(tmp_path / "x.bin", values))


def test_a_second_model_of_the_same_name_as_the_base_is_the_base(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.bin", settings(ctx_encoder_model_name_or_path="someone/tiny"))).config == CONFIG


def test_tensors_must_be_exactly_those_that_the_settings_say(tmp_path: Path, base: BaseHeader) -> None:
    good = random_weights(CONFIG)

    def load(path: Path) -> object:
        with open_checkpoint(path) as checkpoint:
            return load_network(checkpoint, read_run(checkpoint), base)

    def with_tensors(**changes: NDArray[np.float32] | None) -> Path:
        tensors = {name: value for name, value in {**good, **changes}.items() if value is not None}
        return write(tmp_path / "x.bin", settings(), tensors)

    assert "lacks tensors: `head.weight`" in refusal(with_tensors(**{"head.weight": None}), load)
    assert "unexpected tensors: `extra`" in refusal(with_tensors(extra=np.ones(3, np.float32)), load)
    wrong = {"head.weight": good["head.weight"][:, :, :, :-1]}
    assert "shape [3, 3, 16, 159], wanted [3, 3, 16, 160]" in refusal(with_tensors(**wrong), load)
    bad = good["head.weight"].copy()
    bad[0, 0, 0, 0] = np.nan
    assert "not finite" in refusal(with_tensors(**{"head.weight": bad}), load)
    whole = {name: np.zeros(array.shape, np.int64) for name, array in good.items() if name == "head.weight"}
    assert "not finite" in refusal(with_tensors(**whole), load)  # type: ignore[arg-type]
    compiled = {f"_orig_mod.{name}": value for name, value in good.items()}
    assert isinstance(load(write(tmp_path / "c.bin", settings(), compiled)), DocToLora)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseHeader:
    """A llama with three blocks: its query and key rows lie in pairs."""
    return read_base_header(write_tiny_gguf(tmp_path_factory.mktemp("base") / "tiny.gguf", SPEC))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (TinySpec(blocks=4), "number of blocks is 3, `tiny-llama` has 4"),
        (TinySpec(blocks=2), "number of blocks is 3"),
        (TinySpec(blocks=3, hidden=32), "hidden size is 64"),
        (TinySpec(blocks=3, ffn=128), "shape of `down_proj` is [96, 64], `tiny-llama` has [128, 64]"),
        (TinySpec(blocks=3, heads_kv=1), "shape of `k_proj`"),
    ],
)
def test_a_base_of_other_sizes_is_refused(tmp_path: Path, spec: TinySpec, named: str) -> None:
    run = read(write(tmp_path / "x.bin", settings()))
    with pytest.raises(HypernetworkError) as caught:
        check_run_base(run, read_base_header(write_tiny_gguf(tmp_path / "other.gguf", spec)))
    assert named in caught.value.message and "someone/tiny" in caught.value.message


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3"])
def test_the_final_norm_is_that_of_the_base_models_file(tmp_path: Path, architecture: str) -> None:
    spec = TinySpec(architecture=architecture)
    norm = final_norm(read_base_header(write_tiny_gguf(tmp_path / "b.gguf", spec)))
    assert norm.epsilon == pytest.approx(1e-5)
    np.testing.assert_array_equal(norm.weight.numpy(), tiny_weights(spec)["output_norm.weight"])


def test_half_precision_where_single_does_not_fit() -> None:
    class Huge:
        def parameters(self) -> list[Any]:
            return [torch.empty(int(self.size), device="meta")]

        size = 3e8

    net: Any = Huge()
    assert choose_dtype(net, "auto") == choose_dtype(net, "f32") == "f32"
    net.size = 6e8
    assert choose_dtype(net, "auto") == "f16"
    with pytest.raises(HypernetworkError, match="as f32"):
        choose_dtype(net, "f32")
    net.size = 1.2e9
    with pytest.raises(HypernetworkError, match="as f16"):
        choose_dtype(net, "auto")


def test_weights_beyond_half_precision_are_refused() -> None:
    net = DocToLora(CONFIG)
    with torch.no_grad():
        net.head.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(HypernetworkError, match=r"head\.weight"):
        round_weights(net)


def test_the_newest_checkpoint_of_a_run_is_taken(tmp_path: Path) -> None:
    run = tmp_path / "Gemma 2b (D2L)"
    with pytest.raises(HypernetworkError, match="holds no published checkpoint"):
        find_checkpoint(tmp_path)
    for step in (500, 20000, 9999):
        (run / f"checkpoint-{step}").mkdir(parents=True)
        (run / f"checkpoint-{step}" / "pytorch_model.bin").touch()
    (run / "checkpoint-30000").mkdir()  # stopped while it was written
    want = run / "checkpoint-20000" / "pytorch_model.bin"
    assert find_checkpoint(run) == find_checkpoint(want.parent) == find_checkpoint(want) == want
    assert name_of(want) == "gemma-2b-d2l"


@pytest.fixture
def imported(tmp_path: Path, base: BaseHeader) -> tuple[Shell, Path]:
    """A shell whose home has an imported hypernetwork for the tiny base, called by its run's name."""
    pytest.importorskip("onnxscript", reason="onnxscript is in the [train] extra")
    run = tmp_path / "my_run"
    write(run / "checkpoint-7" / "pytorch_model.bin", settings(), random_weights(CONFIG))
    shell = Shell(tmp_path / "home", base.info.path, tmp_path / "unused.onnx")
    done = shell.run("hypernet", "import", run, "--base", base.info.path, "--chunk-tokens", "64", "--licence", "MIT")
    assert done.returncode == 0, done.stderr
    return shell, Path(done.stdout.strip())


@pytest.mark.slow
def test_rows_of_queries_and_keys_come_in_the_order_of_the_base(imported: tuple[Shell, Path], base: BaseHeader) -> None:
    shell, path = imported
    assert path == shell.home / "data" / "hypernetworks" / "my_run.onnx"
    bundle, net = OnnxHypernetwork.load(path), DocToLora(CONFIG).eval()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in random_weights(CONFIG).items()})
    taps = np.random.default_rng(0).standard_normal((3, 21, SPEC.hidden)).astype(np.float32)
    norm = tiny_weights(SPEC)["output_norm.weight"]
    features = taps.copy()
    features[-1] *= norm / np.sqrt(np.mean(taps[-1] ** 2, axis=-1, keepdims=True) + 1e-5)
    with torch.no_grad():
        want = net(torch.from_numpy(features)[None], torch.ones(1, 21))
    made, bias = bundle.generate(Activations(taps, np.empty((0, 21, 0), np.float32))), bundle.bias()
    assert bias is not None and made.targets.keys() == {"ffn_down", "attn_k", "attn_q"}
    scaling = 2 * CONFIG.rank**1.5
    orders = {"ffn_down": np.arange(64), "attn_k": pairs_of_halves(32, 16), "attn_q": pairs_of_halves(64, 16)}
    for module, target in (("down_proj", "ffn_down"), ("k_proj", "attn_k"), ("q_proj", "attn_q")):
        for a, b, lora in (
            (want[module].a[0], want[module].b[0], made.targets[target]),
            (net.bias_A[module].detach(), net.bias_B[module].detach(), bias.targets[target]),
        ):
            np.testing.assert_allclose(lora.a, a.numpy(), atol=5e-6)
            rows = b.numpy().transpose(0, 2, 1)[:, orders[target]] * scaling
            np.testing.assert_allclose(lora.b, rows, atol=2e-5)


@pytest.mark.slow
@pytest.mark.native
def test_an_imported_hypernetwork_is_found_shown_and_used(imported: tuple[Shell, Path], tmp_path: Path) -> None:
    shell, path = imported
    shown = shell.run("hypernet", "show", "my_run")
    assert shown.returncode == 0 and "someone/tiny" in shown.stdout and "taps           0 to 2" in shown.stdout
    facts = json.loads(shell.run("hypernet", "show", path, "--json").stdout)
    assert facts["licence"] == "MIT" and facts["chunk_tokens"] == 64 and facts["reads_prefix"] is True
    assert facts["prefix"].endswith("<|im_start|>user\n") and facts["suffix"].startswith("<|im_end|>\n")
    assert facts["card"]["source"]["file"] == "my_run/checkpoint-7/pytorch_model.bin"
    assert "my_run" in shell.run("models", "list").stdout
    document = tmp_path / "lease.txt"
    document.write_text("The notice period is three months. The rent is 812 a month. The cellar is shared.\n" * 6)
    done = shell.run("attach", document, "--base", shell.base, "--hypernet", "my_run", "--name", "lease")
    assert done.returncode == 0, done.stderr
    rows = json.loads(shell.run("adapters", "show", "lease", "--json").stdout)
    assert rows["hypernet_name"] == "my_run" and rows["chunks"] > 1 and rows["rank"] > 0
    again = shell.run("hypernet", "import", tmp_path / "my_run", "--base", shell.base)
    assert again.returncode == 5 and "--force" in again.stderr
    assert read_bundle(path).card["note"] == "imported from a Doc-to-LoRA checkpoint"


@pytest.mark.slow
def test_a_fetched_checkpoint_is_imported_by_its_name(tmp_path: Path, base: BaseHeader) -> None:
    shell = Shell(tmp_path / "home", base.info.path, tmp_path / "unused.onnx")
    done = shell.run("hypernet", "import", "doc-to-lora-gemma-demo", "--base", shell.base)
    assert done.returncode == 4 and "models pull doc-to-lora-gemma-demo" in done.stderr
    folder = shell.home / "data" / "models" / "doc-to-lora-gemma-demo" / "gemma_demo" / "checkpoint-80000"
    write(folder / "pytorch_model.bin", settings(), random_weights(CONFIG))
    done = shell.run("hypernet", "import", "doc-to-lora-gemma-demo", "--base", shell.base)
    assert done.returncode == 0, done.stderr
    info = read_bundle(Path(done.stdout.strip()))
    assert info.name == "doc-to-lora-gemma-demo" and info.licence.startswith("not stated")
    assert info.path == shell.home / "data" / "hypernetworks" / "doc-to-lora-gemma-demo.onnx"


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path: Path, base: BaseHeader) -> None:
    shell = Shell(tmp_path / "home", base.info.path, tmp_path / "unused.onnx")
    path = write(tmp_path / "run" / "checkpoint-1" / "pytorch_model.bin", settings(), {"w": np.ones(3, np.float32)})
    done = shell.run("hypernet", "import", path, "--base", shell.base)
    assert done.returncode == 5 and "lacks tensors" in done.stderr and "Traceback" not in done.stderr
    assert not list((shell.home / "data" / "hypernetworks").iterdir())
    done = shell.run("hypernet", "import", path)
    assert done.returncode == 2 and "someone/tiny" in done.stderr and "--base" in done.stderr
    assert shell.run("hypernet", "show", "nothing").returncode == 5
    assert shell.run("hypernet", "import", tmp_path / "none").returncode == 5
    assert shell.run("hypernet", "import", path, "--base", shell.base, "--output", tmp_path / "x.bin").returncode == 5
    assert shell.run("hypernet", "import", path, "--base", shell.base, "--name", "A b").returncode == 2
