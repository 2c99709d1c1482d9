"""Training of sums on a tiny model: resumes, several processes, torch = ONNX = llama.cpp, single chunks untouched."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.association_sum import STRONGEST  # noqa: E402
from localhyper.base_header import read_base_info  # noqa: E402
from localhyper.bundle import read_bundle  # noqa: E402
from localhyper.chunking import split_document  # noqa: E402
from localhyper.database import Database  # noqa: E402
from localhyper.engine import EngineConfig  # noqa: E402
from localhyper.errors import ConfigError  # noqa: E402
from localhyper.export.bundle_weights import read_bundle_weights  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.make_bundle import main as export_main  # noqa: E402
from localhyper.export.metric import low_rank, second_moments  # noqa: E402
from localhyper.export.onnx_bundle import write_bundle  # noqa: E402
from localhyper.export.sum_bank import read_document  # noqa: E402
from localhyper.export.sum_config import load_sum_recipe  # noqa: E402
from localhyper.export.sum_documents import DocumentMaker, LongDocument  # noqa: E402
from localhyper.export.sum_train import TRAINED, SumRun  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402
from localhyper.gguf_adapter import read_adapter  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.library import AdapterInfo, Library  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.pipeline import AttachOptions, attach_document  # noqa: E402
from localhyper.sources.document import Document  # noqa: E402
from tests.parity.test_training import SIZES, SPEC, write_data  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    assert_same_state,
    curve,
    finish,
    kill_after_step,
    load_state,
    run_as_two,
)
from tests.tiny_gguf import write_tiny_gguf  # noqa: E402

# Warnings are accelerate's own, in this process.
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

STEPS, SAVE_EVERY = 60, 4
RECIPE = """
[mixture]
facts = 0.4
relations = 0.2
reading = 0.4
continuation = 0.0

[sums]
chunks = [2, 3]
documents = [3, 2]
facts = 9.0

[data]
reading = ["reading.jsonl"]
texts = ["text.txt"]
instructions = ["tasks.jsonl"]
replies = ["own.jsonl"]
holdout = 4

[run]
steps = {steps}
rows = 4
others = 2
others_every = 2
max_row = 160
adam_lr = 0.02
save_every = {save_every}
probe_every = 30
"""
TEXT = " ".join(f"Boat {number} came home at dawn with {number % 7} nets." for number in range(40))


def config(salience: int = 0) -> AssociationConfig:
    return AssociationConfig(
        hidden=32, ffn=48, taps=(0, 2), blocks=(1, 3), gains=(1.0, 2.0), metric_rank=8, width=16, encoder_layers=1,
        heads=2, slots=2, bias_rank=2, max_tokens=96, whitening=200.0, salience=salience,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, a bundle to begin with, data and recipes."""
    folder: Path = tmp_path_factory.mktemp("sums")
    write_tiny_gguf(folder / "base.gguf", SPEC)
    write_data(folder)
    lines = " ".join(f"Boat {number} came home at dawn." for number in range(400))
    (folder / "text.txt").write_text(lines, encoding="utf-8")
    base = TorchBase(folder / "base.gguf")
    torch.manual_seed(0)
    moment = low_rank(second_moments(base, [torch.randint(3, 250, (4, 64))], (1, 3), 3), 8)
    network = AssociationHypernetwork(config(), moment)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name not in ("gain", "slot_gain", "length", "slots.length"):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    about = read_base_info(folder / "base.gguf")
    write_bundle(network, about, folder / "begin.onnx", name="begin", prefix="<|im_start|>user\n", card={})
    for name, steps, salience in (("recipe", STEPS, 8), ("pair", 1, 8), ("none", STEPS, 0)):
        text = SIZES + f"whitening = 200.0\nsalience = {salience}\n" + RECIPE.format(steps=steps, save_every=SAVE_EVERY)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def command(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / recipe), "--base", str(ground / "base.gguf"), "--data", str(ground), "--out", str(out)]
    begin = ["--init", str(ground / "begin.onnx")]
    return ["localhyper.export.start", *where, *begin, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def run_in(ground: Path, out: Path, recipe: str = "recipe.toml") -> SumRun:
    out.mkdir(exist_ok=True)
    where = ground / "base.gguf", ground, out, "cpu", torch.float32, ground / "begin.onnx"
    return SumRun(load_sum_recipe(ground / recipe), *where)


@pytest.fixture(scope="module")
def trained(ground: Path) -> SumRun:
    """A whole run."""
    run = run_in(ground, ground / "run")
    run.train()
    return run


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    ground: Path, trained: SumRun, tmp_path: Path, start: Start
) -> None:
    broken, log = tmp_path / "broken", tmp_path / "broken.log"
    kill_after_step(start(command(ground, "recipe.toml", broken), log), SAVE_EVERY + 1, log)
    assert SAVE_EVERY <= load_state(broken)["step"] < STEPS
    finish(start(command(ground, "recipe.toml", broken), log), log)
    want, got = load_state(trained.out), load_state(broken)
    assert_same_state(want, got)


