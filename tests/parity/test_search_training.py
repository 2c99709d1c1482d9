"""Training of the search head on a tiny model: resumes, several processes, the same scores in torch and at run time."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from localhyper.base_header import read_base_info  # noqa: E402
from localhyper.bundle import read_bundle  # noqa: E402
from localhyper.chunk_keys import read_keys  # noqa: E402
from localhyper.chunking import split_document  # noqa: E402
from localhyper.database import Database  # noqa: E402
from localhyper.engine import EngineConfig  # noqa: E402
from localhyper.export.add_search import add_search  # noqa: E402
from localhyper.export.add_search import main as add_search_main  # noqa: E402
from localhyper.export.companion import join  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.metric import low_rank, second_moments  # noqa: E402
from localhyper.export.onnx_bundle import write_bundle  # noqa: E402
from localhyper.export.search_config import SearchDataConfig, load_search_recipe  # noqa: E402
from localhyper.export.search_data import draw, load_search_sets  # noqa: E402
from localhyper.export.search_train import SearchRun  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402
from localhyper.hypernet import SEARCH_OUTPUTS, OnnxHypernetwork  # noqa: E402
from localhyper.library import Library, chunk_folder  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.pipeline import attach_document  # noqa: E402
from localhyper.sources.document import Document  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    Start,
    assert_same_state,
    curve,
    finish,
    kill_after_step,
    load_state,
    run_as_two,
)
from tests.tiny_gguf import TinySpec, write_tiny_gguf  # noqa: E402

# Warnings are accelerate's own, in this process.
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SPEC = TinySpec(blocks=4, hidden=32, ffn=48)
STEPS, SAVE_EVERY = 60, 4
RECIPE = """
[search]
taps = [{tap}]
size = 8
max_tokens = 64
words = 0.5

[data]
reading = ["towns.jsonl"]
holdout = 3

[run]
steps = {steps}
pairs = 4
dropout = {dropout}
warmup = 5
adam_lr = 0.01
save_every = {save_every}
probe_every = 30
"""
TOWNS = "Aldea Birkas Corvo Dunmor Elster Farsund Gorlo Hvalba Iskra Jorvik Kalmar Lunde Morava Narvik".split()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, a reading set and recipes."""
    folder: Path = tmp_path_factory.mktemp("search")
    write_tiny_gguf(folder / "base.gguf", SPEC)
    rows = [
        {
            "title": "",
            "context": f"{town} has {number + 3} mills and a {town[::-1].lower()} tower by the river.",
            "qas": [
                {"question": f"How many mills has {town}?", "answers": [str(number + 3)]},
                {"question": "?!", "answers": ["tower"]},
            ],
        }
        for number, town in enumerate(TOWNS)
    ]
    (folder / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    kinds = {"recipe": (2, STEPS, 0.1), "pair": (2, 1, 0.0), "strange": (1, 1, 0.0)}
    for name, (tap, steps, dropout) in kinds.items():
        text = RECIPE.format(tap=tap, steps=steps, dropout=dropout, save_every=SAVE_EVERY)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def command(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / recipe), "--base", str(ground / "base.gguf"), "--data", str(ground), "--out", str(out)]
    return ["localhyper.export.start", *where, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def run_in(ground: Path, out: Path, recipe: str = "recipe.toml") -> SearchRun:
    out.mkdir(exist_ok=True)
    return SearchRun(load_search_recipe(ground / recipe), ground / "base.gguf", ground, out, "cpu", torch.float32)


@pytest.fixture(scope="module")
def trained(ground: Path) -> Path:
    """The folder of a whole run."""
    run_in(ground, ground / "run").train()
    return ground / "run"


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    ground: Path, trained: Path, tmp_path: Path, start: Start
) -> None:
    broken, log = tmp_path / "broken", tmp_path / "broken.log"
    kill_after_step(start(command(ground, "recipe.toml", broken), log), SAVE_EVERY + 1, log)
    assert SAVE_EVERY <= load_state(broken)["step"] < STEPS
    finish(start(command(ground, "recipe.toml", broken), log), log)
    want, got = load_state(trained), load_state(broken)
    assert_same_state(want, got)


