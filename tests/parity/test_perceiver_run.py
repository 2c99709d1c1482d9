"""A Perceiver is trained and exported like what ships, and llama.cpp takes what its bundle makes of a document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.bundle import read_bundle  # noqa: E402
from localhyper.chunking import split_document  # noqa: E402
from localhyper.database import Database  # noqa: E402
from localhyper.engine import EngineConfig  # noqa: E402
from localhyper.errors import ConfigError  # noqa: E402
from localhyper.export.checkpoints import load_run  # noqa: E402
from localhyper.export.make_bundle import main as export_main  # noqa: E402
from localhyper.export.perceiver import PerceiverHypernetwork  # noqa: E402
from localhyper.export.train import Run  # noqa: E402
from localhyper.export.train_config import load_recipe  # noqa: E402
from localhyper.gguf_adapter import read_adapter  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.library import Library  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.pipeline import AttachOptions, attach_document  # noqa: E402
from localhyper.sources.document import Document  # noqa: E402
from tests.parity.test_training import SPEC, write_data  # noqa: E402
from tests.tiny_gguf import write_tiny_gguf  # noqa: E402

# Warnings are accelerate's own, in this process.
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

RECIPE = """
name = "tiny-perceiver"

[perceiver]
hidden = 32
inputs = [48]
outputs = [32]
taps = [1, 3]
blocks = [1, 3]
rank = {rank}
latent = 8
queries = 4
cross_blocks = 2
heads = 2
kv_heads = 1
head_size = 8
max_tokens = 64

[mixture]
facts = 0.5
reading = 0.5
continuation = 0.0

[data]
reading = ["reading.jsonl"]
texts = ["text.txt"]
holdout = 4

[run]
steps = 6
documents = 2
rows = 2
max_row = 160
unrelated_every = 2
probe_every = 1000
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, data, recipes and a finished run."""
    folder: Path = tmp_path_factory.mktemp("perceiver")
    write_tiny_gguf(folder / "base.gguf", SPEC)
    write_data(folder)
    for name, rank in (("recipe", 2), ("other", 3)):
        (folder / f"{name}.toml").write_text(RECIPE.format(rank=rank), encoding="utf-8")
    (folder / "run").mkdir()
    where = folder / "base.gguf", folder, folder / "run", "cpu", torch.float32
    Run(load_recipe(folder / "recipe.toml"), *where).train()
    return folder


def export(ground: Path, recipe: str, out: Path) -> int:
    where = ["--recipe", str(ground / recipe), "--base", str(ground / "base.gguf"), "--out", str(out)]
    return export_main([str(ground / "run"), *where])


@pytest.fixture(scope="module")
def bundle(ground: Path) -> Path:
    """The run, exported."""
    assert export(ground, "recipe.toml", ground / "made.onnx") == 0
    return ground / "made.onnx"


def test_the_bundle_says_what_it_is(bundle: Path) -> None:
    info = read_bundle(bundle)
    assert (info.name, info.rank, info.chunk_tokens, info.capture.taps) == ("tiny-perceiver", 2, 64, (1, 3))
    assert info.card["steps"] == 6 and info.card["documents"] == 12
    config = info.card["config"]
    assert isinstance(config, dict) and config["queries"] == 4


@pytest.mark.native
def test_llama_cpp_makes_the_adapter_that_was_trained(ground: Path, bundle: Path, tmp_path: Path) -> None:
    text = " ".join(f"Boat {number} came home at dawn with {number % 7} nets." for number in range(12))
    document, library = Document("Boats", text, "txt", "0" * 64), Library(Database(tmp_path / "db"), tmp_path / "files")
    net = OnnxHypernetwork.load(bundle, threads=1)
    with LlamaEngine.load(ground / "base.gguf", EngineConfig(threads=1, threads_batch=1, kv_type="f32")) as engine:
        info = attach_document(document, engine, net, library, AttachOptions(rank=0, dtype="f32")).adapter
        chunks = split_document(document, engine.tokenize, engine.detokenize, 64)
    made = read_adapter(info.path)[0].targets["ffn_down"]
    recipe = load_recipe(ground / "recipe.toml")
    run = Run(recipe, ground / "base.gguf", ground, ground / "run", "cpu", torch.float32)
    assert run.step == recipe.run.steps, "it has the weights of its checkpoint"
    assert info.chunks == len(chunks) > 2
    want = [np.zeros((32, 48), np.float32) for _ in range(2)]
    with torch.no_grad():
        for number, chunk in enumerate(chunks):
            tokens = torch.tensor([[*run.collator.prefix, *chunk.token_ids.tolist()]])
            a, b = run.trained(*run.model.encode(tokens), torch.ones(1, len(chunk.token_ids)), torch.ones(1))
            if number == 0:
                a, b = run.trained.with_bias(a, b)
            for layer in range(2):
                want[layer] += (b[0, layer] @ a[0, layer]).numpy()
    for layer in range(2):
        largest = float(np.abs(want[layer]).max())
        assert largest > 1e-3
        np.testing.assert_allclose(made.b[layer] @ made.a[layer], want[layer], atol=0.01 * largest)


def test_a_run_of_other_sizes_is_one_clear_line(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        export(ground, "other.toml", tmp_path / "out.onnx")
    assert ended.value.code and "is not of this recipe" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_run_that_was_never_trained_is_one_clear_line(ground: Path, tmp_path: Path) -> None:
    perceiver = load_recipe(ground / "recipe.toml").perceiver
    assert perceiver is not None
    with pytest.raises(ConfigError, match=r"holds no checkpoint\.pt"):
        load_run(PerceiverHypernetwork(perceiver), tmp_path)