@pytest.mark.slow
def test_two_processes_descend_the_mean_of_their_losses(ground: Path, tmp_path: Path, start: Start) -> None:
    pair = tmp_path / "pair"
    run_as_two(start, command(ground, "pair.toml", pair), tmp_path / "log")
    run = run_in(ground, tmp_path / "one", "pair.toml")
    losses = [run.losses(place) for place in (0, 1)]
    total = (losses[0].total + losses[1].total) / 2
    (row,) = [row for row in curve(pair) if "answer" in row]
    for name in ("answer", "unrelated"):
        mean = float(sum(getattr(one, name) for one in losses).detach()) / 2
        assert row[name] == pytest.approx(mean, rel=1e-3, abs=1e-4) and mean > 0
    torch.autograd.backward(total)
    norms = [p.grad.norm() for p in run.core.parameters() if p.grad is not None]
    assert row["grad_norm"] == pytest.approx(float(torch.linalg.vector_norm(torch.stack(norms))), rel=1e-2)


def test_training_lowers_the_loss_and_says_how_well(trained: SumRun) -> None:
    rows = curve(trained.out)
    losses = [row["answer"] for row in rows if "answer" in row]
    assert len(losses) == STEPS and np.mean(losses[-20:]) < np.mean(losses[:5])
    assert {"event": "started from", "run": "begin.onnx"} in rows
    probes = [row for row in rows if row.get("event") == "probe"]
    assert [probe["step"] for probe in probes] == [30, 60]
    assert all({"nats", "exact", "rows"} == set(probe["relations_2"]) for probe in probes)


def test_only_what_sums_depend_on_has_moved(ground: Path, trained: SumRun) -> None:
    before = read_bundle_weights(ground / "begin.onnx", config())
    now = trained.core.state_dict()
    moved = {name for name, values in before.items() if name in now and not torch.equal(values, now[name])}
    assert moved == {"length", "slots.length"} <= set(TRAINED)
    assert any("salience" in name for name in now)