@pytest.mark.slow
def test_two_processes_descend_the_mean_of_their_losses(ground: Path, tmp_path: Path, start: Start) -> None:
    pair = tmp_path / "pair"
    run_as_two(start, command(ground, "pair.toml", pair), tmp_path / "log")
    run, losses = run_in(ground, tmp_path / "one", "pair.toml"), []
    for place in (0, 1):
        batch = draw(run.train_set, random.Random(f"0/0/{place}"), 4)
        losses.append(run.model(run.reader.read(batch.questions), run.reader.read(batch.contexts)))
    mean = (losses[0] + losses[1]) / 2
    (row,) = [row for row in curve(pair) if "search" in row]
    assert row["search"] == pytest.approx(float(mean.detach()), rel=1e-3)
    torch.autograd.backward(mean)
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in run.core.parameters() if p.grad is not None]))
    assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-2)


def test_training_tells_contexts_apart_and_says_how_well(trained: Path) -> None:
    rows = curve(trained)
    losses = [row["search"] for row in rows if "search" in row]
    assert len(losses) == STEPS and np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    probes = [row for row in rows if row.get("event") == "probe"]
    assert [probe["step"] for probe in probes] == [30, 60] and all(0 <= probe["found"] <= 1 for probe in probes)


def test_batches_hold_different_contexts_and_lookalikes_without_the_answer(ground: Path, tmp_path: Path) -> None:
    found = run_in(ground, tmp_path / "run").train_set
    assert any(one.negatives for one in found.asked) and any(not one.negatives for one in found.asked), "`?!` has none"
    for one in found.asked:
        assert one.context not in one.negatives
    batch = draw(found, random.Random(0), 4)
    assert len(batch.questions) == 4 and len(set(batch.contexts)) == len(batch.contexts) > 4
    everything = draw(found, random.Random(0), 1000)
    assert len(everything.questions) == len(found.contexts), "one question a context"


