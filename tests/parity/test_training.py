"""Meta-training proven on a tiny model: survives SIGKILL, several processes, its losses, its control, its targets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from torch import Tensor  # noqa: E402

from localhyper.errors import ConfigError, ModelError  # noqa: E402
from localhyper.export.batches import Batch, ChunkTokens, Collator  # noqa: E402
from localhyper.export.cache import ActivationCache  # noqa: E402
from localhyper.export.data import ExampleMaker, Mixture, pick_pairs  # noqa: E402
from localhyper.export.data_files import load_corpus, read_reading  # noqa: E402
from localhyper.export.given_weights import take_given  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.make_bundle import make_card  # noqa: E402
from localhyper.export.metric import low_rank, second_moments  # noqa: E402
from localhyper.export.objectives import LossWeights, MetaModel, Surround, add_chunks, probe, shuffle_rows  # noqa: E402
from localhyper.export.perceiver import PerceiverConfig, PerceiverHypernetwork  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.texts import Example, Pair  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import BlockLora, TorchBase  # noqa: E402
from localhyper.export.train import Run  # noqa: E402
from localhyper.export.train import main as train_main  # noqa: E402
from localhyper.export.train_config import load_recipe  # noqa: E402
from localhyper.lora import LoraTarget, LoraWeights, Metric, merge  # noqa: E402
from localhyper.whitening import add_inputs, whiten  # noqa: E402
from tests.parity.training_process import (  # noqa: E402
    CHILD_SECONDS,
    Start,
    assert_same_state,
    curve,
    finish,
    flat_tensors,
    kill_after_step,
    load_state,
    run_as_two,
)
from tests.tiny_gguf import TinySpec, write_tiny_gguf  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

SPEC = TinySpec(blocks=4, hidden=32, ffn=48)
PREFIX = "<|im_start|>user\n"
STEPS, SAVE_EVERY = 40, 3  # steps enough that a run is surely killed before its end
SIZES = """
[hypernetwork]
hidden = 32
ffn = 48
taps = [0, 2]
blocks = [1, 3]
gains = [1.0, 2.0]
metric_rank = 8
width = 16
encoder_layers = 1
heads = 2
slots = 2
bias_rank = 2
max_tokens = 96
"""
RECIPE = (
    SIZES
    + """
[mixture]
facts = 0.3
relations = 0.2
reading = 0.3
continuation = 0.1
about = 0.1
most_facts = 2
facts_ramp = 2

[surround]
share = {share}
live = 2
bank = 8
most = 6
settle_every = 4

[loss]
unrelated = 0.3
teacher = 0.2

[data]
reading = ["reading.jsonl"]
texts = ["text.txt"]
instructions = ["tasks.jsonl"]
replies = ["own.jsonl"]
about = ["about.jsonl"]
holdout = 4