def test_a_chunk_alone_is_written_as_before(ground: Path, trained: SumRun) -> None:
    plain = AssociationHypernetwork(config())
    plain.load_state_dict(read_bundle_weights(ground / "begin.onnx", config()))
    hidden, ffn, mask = torch.randn(2, 2, 20, 32), torch.randn(2, 2, 20, 48), torch.ones(2, 20)
    with torch.no_grad():
        want, got = plain(hidden, ffn, mask, torch.ones(2)), trained.core(hidden, ffn, mask, torch.ones(2))
        many = trained.core(hidden, ffn, mask, torch.full((2,), 16.0))
    for one, other in zip(want, got, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(want[1], many[1])


@pytest.fixture(scope="module")
def bundle(ground: Path, trained: SumRun) -> Path:
    """The run, exported."""
    out = ground / "sums.onnx"
    assert export_main([str(trained.out), "--recipe", str(ground / "recipe.toml"), "--base", str(ground / "base.gguf"),
                        "--out", str(out)]) == 0  # fmt: skip
    return out


@pytest.mark.native
def test_llama_cpp_and_numpy_make_the_adapter_that_was_trained(
    trained: SumRun, bundle: Path, ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training sums all associations alike; attaching lessens the weakest of so long a text, if nobody stops it."""
    net, document = OnnxHypernetwork.load(bundle, threads=1), Document("Boats", TEXT, "txt", "0" * 64)
    options = AttachOptions(rank=0, dtype="f32")

    def attached(name: str) -> AdapterInfo:
        library = Library(Database(tmp_path / f"{name}.sqlite3"), tmp_path / name)
        return attach_document(document, engine, net, library, options).adapter

    with LlamaEngine.load(ground / "base.gguf", EngineConfig(threads=1, threads_batch=1, kv_type="f32")) as engine:
        lessened = attached("lessened")
        monkeypatch.setattr("localhyper.document_sum.STRONGEST", 0)
        info = attached("alike")
        chunks = split_document(document, engine.tokenize, engine.detokenize, 96)
    assert info.tokens > STRONGEST
    made = read_adapter(info.path)[0].targets["ffn_down"]
    other = read_adapter(lessened.path)[0].targets["ffn_down"]
    assert info.chunks == len(chunks) > 4 and info.chunk_files == len(chunks)
    long = LongDocument([chunk.token_ids.tolist() for chunk in chunks], {})
    with torch.no_grad():
        wanted = read_document(trained.meta, trained.core, trained.collator.prefix, long).adapter(trained.core)
    for layer, block in enumerate((1, 3)):
        lora = wanted[block]
        assert lora.shared is not None
        want = (lora.shared + lora.b[0] @ lora.a[0]).numpy()
        np.testing.assert_allclose(made.b[layer] @ made.a[layer], want, atol=0.02 * np.abs(want).max())
        assert np.abs(other.b[layer] @ other.a[layer] - want).max() > 0.05 * np.abs(want).max()


def test_the_card_says_what_was_trained(bundle: Path) -> None:
    card = read_bundle(bundle).card
    assert card["steps"] == STEPS and card["started_from"] == "begin.onnx" and card["documents"] == 5
    assert json.dumps(card["held_out"]).count("relations_2") == 1


def test_documents_have_the_chunks_asked_for_and_questions_about_them(ground: Path, tmp_path: Path) -> None:
    run = run_in(ground, tmp_path / "run")
    assert [parts.chunks for parts in run.documents] == [2, 2, 2, 3, 3]
    assert [parts.chunks for parts in run.held] == [2, 3]
    for parts in run.documents:
        text = "".join(run.maker.tokenizer.decode(list(chunk)) for chunk in parts.document.chunks)
        assert all(len(chunk) <= 96 for chunk in parts.document.chunks)
        assert all(pair.answer in text for pair in parts.document.asked["reading"])
    asked = next(parts.document for parts in run.documents if len(parts.document.asked["relations"]) > 1)
    drawn = asked.draw(random.Random(0), run.recipe.mixture, 40)
    assert len(drawn) == 40 and {pair.question for pair in drawn} >= {
        pair.question for pair in asked.asked["relations"]
    }


def test_a_text_that_is_too_short_is_one_line(ground: Path, tmp_path: Path) -> None:
    run = run_in(ground, tmp_path / "run")
    with pytest.raises(ConfigError, match="no text of this recipe gives 900 chunks"):
        DocumentMaker(run.maker, 96).make(random.Random(0), 900, 1.0)


def test_what_cannot_be_trained_is_one_line(ground: Path, tmp_path: Path, start: Start) -> None:
    with pytest.raises(ConfigError, match=r"hypernetwork\.salience"):
        load_sum_recipe(ground / "none.toml")
    where = ground / "base.gguf", ground, tmp_path, "cpu", torch.float32
    with pytest.raises(ConfigError, match="given weights"):
        SumRun(load_sum_recipe(ground / "recipe.toml"), *where, None)
    torch.save({"step": 1, "seconds": 1.0, "hypernetwork": {"x": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="has x, which does not fit"):
        SumRun(load_sum_recipe(ground / "recipe.toml"), *where, tmp_path / "other.pt")
    bad = (ground / "recipe.toml").read_text(encoding="utf-8").replace("chunks = [2, 3]", "chunks = [1, 3]")
    (tmp_path / "bad.toml").write_text(bad, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sums\.chunks"):
        load_sum_recipe(tmp_path / "bad.toml")
