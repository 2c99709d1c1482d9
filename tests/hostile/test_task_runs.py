"""Text-to-LoRA runs from strangers or with other settings: one clear line each, and nothing is written."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("onnxscript", reason="onnxscript is in the [train] extra")
pytest.importorskip("yaml", reason="pyyaml is in the [train] extra")

from localhyper.base_header import BaseHeader, read_base_header  # noqa: E402
from localhyper.bundle import read_bundle  # noqa: E402
from localhyper.errors import HypernetworkError, LocalHyperError  # noqa: E402
from localhyper.export.checkpoint_file import open_checkpoint  # noqa: E402
from localhyper.export.import_checkpoint import main as import_checkpoint  # noqa: E402
from localhyper.export.published_task import load_task_network, read_config, read_task_run  # noqa: E402
from localhyper.export.text_to_lora import TextToLora, scaled  # noqa: E402
from localhyper.paths import get_paths  # noqa: E402
from tests.parity.gguf_base import FIXTURES, write_reference_base  # noqa: E402
from tests.published_files import write_checkpoint  # noqa: E402

pytestmark = pytest.mark.torch

SOURCE = FIXTURES / "t2l" / "mistral_sft"
Tensors = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> BaseHeader:
    """The reference's Mistral."""
    return read_base_header(write_reference_base("base_mistral", tmp_path_factory.mktemp("base") / "base.gguf"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of a reference run, free to be changed."""
    folder = tmp_path / "my_task_run"
    folder.mkdir()
    for name in ("hypermod.pt", "args.yaml", "adapter_config.json"):
        shutil.copyfile(SOURCE / name, folder / name)
    return folder


def change_args(run: Path, **values: str) -> None:
    """Replace lines of args.yaml, or add them."""
    lines = (run / "args.yaml").read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in values]
    (run / "args.yaml").write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in values.items())]) + "\n")


def change_adapter(run: Path, **values: object) -> None:
    path = run / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(run: Path, change: Callable[[Tensors], None]) -> None:
    """Write the checkpoint again with other tensors, in their order."""
    with open_checkpoint(SOURCE / "hypermod.pt") as checkpoint:
        tensors: Tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
    change(tensors)
    (run / "hypermod.pt").unlink()
    write_checkpoint(run / "hypermod.pt", tensors, {})


def load(run: Path, base: BaseHeader) -> TextToLora:
    found = read_task_run(run / "hypermod.pt")
    with open_checkpoint(found.weights) as checkpoint:
        return load_task_network(checkpoint, read_config(checkpoint, found, base), on_top=found.settings.on_top)


def refused(run: Path, base: BaseHeader) -> str:
    with pytest.raises(HypernetworkError) as caught:
        load(run, base)
    message = caught.value.message
    assert "\n" not in message and len(message) < 700 and caught.value.hint
    return message


@pytest.mark.parametrize("name", ["hypermod.pt", "args.yaml", "adapter_config.json"])
def test_a_missing_file_is_named(run: Path, mistral: BaseHeader, name: str) -> None:
    (run / name).unlink()
    assert name in refused(run, mistral)


@pytest.mark.parametrize(
    "values,wanted",
    [
        ({"training_task": "rl"}, "`training_task` must be `sft` or `recon`, got `rl`"),
        ({"training_task": "null"}, "`training_task` must be there"),
        ({"encoder_type": "vq"}, "`encoder_type` must be `linear`"),
        ({"autoreg_gen": "true"}, "`autoreg_gen` must be false"),
        ({"use_one_hot_task_emb": "true"}, "`use_one_hot_task_emb` must be false"),
        ({"training_task": "recon"}, "`pred_z_score` must be false where `factorized` is"),
        ({"shared_AB_head": "maybe"}, "`shared_AB_head` must be true or false"),
        ({"shared_AB_head": "true"}, "of a shared head"),
        ({"hypernet_latent_size": "64"}, "`hypernet_latent_size` 32, `args.yaml` says 64"),
        ({"head_in_size": "1" + "0" * 100}, "`head_in_size` must be a whole number"),
        ({"delta_w_scaling": "-1"}, "`delta_w_scaling` must be a number above 0"),
        ({"delta_w_scaling": ".nan"}, "`delta_w_scaling` must be a number above 0"),
        ({"emb_model": "[a, b]"}, "`emb_model` must be text"),
    ],
)
def test_settings_of_other_recipes_are_named(
    run: Path, mistral: BaseHeader, values: dict[str, str], wanted: str
) -> None:
    change_args(run, **values)
    assert wanted in refused(run, mistral)


@pytest.mark.parametrize(
    "values,wanted",
    [
        ({"r": 4}, "rank 4 on 64 and 64 wants 512"),
        ({"r": 0}, "`r` must be a whole number from 1"),
        ({"r": True}, "`r` must be a whole number"),
        ({"r": 10**30}, "`r` must be a whole number"),
        ({"lora_alpha": 0}, "`lora_alpha` must be a number above 0"),
        ({"lora_alpha": float("inf")}, "`lora_alpha` must be a number above 0"),
        ({"target_modules": []}, "`target_modules` must be some of"),
        ({"target_modules": "all-linear"}, "`target_modules` must be some of"),
        ({"target_modules": ["q_proj"]}, "heads for `q_proj`, `v_proj`"),
        ({"target_modules": ["q_proj", "o_proj"]}, "`adapter_config.json` names `o_proj`, `q_proj`"),
        ({"use_dora": True}, "`use_dora` must be false"),
        ({"rank_pattern": {"q_proj": 4}}, "`rank_pattern` must be empty"),
        ({"layers_to_transform": [0, 1]}, "`layers_to_transform` must be empty"),
        ({"peft_type": "IA3"}, "`peft_type` must be LORA"),
    ],
)
def test_adapters_that_the_hypernetwork_does_not_make_are_named(
    run: Path, mistral: BaseHeader, values: dict[str, object], wanted: str
) -> None:
    change_adapter(run, **values)
    assert wanted in refused(run, mistral)


def test_rslora_changes_the_scaling(run: Path) -> None:
    assert read_task_run(run / "hypermod.pt").settings.scaling == pytest.approx(16 / 8**0.5)
    change_adapter(run, use_rslora=False)
    assert read_task_run(run / "hypermod.pt").settings.scaling == 2.0


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 9)}]}}\n" for i in range(20)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB, MERGES, "a: &a [*a]\n", "[" * 200_000, "- x\n", "x\n", "", "a: b: c\n", "\x00", "1: 2\n", "? [a]\n: b\n",
        "a: !!python/object/apply:os.system ['touch canary']\n", "a: " + "1" * 500_000 + "\n",
        "a: " + ":".join(["59"] * 100_000) + "\n", "%YAML 9.9\n---\na: b\n", "{" * 5_000, "a: *nobody\n",
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)  # fmt: skip
def test_yaml_bombs_end_quickly_in_one_line(
    run: Path, mistral: BaseHeader, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    (run / "args.yaml").write_text(text, encoding="utf-8")
    started = time.monotonic()
    assert "args.yaml" in refused(run, mistral)
    assert time.monotonic() - started < 20
    assert not (run / "canary").exists()


def test_files_that_are_too_large_or_no_text_are_refused(run: Path, mistral: BaseHeader) -> None:
    (run / "args.yaml").write_bytes(b"a: b\n" * 300_000)
    assert "at most 1048576 are read" in refused(run, mistral)
    (run / "args.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(run, mistral)
    shutil.copyfile(SOURCE / "args.yaml", run / "args.yaml")
    for text, wanted in (("{", "not valid JSON"), ("[1]", "holds a list"), ("[" * 100_000, "not valid JSON")):
        (run / "adapter_config.json").write_text(text)
        assert wanted in refused(run, mistral)


@pytest.mark.parametrize(
    "change,wanted",
    [
        (lambda t: t.pop("mlp2.mlp.4.bias"), "lacks tensors: `mlp2.mlp.4.bias`"),
        (lambda t: t.pop("mlp3.4.weight"), "lacks the matrix `mlp3.4.weight`"),
        (lambda t: t.update(extra=np.ones(2, np.float32)), "has unexpected tensors: `extra`"),
        (lambda t: t.update({"mixer.1.bias": np.ones(3, np.float32)}), "`mixer.1.bias` has shape [3], wanted [128]"),
        (lambda t: t["mixer.1.bias"].fill(np.nan), "`mixer.1.bias` has values that are not finite"),
        (lambda t: t.update({"mixer.1.bias": np.ones(128, np.int64)}), "not finite float32"),
        (lambda t: t.pop("heads.v_proj.weight"), "heads for `q_proj`, `adapter_config.json` names"),
        (lambda t: t.update({"layer_type_encoder.0.weight": np.ones((3, 8), np.float32)}), "has shape [3, 8]"),
        (lambda t: t.update({"layer_depth_encoder.0.weight": np.ones((5, 8), np.float32)}), "5 blocks"),
        (lambda t: t.update({"heads.q_proj.weight": np.ones((1023, 64), np.float32)}), "with 1023 rows"),
        (lambda t: t.update({"AB_offset.A.q_proj": np.ones((4, 8, 63), np.float32)}), "`AB_offset.A.q_proj` has shape"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(
    run: Path, mistral: BaseHeader, change: Callable[[Tensors], None], wanted: str
) -> None:
    change_tensors(run, change)
    assert wanted in refused(run, mistral)


def test_missing_offsets_and_targets_are_zeros_unless_trained_on_top_of_a_lora(run: Path, mistral: BaseHeader) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(("AB_offset", "mean_recon", "std_recon"))]:
            del tensors[name]

    whole = load(run, mistral)
    change_tensors(run, drop)
    vector = scaled(torch.arange(1, 1025).float())
    for name, pair in load(run, mistral)(vector).items():
        assert torch.equal(pair.a, whole(vector)[name].a) and torch.equal(pair.b, whole(vector)[name].b)
    change_args(run, mt_lora_path="runs/mt_lora")
    assert "lacks tensors: `AB_offset.A.q_proj`" in refused(run, mistral)


def test_reconstruction_without_factors_divides_by_the_root_of_its_scaling(run: Path, mistral: BaseHeader) -> None:
    plain = load(run, mistral)
    change_args(run, training_task="recon", pred_z_score="false", delta_w_scaling="2500")
    net, vector = load(run, mistral), scaled(torch.arange(1, 1025).float())
    for name, pair in net(vector).items():
        torch.testing.assert_close(pair.a, plain.raw(vector)[name].a / 50)
        torch.testing.assert_close(pair.b, plain.raw(vector)[name].b / 50)


def test_order_of_the_heads_numbers_the_modules(run: Path, mistral: BaseHeader) -> None:
    def turn(tensors: Tensors) -> None:
        for name in ("heads.q_proj.weight", "heads.q_proj.bias"):
            tensors[name] = tensors.pop(name)  # to the end

    change_tensors(run, turn)
    assert load(run, mistral).config.modules == ("v_proj", "q_proj")


def run_import(home: Path, *arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALHYPER_HOME", str(home))
        try:
            return import_checkpoint([str(argument) for argument in arguments])
        except SystemExit as ended:
            return int(ended.code or 0)
        except LocalHyperError as error:  # what the command line turns into an exit code
            return error.exit_code


def test_the_command_writes_nothing_when_it_refuses(
    run: Path, mistral: BaseHeader, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = mistral.info.path
    assert run_import(home, run) != 0  # no base is known for `base_mistral`
    assert run_import(home, run, "--base", base, "--chunk-tokens", "5") != 0
    change_adapter(run, r=4)
    assert run_import(home, run, "--base", base) != 0
    assert not list(home.rglob("*.onnx"))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_takes_names_weights_deeper_down_and_models_that_are_not_known(
    run: Path, mistral: BaseHeader, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = f'[published.mine]\nmethod = "text-to-lora"\nbase = "gemma-2-2b-it"\nfiles = ["{run.name}/hypermod.pt"]\n'
    get_paths(home).create().models_file.write_text(f'{entry}path = "{run.parent}"\n')
    assert run_import(home, "mine", "--base", mistral.info.path) == 0  # a name from models.toml
    assert Path(capsys.readouterr().out.strip()).name == "mine.onnx"
    deeper = run / "checkpoints" / "it_1000"
    deeper.mkdir(parents=True)
    (run / "hypermod.pt").rename(deeper / "hypermod.pt")
    change_args(run, emb_model="''")
    assert run_import(home, deeper, "--base", mistral.info.path, "--dtype", "f16", "--licence", "MIT") == 0
    info = read_bundle(Path(capsys.readouterr().out.strip()))
    assert (info.name, info.licence, info.card["dtype"]) == ("my_task_run", "MIT", "f16")
    assert info.embedding is not None and (info.embedding.model, info.embedding.pooling) == ("", "")