[run]
steps = {steps}
documents = {documents}
rows = 2
max_row = 160
unrelated_every = 2
save_every = {save_every}
probe_every = 1000
probe_batches = 1
moment_tokens = 1000
"""
)


def write_data(folder: Path) -> None:
    """A reading set in the schema of the shared data and a plain text, both invented."""
    towns = ("Aldea", "Birkas", "Corvo", "Dunmor", "Elster", "Farsund", "Gorlo", "Hvalba")
    rows = [
        {
            "id": str(i),
            "title": town,
            "context": f"{town} has {i + 3} mills by the river.",
            "qas": [{"question": f"How many mills has {town}?", "answers": [f"{i + 3}"]}],
        }
        for i, town in enumerate(towns)
    ]
    (folder / "reading.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"definition": "Say it.", "instances": [{"input": f"Say {i}.", "output": f"{i}"} for i in range(9)]}
    (folder / "tasks.jsonl").write_text(json.dumps(task) + "\n", encoding="utf-8")
    own = [{"question": f"Hello {i}?", "answer": f"I am {i}, how can I help you?"} for i in range(9)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    said = [
        {"context": f"Ship {i} has {i} sails.", "qas": [{"question": "What is it about?", "answers": [f"Ship {i}."]}]}
        for i in range(9)
    ]
    (folder / "about.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    sentences = (f"Boat {i} came home at dawn." for i in range(80))
    (folder / "text.txt").write_text(" ".join(sentences), encoding="utf-8")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, data and a recipe."""
    folder: Path = tmp_path_factory.mktemp("training")
    write_tiny_gguf(folder / "base.gguf", SPEC)
    write_data(folder)
    # A surround is scaled by the mean of a process's documents: no two sizes of batch agree.
    kinds = {"recipe": (STEPS, SAVE_EVERY, 2, 0.6), "pair": (1, 1, 2, 0.0), "single": (1, 1, 4, 0.0)}
    for name, (steps, save_every, documents, share) in kinds.items():
        text = RECIPE.format(steps=steps, save_every=save_every, documents=documents, share=share)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def train_command(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / recipe), "--base", str(ground / "base.gguf"), "--data", str(ground), "--out", str(out)]
    return ["localhyper.export.train", *where, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


def answers(out: Path) -> dict[int, float]:
    """Training loss of each step; the last report of a step counts."""
    return {row["step"]: row["answer"] for row in curve(out) if "answer" in row}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # accelerate's own, in this process
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    arguments = train_command(ground, "recipe.toml", broken)
    kill_after_step(start(arguments, log), 2 * SAVE_EVERY + 1, log)
    reached = load_state(broken)["step"]
    assert 2 * SAVE_EVERY <= reached < STEPS
    # A kill in the middle of a write leaves a torn temporary file behind.
    (broken / "checkpoint.tmp").write_bytes(b"torn")
    resumed = start(arguments, log)
    whole.mkdir()
    Run(load_recipe(ground / "recipe.toml"), ground / "base.gguf", ground, whole, "cpu", torch.float32).train()
    lines = finish(resumed, log).splitlines()
    assert {"event": "resumed", "step": reached} in [json.loads(line) for line in lines]
    want, got = load_state(whole), load_state(broken)
    assert got["step"] == want["step"] == STEPS
    assert_same_state(want, got)
    assert answers(broken) == answers(whole) and len(answers(whole)) == STEPS


@pytest.mark.slow
def test_two_processes_do_the_step_of_one(ground: Path, tmp_path: Path, start: Start) -> None:
    """Two processes of two documents each, over gloo, and one process with the same four: loss and gradients."""
    pair, single = tmp_path / "pair", tmp_path / "single"
    run_as_two(start, train_command(ground, "pair.toml", pair), tmp_path / "pair.log")
    finish(start(train_command(ground, "single.toml", single), tmp_path / "one.log"), tmp_path / "one.log")
    curves = [curve(out) for out in (pair, single)]
    assert [rows[0]["processes"] for rows in curves] == [2, 1]
    steps = [next(row for row in rows if "seconds" in row) for rows in curves]
    for figure in ("answer", "unrelated", "teacher"):
        assert steps[0][figure] == pytest.approx(steps[1][figure], rel=1e-3, abs=2e-4), figure
    assert steps[0]["answer"] > 0 and steps[0]["unrelated"] > 0
    # After one step the moments are the averaged, clipped gradients up to a factor.
    got, want = (dict(flat_tensors(load_state(out)["optimizers"])) for out in (pair, single))
    moments = [name for name in want if name.endswith(("momentum_buffer", "exp_avg"))]
    assert got.keys() == want.keys() and len(moments) > 10
    assert any(bool(want[name].any()) for name in moments)
    largest = max(float(want[name].abs().max()) for name in moments)
    for name in moments:
        assert torch.allclose(got[name], want[name], rtol=1e-3, atol=1e-5 * largest), name


@pytest.fixture(scope="module")
def base(ground: Path) -> TorchBase:
    return TorchBase(ground / "base.gguf")


@pytest.fixture(scope="module")
def collator(ground: Path) -> Collator:
    prompts = read_prompt_format(ground / "base.gguf", PREFIX)
    return Collator(load_tokenizer(ground / "base.gguf"), prompts, 96, 160, 32)


@pytest.fixture(scope="module")
def model(base: TorchBase, collator: Collator) -> MetaModel:
    """A meta-model as training starts."""
    torch.manual_seed(0)
    ids = torch.randint(3, 250, (4, 64))
    moment = low_rank(second_moments(base, [ids], (1, 3), 3), 8)
    config = AssociationConfig(
        hidden=32, ffn=48, taps=(0, 2), blocks=(1, 3), gains=(1.0, 2.0), metric_rank=8, width=16, heads=2, slots=2
    )
    return MetaModel(base, AssociationHypernetwork(config, moment), len(collator.prefix))


EXAMPLES = (
    Example("facts", "The code of Lisbon is 4821.", (Pair("What is the code of Lisbon?", "The code is 4821."),)),
    Example("facts", "Greta has the symbol walnut and the mascot owl.",
            (Pair("Which symbol has Greta?", "walnut"), Pair("Which mascot has Greta?", "owl"))),
    Example("facts", "Oslo: 77.", (Pair("What of Oslo?", "77"),)),
)  # fmt: skip


@pytest.fixture
def batch(collator: Collator) -> Batch:
    others = [EXAMPLES[(index + 1) % 3].pairs[0] for index in range(3)]
    return collator([random.Random(index) for index in range(3)], EXAMPLES, 2, others)


def test_answers_about_the_document_alone_begin_with_the_reply_start(ground: Path, collator: Collator) -> None:
    tokenizer = load_tokenizer(ground / "base.gguf")
    spaced = Collator(tokenizer, collator.prompts, 96, 160, 32, reply_start=" ")
    pair = Pair("Which symbol has Greta?", "walnut")
    prompt, end = collator.prompts.render(pair.question), collator.prompts.end_of_turn
    ids, targets = spaced.row(pair)
    assert ids == spaced.encode(prompt) + spaced.encode(" walnut" + end)
    assert [target for target in targets if target != -100] == spaced.encode(" walnut" + end)
    assert spaced.row(pair, about=False) == collator.row(pair)


def test_a_run_of_small_chunks_packs_its_questions(ground: Path, tmp_path: Path) -> None:
    """Documents are cut short, overviews and quotes among them, and a document's questions are one sequence."""
    (tmp_path / "port.txt").write_text("A boat came home to the harbour. " * 20, encoding="utf-8")
    text = RECIPE.format(steps=2, save_every=1, documents=6, share=0.0)
    for old, new in (  # no two sentences of the text fit into a document: nothing to continue
        ("about = 0.1\n", "overviews = 0.4\nquotes = 0.4\n"),
        ("continuation = 0.1\n", "continuation = 0.0\n"),
        ('texts = ["text.txt"]', f'texts = ["{(tmp_path / "port.txt").as_posix()}"]'),
        ("teacher = 0.2\n", ""),
        ("holdout = 4\n", "holdout = 4\ncut_tokens = 48\n"),
        ("rows = 2\n", "rows = 3\npacked = true\n"),
        ("max_tokens = 96\n", "max_tokens = 120\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    recipe, out = load_recipe(tmp_path / "small.toml"), tmp_path / "out"
    out.mkdir()
    run = Run(recipe, ground / "base.gguf", ground, out, "cpu", torch.float32)
    batch = run._train_batch(0)
    assert batch.packing is not None and len(batch.rows) == 6 and {"overviews", "quotes"} <= set(batch.kinds)
    longest = dict(zip(batch.kinds, batch.document_mask.sum(1).tolist(), strict=True))
    assert all(most <= (120 if kind == "overviews" else 50) for kind, most in longest.items()), longest
    run.train()
    rows = curve(out)
    assert [row["step"] for row in rows if "answer" in row] == [1, 2]
    assert {"overviews", "quotes"} <= set(run.probe()) and batch.rows.shape[1] <= recipe.run.max_row + 16


@pytest.mark.parametrize(
    ("table", "key", "value", "wanted"),
    [
        ("data", "cut_tokens", 300, "0 to 256"),
        ("data", "cut_tokens", -1, "0 to 256"),
        ("run", "packed", "true", "teacher"),
    ],
)
def test_recipes_that_cannot_be_are_one_clear_line(
    tmp_path: Path, table: str, key: str, value: object, wanted: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"[loss]\nteacher = 0.5\n[{table}]\n{key} = {value}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{table}\.{key}.*{wanted}"):
        load_recipe(path)


ASKED_TWICE = tuple(
    Example("facts", f"{name} has the symbol {symbol} and the mascot owl.",
            (Pair(f"Which symbol has {name}?", symbol), Pair("Which mascot?", "owl, it is said")))
    for name, symbol in (("Greta", "walnut"), ("Oslo and Lima", "the key"), ("Jo", "x"))
)  # fmt: skip


def test_packed_rows_give_what_each_gives_alone(model: MetaModel, collator: Collator) -> None:
    """Losses and gradients, though what the rows have in common is read once."""
    drawn = [[random.Random(index) for index in range(3)] for _ in range(2)]
    plain = collator(drawn[0], ASKED_TWICE, 2)
    packed = collator(drawn[1], ASKED_TWICE, 5, packed=True)
    assert packed.packing is not None and packed.rows.shape[0] == 3
    assert (packed.targets != -100).sum() == (plain.targets != -100).sum(), "none is asked twice"
    assert packed.rows.numel() < 0.8 * plain.rows.numel()
    losses, slopes = [], []
    for one in (plain, packed):
        model.zero_grad()
        loss, _ = model.answer_loss(one, model.adapters(one.documents, one.document_mask))
        torch.autograd.backward(loss)
        losses.append(float(loss.detach()))
        slopes.append(torch.cat([p.grad.flatten() for p in model.hypernetwork.parameters() if p.grad is not None]))
    assert abs(losses[0] - losses[1]) < 1e-4 * losses[0]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-4 * float(slopes[0].abs().max()))


def zeroed(lora: dict[int, BlockLora]) -> dict[int, BlockLora]:
    return {block: BlockLora(weights.a, torch.zeros_like(weights.b)) for block, weights in lora.items()}


def test_the_unrelated_loss_is_zero_for_a_zero_adapter_only(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        lora = model.adapters(batch.documents, batch.document_mask)
        assert abs(float(model.unrelated_loss(batch, zeroed(lora)))) <= 1e-6
        assert float(model.unrelated_loss(batch, lora)) > 1e-3


def silent_teacher(model: MetaModel, batch: Batch) -> tuple[MetaModel, Batch]:
    """A teacher that reads no document: it is the base model."""
    silent = MetaModel(model.base, model.hypernetwork, 0)
    return silent, replace(batch, document_mask=torch.zeros_like(batch.document_mask))


def test_the_teacher_loss_over_all_tokens_is_zero_where_student_and_teacher_are_equal(
    model: MetaModel, batch: Batch
) -> None:
    vocabulary = model.base.shape.vocab
    with torch.no_grad():
        lora = model.adapters(batch.documents, batch.document_mask)
        _, plain = model.answer_loss(batch, zeroed(lora))
        _, adapted = model.answer_loss(batch, lora)
        silent, empty = silent_teacher(model, batch)
        assert abs(float(silent.teacher_loss(empty, plain, vocabulary))) <= 1e-6
        assert float(silent.teacher_loss(empty, adapted, vocabulary)) > 1e-3
        assert float(model.teacher_loss(batch, plain, vocabulary)) > 1e-3, "with the document the teacher differs"


def test_the_teacher_loss_over_the_top_tokens_is_zero_where_both_are_equal(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        _, plain = model.answer_loss(batch, zeroed(model.adapters(batch.documents, batch.document_mask)))
        silent, empty = silent_teacher(model, batch)
        assert abs(float(silent.teacher_loss(empty, plain, 16))) <= 1e-6


def test_the_teacher_reads_its_own_document_before_each_row(model: MetaModel, batch: Batch) -> None:
    """One sequence at a time and without padding gives the same logits, in the order of the targets."""
    want = []
    for index, (row, target) in enumerate(zip(batch.rows, batch.targets, strict=True)):
        tokens = int(batch.document_mask[index // 2].sum()) + model.prefix_tokens
        last = int((target != -100).nonzero().max()) + 1
        ids = torch.cat((batch.documents[index // 2, :tokens], row[:last]))[None]
        x, _ = model.base.run(model.base.embed(ids), 0, SPEC.blocks)
        want.append(model.base.logits(x)[0, tokens:][target[:last] != -100])
    got = model._in_context(batch, 2)
    assert torch.allclose(got, torch.cat(want), atol=1e-4)


def test_losses_reach_every_part_of_the_hypernetwork_and_nothing_else(model: MetaModel, batch: Batch) -> None:
    model.zero_grad()
    losses = model(batch, LossWeights(answer=1.0, unrelated=0.5, teacher=0.5))
    total = losses.answer + 0.5 * losses.unrelated + 0.5 * losses.teacher
    assert torch.allclose(losses.total.detach(), total)
    torch.autograd.backward(losses.total)
    touched = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder", "gate", "gain", "value_maps", "slots", "bias_b"} <= touched
    assert all(name.startswith("hypernetwork.") for name, _ in model.named_parameters())
    model.zero_grad()


def test_shuffling_gives_every_document_the_adapter_of_another(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        lora = model.adapters(batch.documents, batch.document_mask)
    mixed = shuffle_rows(lora)
    for block, weights in lora.items():
        source = [[i for i in range(3) if torch.equal(mixed[block].b[row], weights.b[i])] for row in range(3)]
        assert sorted(i for found in source for i in found) == [0, 1, 2]
        assert all(found != [row] for row, found in enumerate(source))
        assert all(torch.equal(mixed[block].a[row], weights.a[i]) for row, (i,) in enumerate(source))


def test_the_shuffled_figure_is_the_loss_with_the_documents_exchanged(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        exchanged = model.adapters(batch.documents.roll(1, 0), batch.document_mask.roll(1, 0))
        count = int((batch.targets != -100).sum())
        want = float(model.answer_loss(batch, exchanged)[0]) / count
        right = float(model.answer_loss(batch, model.adapters(batch.documents, batch.document_mask))[0]) / count
    result = probe(model, [batch])
    assert result.shuffled == pytest.approx(want, abs=1e-4) and result.right == pytest.approx(right, abs=1e-4)
    assert abs(right - want) > 1e-2


def test_targets_are_the_next_tokens_of_the_answer_and_prompts_carry_no_loss(collator: Collator) -> None:
    for pair in (pair for example in EXAMPLES for pair in example.pairs):
        ids, targets = collator.row(pair)
        prompt = collator.encode(collator.prompts.render(pair.question))
        answer = collator.encode(pair.answer + "<|im_end|>")
        assert ids == prompt + answer and len(targets) == len(ids)
        learnt = [place for place, target in enumerate(targets) if target != -100]
        assert learnt == list(range(len(prompt) - 1, len(ids) - 1))
        assert all(targets[place] == ids[place + 1] for place in learnt)
        assert collator.tokenizer.decode([targets[p] for p in learnt], skip_special_tokens=True) == pair.answer


def test_long_rows_still_align(collator: Collator) -> None:
    for pair in (Pair("why " * 60, "because " * 3), Pair("why?", "because " * 60), Pair("why " * 60, "because " * 60)):
        ids, targets = collator.row(pair)
        assert len(ids) == len(targets) <= 160
        learnt = [place for place, target in enumerate(targets) if target != -100 and place + 1 < len(ids)]
        assert learnt and all(targets[place] == ids[place + 1] for place in learnt)


def test_a_batch_holds_documents_rows_and_another_documents_question(collator: Collator, batch: Batch) -> None:
    prefix = len(collator.prefix)
    assert prefix > 0 and batch.rows.shape[0] == 6 and batch.unrelated is not None
    for index, example in enumerate(EXAMPLES):
        tokens = int(batch.document_mask[index].sum())
        assert batch.document_mask[index, :tokens].all()
        document = batch.documents[index, : prefix + tokens].tolist()
        assert document == collator.encode(PREFIX) + collator.encode(example.text)
        own = {tuple(collator.row(pair)[0]) for pair in example.pairs}
        rows = [tuple(batch.rows[2 * index + i].tolist()) for i in range(2)]
        assert {row[:length] for row in rows for length in map(len, own)} & own == own
        others = [tuple(collator.row(p)[0]) for p in EXAMPLES[(index + 1) % 3].pairs]
        unrelated = tuple(batch.unrelated[index].tolist())
        assert any(unrelated[: len(other)] == other for other in others)


def test_questions_are_all_different_while_they_last() -> None:
    pairs = tuple(Pair(str(i), str(i)) for i in range(4))
    example = Example("facts", "", pairs)
    picked = pick_pairs(random.Random(1), example, 6)
    assert set(picked[:4]) == set(pairs) and len(picked) == 6


def test_the_perceiver_trains_in_the_same_place(base: TorchBase, batch: Batch, collator: Collator) -> None:
    torch.manual_seed(0)
    config = PerceiverConfig(
        hidden=32, taps=(1, 3), blocks=(1, 3), inputs=(48,), outputs=(32,), rank=2, latent=8, queries=4, cross_blocks=1,
        heads=2, kv_heads=1, head_size=8,
    )  # fmt: skip
    hypernetwork = PerceiverHypernetwork(config, base.get_buffer("output_norm_weight"), base.shape.norm_epsilon)
    model = MetaModel(base, hypernetwork, len(collator.prefix))
    with torch.no_grad():
        positions = batch.targets != -100
        plain = model.finish(model.enter(batch.rows), None, positions)
        assert torch.allclose(model.answer_loss(batch, model.adapters(batch.documents, batch.document_mask))[1], plain)
    optimizer = torch.optim.Adam(hypernetwork.parameters(), 1e-2)
    curve = []
    for _ in range(12):
        losses = model(batch, LossWeights(unrelated=0.0))
        optimizer.zero_grad()
        torch.autograd.backward(losses.total)
        optimizer.step()
        curve.append(float(losses.answer))
    assert curve[-1] < curve[0] - 0.5
    assert all(p.grad is not None and bool(p.grad.any()) for p in hypernetwork.parameters())


def test_cached_activations_are_the_computed_ones(model: MetaModel, batch: Batch) -> None:
    mask = batch.document_mask
    want = [part * mask[:, None, :, None] for part in model.encode(batch.documents)]
    model.cache = ActivationCache(2**24)
    for expected_hits in (0, len(batch.documents)):
        got = model.encode_cached(batch.documents, mask)
        assert model.cache.hits == expected_hits
        assert all(torch.equal(one, two) for one, two in zip(got, want, strict=True))


def test_the_cache_keeps_to_its_budget() -> None:
    value = (torch.zeros(2, 4, 8), torch.zeros(1, 4, 8))  # 384 bytes
    cache = ActivationCache(800)
    for key in (b"one", b"two"):
        cache.put(key, value)
    assert cache.get(b"one") is not None
    cache.put(b"three", value)
    assert cache.get(b"two") is None, "the one unused for longest goes"
    assert cache.get(b"one") is not None and cache.get(b"three") is not None


def test_extra_chunks_add_the_updates_of_other_documents(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        hidden, ffn = model.encode_cached(batch.documents, batch.document_mask)
        a, b = model.hypernetwork(hidden, ffn, batch.document_mask, torch.full((3,), 2.0))
        single = b @ a
        more_a, more_b = add_chunks(a, b, 1)
        assert torch.allclose(more_b @ more_a, single + single.roll(1, 0), atol=1e-5)


def filler(model: MetaModel, count: int) -> ChunkTokens:
    """Chunks of up to 96 random tokens behind the prefix."""
    generator = torch.Generator().manual_seed(5)
    ids: Tensor = torch.randint(3, 250, (count, model.prefix_tokens + 96), generator=generator)
    lengths = torch.tensor([96 - 9 * (number % 4) for number in range(count)])
    return ChunkTokens(ids, (torch.arange(96) < lengths[:, None]).float())


def unpadded(model: MetaModel, chunks: ChunkTokens) -> list[Tensor]:
    """Ids of each."""
    lengths = chunks.mask.sum(1).long() + model.prefix_tokens
    return [row[:length] for row, length in zip(chunks.ids, lengths.tolist(), strict=True)]


def attached(model: MetaModel, chunks: list[Tensor]) -> dict[int, np.ndarray[Any, Any]]:
    """What an attach makes of a document's chunks, with the run time's own arithmetic: block to update."""
    net, blocks = model.hypernetwork, model.config.blocks
    assert isinstance(net, AssociationHypernetwork)
    parts, moment = [], None
    for ids in chunks:
        hidden, ffn = model.encode(ids[None])
        a, b = net(hidden, ffn, torch.ones(hidden.shape[:1] + hidden.shape[2:3]), torch.tensor([float(len(chunks))]))
        parts.append(LoraWeights({"ffn_down": LoraTarget(blocks, a[0].numpy(), b[0].numpy())}))
        moment = add_inputs(moment, ffn[0].numpy())
    metric = Metric(net.basis.numpy(), net.excess.numpy(), net.floor().numpy())
    assert moment is not None
    made = whiten(merge(parts), {"ffn_down": moment}, {"ffn_down": metric}, net.config.whitening).weights
    target = made.targets["ffn_down"]
    bias = (net.bias_b @ net.bias_a).numpy()
    return {block: target.b[i] @ target.a[i] + bias[i] for i, block in enumerate(blocks)}


@pytest.fixture
def no_gradient() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("no_gradient")
def test_training_whitens_as_attaching_does(model: MetaModel, batch: Batch) -> None:
    lora = model.adapters(batch.documents, batch.document_mask)
    for row in range(3):
        tokens = model.prefix_tokens + int(batch.document_mask[row].sum())
        want = attached(model, [batch.documents[row, :tokens]])
        for block, update in want.items():
            got = (lora[block].b[row] @ lora[block].a[row]).numpy()
            np.testing.assert_allclose(got, update, atol=2e-3 * np.abs(update).max())


@pytest.mark.parametrize(("live", "settled"), [(0, 5), (3, 0), (2, 3)])
@pytest.mark.usefixtures("no_gradient")
def test_a_surrounded_document_is_one_of_many_chunks(model: MetaModel, batch: Batch, live: int, settled: int) -> None:
    chunks, total = filler(model, live + settled), 1 + live + settled
    try:
        model.settle(chunks.chosen(range(live, live + settled)) if settled else None, total)
        surround = Surround(chunks.chosen(range(live)) if live else None, settled=bool(settled))
        lora = model.adapters(batch.documents[:1], batch.document_mask[:1], 0, surround)
    finally:
        model.settle(None, 0)
    tokens = model.prefix_tokens + int(batch.document_mask[0].sum())
    want = attached(model, [batch.documents[0, :tokens], *unpadded(model, chunks)])
    for block, update in want.items():
        weights = lora[block]
        assert weights.shared is not None
        got = (weights.b[0] @ weights.a[0] + weights.shared).numpy()
        np.testing.assert_allclose(got, update, atol=1e-4 * np.abs(update).max())


def test_a_document_writes_less_into_a_longer_one(model: MetaModel, batch: Batch) -> None:
    with torch.no_grad():
        hidden, ffn = model.encode_cached(batch.documents, batch.document_mask)
        few, many = (model.hypernetwork(hidden, ffn, batch.document_mask, torch.full((3,), n))[1] for n in (1.0, 64.0))
    assert float(many.norm()) < 0.5 * float(few.norm())


def test_a_new_run_starts_from_another_runs_weights(ground: Path, tmp_path: Path, start: Start) -> None:
    first, second, log = tmp_path / "first", tmp_path / "second", tmp_path / "log"
    finish(start(train_command(ground, "pair.toml", first), log), log)
    command = [*train_command(ground, "pair.toml", second), "--init", str(first / "checkpoint.pt")]
    finish(start(command, log), log)
    rows = [json.loads(line) for line in (second / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["event"] == "started from" and rows[0]["step"] == 1 and rows[0]["new parameters"] == []
    one, two = load_state(first)["hypernetwork"], load_state(second)["hypernetwork"]
    assert two["gain"].sub(one["gain"]).abs().max() < 0.05, "one more step from there, not from the start"


def test_named_parameters_start_as_always_whatever_is_given() -> None:
    module, given = torch.nn.Linear(2, 2), {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    before = module.bias.detach().clone()
    assert take_given(module, Path("given.pt"), given, ("bias",)) == ["bias"]
    assert torch.equal(module.weight, given["weight"]) and torch.equal(module.bias, before)
    with pytest.raises(ConfigError, match=r"run\.fresh names 'slope'"):
        take_given(module, Path("given.pt"), given, ("slope",))


def test_a_start_that_does_not_fit_is_one_clear_line(ground: Path, tmp_path: Path, start: Start) -> None:
    torch.save({"step": 1, "hypernetwork": {"gain": torch.zeros(9)}}, tmp_path / "other.pt")
    for wanted, path in (("gain", tmp_path / "other.pt"), ("missing", tmp_path / "none.pt")):
        log = tmp_path / "log"
        process = start([*train_command(ground, "pair.toml", tmp_path / "out"), "--init", str(path)], log)
        assert process.wait(CHILD_SECONDS) != 0
        text = log.read_text(encoding="utf-8")
        assert wanted in text and "error: checkpoint" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_new_run_starts_from_a_bundle(ground: Path, tmp_path: Path, start: Start) -> None:
    first, second, log = tmp_path / "first", tmp_path / "second", tmp_path / "log"
    # Some steps, so that no two tensors are equal any more and the exporter takes none for another.
    finish(start([*train_command(ground, "recipe.toml", first), "--stop-at", "5"], log), log)
    bundle = tmp_path / "made.onnx"
    where = ["--recipe", str(ground / "recipe.toml"), "--base", str(ground / "base.gguf"), "--out", str(bundle)]
    finish(start(["localhyper.export.make_bundle", str(first), *where], log), log)
    finish(start([*train_command(ground, "pair.toml", second), "--init", str(bundle)], log), log)
    rows = [json.loads(line) for line in (second / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["event"] == "started from" and rows[0]["run"] == "made.onnx" and rows[0]["new parameters"] == []
    one, two = load_state(first)["hypernetwork"], load_state(second)["hypernetwork"]
    assert two["gain"].sub(one["gain"]).abs().max() < 0.05
    assert torch.allclose(two["basis"], one["basis"], atol=1e-3), "moments are the bundle's, not made anew"


def test_the_bases_own_replies_are_among_what_must_not_change(ground: Path) -> None:
    tokenizer = load_tokenizer(ground / "base.gguf")
    names = (["reading.jsonl"], ["text.txt"])
    train, held = load_corpus(ground, *names, tokenizer, 96, 4, ["tasks.jsonl"], ["own.jsonl"])
    assert len(train.replies) == 6 and len(held.replies) == 3 and not set(train.replies) & set(held.replies)
    maker = ExampleMaker(train, tokenizer, 96)
    drawn = [maker.unrelated(random.Random(i)) for i in range(200)]
    assert 80 < sum(pair in train.replies for pair in drawn) < 160


def test_general_questions_are_asked_with_the_bases_own_answers(ground: Path) -> None:
    tokenizer, mixture = load_tokenizer(ground / "base.gguf"), Mixture(facts=0, reading=0.5, continuation=0, about=0.5)
    files = (["reading.jsonl"], ["text.txt"])
    train, held = load_corpus(ground, *files, tokenizer, 96, 4, about=["about.jsonl"])
    assert len(train.about) == 6 and len(held.about) == 3
    maker = ExampleMaker(train, tokenizer, 96)
    drawn = [maker.draw(random.Random(i), mixture, 0) for i in range(100)]
    assert 30 < sum(example in train.about for example in drawn) < 70
    plain = ExampleMaker(load_corpus(ground, *files, tokenizer, 96, 4)[0], tokenizer, 96)
    with pytest.raises(ConfigError, match=r"data\.about"):
        plain.draw(random.Random(0), Mixture(facts=0, reading=0, continuation=0, about=1), 0)


def test_sets_that_are_only_probed_leave_the_others_whole(ground: Path, tmp_path: Path) -> None:
    tokenizer, root = load_tokenizer(ground / "base.gguf"), ground
    names = (["reading.jsonl"], ["text.txt"])
    whole = read_reading(root / "reading.jsonl", tokenizer, 96)
    unseen = {
        "context": "The mill of Ostend was built by Jan Ros.",
        "qas": [{"question": "By whom?", "answers": ["Jan Ros"]}],
    }
    both = [unseen, {"context": whole[0].text, "qas": [{"question": "What?", "answers": [whole[0].pairs[0].answer]}]}]
    (tmp_path / "probed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both), encoding="utf-8")
    train, held = load_corpus(root, *names, tokenizer, 96, 4, probed=[str(tmp_path / "probed.jsonl")])
    assert [example.text for example in held.reading] == [unseen["context"], whole[0].text]
    # Nothing is held out of `reading` but what is probed, too.
    assert [e.text for e in train.reading] == [e.text for e in whole if e.text[:80] != whole[0].text[:80]]
    with pytest.raises(ConfigError, match=r"gone\.jsonl is missing"):
        load_corpus(root, *names, tokenizer, 96, 4, probed=["gone.jsonl"])


def test_a_base_model_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    for name, content in (("other.gguf", b"no model at all"), ("empty.gguf", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name} cannot be read as GGUF"):
            load_tokenizer(tmp_path / name)
        with pytest.raises(ModelError, match=f"{name} cannot be read as GGUF"):
            TorchBase(tmp_path / name)
        with pytest.raises(ModelError, match=f"{name} cannot be read as GGUF"):
            read_prompt_format(tmp_path / name, PREFIX)


def test_training_without_its_base_or_folder_is_one_clear_line(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    recipe, base = str(ground / "recipe.toml"), str(ground / "base.gguf")
    for given, out, said in (("missing.gguf", "run", "does not exist"), (base, "file/run", "cannot be made")):
        with pytest.raises(SystemExit) as ended:
            train_main([recipe, "--base", given, "--data", str(ground), "--out", str(tmp_path / out)])
        assert ended.value.code and said in capsys.readouterr().err


def test_a_run_without_its_curve_cannot_be_exported(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no curve\.jsonl"):
        make_card(load_recipe(ground / "recipe.toml"), tmp_path, {"steps": 1})