def test_contexts_are_cut_into_chunks_and_those_around_an_answer_are_told_from_its_own(ground: Path) -> None:
    tokenizer = load_tokenizer(ground / "base.gguf")
    told = [f"{town} has {10 + number} mills by the old river." for number, town in enumerate(TOWNS[:6])]
    asked = [{"question": f"How many has {town}?", "answers": [str(10 + n)]} for n, town in enumerate(TOWNS[:6])]
    twice = {"question": "What stands there?", "answers": ["mills"]}
    rows = [{"title": "", "context": " ".join(told), "qas": [*asked, twice]}] * 4
    (ground / "cut.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = SearchDataConfig(("cut.jsonl",), questions=100, holdout=2, cut_tokens=80)
    found, held = load_search_sets(ground, config, tokenizer, 4096, 0)
    assert len(found.contexts) == len(held.contexts) == 2 * 3, "two contexts in three chunks each"
    assert max(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in found.contexts) <= 80
    assert "".join(found.contexts) == " ".join(told) * 2
    assert {one.question for one in found.asked} == {row["question"] for row in asked}, "no chunk alone has the other"
    for one in found.asked:
        number = next(row["answers"][0] for row in asked if row["question"] == one.question)
        assert number in found.contexts[one.context]
        own = range(one.context // 3 * 3, one.context // 3 * 3 + 3)
        assert list(one.around) == [other for other in own if other != one.context]
    batch = draw(found, random.Random(0), 2)
    assert len(batch.questions) == 2 and len(batch.contexts) > 2
    whole, _ = load_search_sets(ground, replace(config, cut_tokens=0), tokenizer, 4096, 0)
    assert len(whole.contexts) == 2 and not any(one.around for one in whole.asked)


def test_questions_about_a_context_are_told_from_those_about_none(ground: Path, tmp_path: Path) -> None:
    text = RECIPE.format(tap=2, steps=40, dropout=0.0, save_every=20) + "related = 1.0\neveryday = 3\n"
    (ground / "related.toml").write_text(text, encoding="utf-8")
    run = run_in(ground, tmp_path / "run", "related.toml")
    batch, requests = draw(run.train_set, random.Random(0), 4), ["Who invented the kettle?", "Is the sea dangerous?"]
    contexts, questions = run.reader.read(batch.contexts), run.reader.read([*batch.questions, *requests])
    unrelated = torch.tensor([*batch.unrelated, *([[True] * len(batch.contexts)] * 2)])
    assert unrelated[:4, :4].logical_not().equal(torch.eye(4, dtype=torch.bool)), "each has its own context"

    def apart() -> float:
        run.core.eval()
        with torch.no_grad():
            scores, most = run.core.scores_of_most(questions, contexts)
        run.core.train()
        cosines = scores / most
        return float(cosines.diagonal().mean() - cosines.masked_fill(~unrelated, -1.0).amax(1).mean())

    alone = run.model(run.reader.read(batch.questions), contexts)
    with_requests = run.model(questions, contexts, unrelated)
    assert float(with_requests.detach()) > float(alone.detach()), "requests add to the second part alone"
    before = apart()
    run.train()
    assert apart() > before + 0.05


@pytest.fixture(scope="module")
def bundle(ground: Path) -> Path:
    """A bundle for the tiny base."""
    path, base = ground / "plain.onnx", TorchBase(ground / "base.gguf")
    config = AssociationConfig(
        hidden=32, ffn=48, taps=(0, 2), blocks=(1, 3), gains=(1.0, 2.0), metric_rank=8, width=16, heads=2, slots=2,
        max_tokens=64,
    )  # fmt: skip
    torch.manual_seed(0)
    moment = low_rank(second_moments(base, [torch.randint(3, 250, (4, 64))], (1, 3), 3), 8)
    about = read_base_info(ground / "base.gguf")
    prefix = "<|im_start|>user\n"
    write_bundle(AssociationHypernetwork(config, moment), about, path, name="plain", prefix=prefix, card={})
    return path


@pytest.mark.native
def test_llama_cpp_and_numpy_score_chunks_as_torch_does(
    ground: Path, trained: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "search.onnx"
    assert add_search_main([str(bundle), str(trained), "--recipe", str(ground / "recipe.toml"), "--out", str(out)]) == 0
    net, text = OnnxHypernetwork.load(out, threads=1), " ".join(f"In {town} there are {town} mills." for town in TOWNS)
    assert read_bundle(out).card["search"] == {"steps": STEPS, "seconds": round(load_state(trained)["seconds"])}
    head = net.search_head()
    assert head is not None and head.question.words == 0.5 and not head.document[:32].any(), "nothing of tap 0"
    document, question = Document("Towns", text, "txt", "0" * 64), "How many mills has Corvo?"
    library = Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters")
    with LlamaEngine.load(ground / "base.gguf", EngineConfig(threads=1, threads_batch=1, kv_type="f32")) as engine:
        info = attach_document(document, engine, net, library).adapter
        keys = read_keys(chunk_folder(info.path), info.chunk_files)
        assert keys is not None and info.chunk_files > 4
        scores = keys.scores(question, engine)
        chunks = split_document(document, engine.tokenize, engine.detokenize, 64)
    run = run_in(ground, tmp_path / "same")
    run.core.load_state_dict(load_state(trained)["hypernetwork"])
    run.core.eval()
    with torch.no_grad():
        wanted = run.core.scores(run.reader.read([question]), run.reader.read([chunk.text for chunk in chunks]))[0]
    assert len(scores) == len(chunks) + 1, "and the overview"
    np.testing.assert_allclose(scores[:-1], wanted.numpy(), rtol=0.01)
    assert scores.argmax() == int(wanted.argmax())


def test_a_head_replaces_an_earlier_one_and_all_else_stays(
    ground: Path, trained: Path, bundle: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    add_search(bundle, trained, ground / "recipe.toml", once)
    add_search(once, trained, ground / "recipe.toml", twice)
    assert once.read_bytes() == twice.read_bytes()
    plain, other = OnnxHypernetwork.load(bundle, threads=1), OnnxHypernetwork.load(once, threads=1)
    for name, metric in plain.metrics().items():
        np.testing.assert_array_equal(metric.basis, other.metrics()[name].basis)
    assert plain.search_head() is None and other.search_head() is not None
    assert set(SEARCH_OUTPUTS) == {"search_mean", "search_document", "search_question", "search_scalars"}


def test_a_head_is_taken_over_from_another_bundle(
    ground: Path, trained: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, again = tmp_path / "once.onnx", tmp_path / "again.onnx"
    add_search(bundle, trained, ground / "recipe.toml", once)
    assert add_search_main([str(bundle), str(once), "--out", str(again)]) == 0
    assert again.read_bytes() == once.read_bytes()
    for source, told in ((bundle, "has no search head"), (trained, "--recipe")):
        with pytest.raises(SystemExit) as caught:
            add_search_main([str(bundle), str(source), "--out", str(tmp_path / "out.onnx")])
        assert caught.value.code not in (0, None) and not (tmp_path / "out.onnx").exists()
        assert told in capsys.readouterr().err


def test_a_head_for_chunks_stands_beside_the_other_one(
    ground: Path, trained: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Taken over with it, and gone when a new head is put in."""
    once, two, again, alone = (tmp_path / f"{name}.onnx" for name in ("once", "two", "again", "alone"))
    beside = [str(trained), "--recipe", str(ground / "recipe.toml"), "--parts", "--out"]
    add_search(bundle, trained, ground / "recipe.toml", once)
    for source in (once, two):
        assert add_search_main([str(source), *beside, str(two)]) == 0
        head = OnnxHypernetwork.load(two, threads=1).search_head()
        assert head is not None and head.parts is not None and head.parts.parts is None
        np.testing.assert_array_equal(head.document, head.parts.document)
    card = read_bundle(two).card
    assert card["search_parts"] == card["search"]
    assert add_search_main([str(bundle), str(two), "--out", str(again)]) == 0
    assert read_bundle(again).card["search_parts"] == card["search_parts"]
    taken = OnnxHypernetwork.load(again, threads=1).search_head()
    assert taken is not None and taken.parts is not None
    np.testing.assert_array_equal(taken.parts.document, taken.document)
    add_search(two, trained, ground / "recipe.toml", alone)
    new = OnnxHypernetwork.load(alone, threads=1).search_head()
    assert new is not None and new.parts is None and "search_parts" not in read_bundle(alone).card
    out = tmp_path / "out.onnx"
    with pytest.raises(SystemExit):
        add_search_main([str(bundle), *beside, str(out)])
    assert "has no search head" in capsys.readouterr().err and not out.exists()


def test_what_does_not_go_together_is_one_line(
    ground: Path, trained: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_search(bundle, trained, ground / "recipe.toml", tmp_path / "chunk.onnx")
    join(bundle, tmp_path / "chunk.onnx", tmp_path / "pair.onnx")
    other = tmp_path / "other"
    other.mkdir()
    torch.save({"step": 1, "seconds": 1.0, "hypernetwork": {"x": torch.zeros(1)}}, other / "checkpoint.pt")
    for given, run, recipe, told in (
        (bundle, trained, "strange.toml", "the head reads [1]"),
        (tmp_path / "pair.onnx", trained, "recipe.toml", "names `chunk.onnx` for single chunks"),
        (bundle, other, "recipe.toml", "is no search run"),
        (bundle, tmp_path / "nothing", "recipe.toml", "nothing"),
    ):
        out = tmp_path / "out.onnx"
        with pytest.raises(SystemExit) as caught:
            add_search_main([str(given), str(run), "--recipe", str(ground / recipe), "--out", str(out)])
        assert caught.value.code not in (0, None) and not out.exists()
        assert told in capsys.readouterr().err
