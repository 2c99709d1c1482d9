"""Meta-training proven on a tiny model: survives SIGKILL, several processes, its losses, its control, its targets."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("accelerate", reason="accelerate is in the [train] extra")

from torch import Tensor  # noqa: E402

from localhyper.export.batches import Batch, Collator  # noqa: E402
from localhyper.export.cache import ActivationCache  # noqa: E402
from localhyper.export.data import Example, Pair, pick_pairs  # noqa: E402
from localhyper.export.hypernetwork import AssociationConfig, AssociationHypernetwork  # noqa: E402
from localhyper.export.metric import low_rank, second_moments  # noqa: E402
from localhyper.export.objectives import LossWeights, MetaModel, add_chunks, probe, shuffle_rows  # noqa: E402
from localhyper.export.perceiver import PerceiverConfig, PerceiverHypernetwork  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import BlockLora, TorchBase  # noqa: E402
from localhyper.export.train import Run  # noqa: E402
from localhyper.export.train_config import load_recipe  # noqa: E402
from tests.tiny_gguf import TinySpec, write_tiny_gguf  # noqa: E402

pytestmark = [pytest.mark.torch]

SPEC = TinySpec(blocks=4, hidden=32, ffn=48)
PREFIX = "<|im_start|>user\n"
STEPS, SAVE_EVERY = 40, 3  # steps enough that a run is surely killed before its end
CHILD_SECONDS = 240
RECIPE = """
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

[mixture]
facts = 0.5
reading = 0.3
continuation = 0.2
most_facts = 2
facts_ramp = 2

[loss]
unrelated = 0.3
teacher = 0.2

[data]
reading = ["reading.jsonl"]
texts = ["text.txt"]
holdout = 4

[run]
steps = {steps}
documents = 2
rows = 2
max_row = 160
unrelated_every = 2
save_every = {save_every}
probe_every = 1000
probe_batches = 1
moment_tokens = 1000
"""


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
    sentences = (f"Boat {i} came home at dawn." for i in range(80))
    (folder / "text.txt").write_text(" ".join(sentences), encoding="utf-8")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model, data and a recipe."""
    folder: Path = tmp_path_factory.mktemp("training")
    write_tiny_gguf(folder / "base.gguf", SPEC)
    write_data(folder)
    (folder / "recipe.toml").write_text(RECIPE.format(steps=STEPS, save_every=SAVE_EVERY), encoding="utf-8")
    (folder / "one.toml").write_text(RECIPE.format(steps=1, save_every=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small only lose time to threads, and one thread is what the subprocesses have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_command(ground: Path, recipe: str, out: Path) -> list[str]:
    where = [str(ground / recipe), "--base", str(ground / "base.gguf"), "--data", str(ground), "--out", str(out)]
    return ["localhyper.export.train", *where, "--device", "cpu", "--dtype", "float32", "--threads", "1"]


Process = subprocess.Popen[str]
Start = Callable[[list[str], Path], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python module in a process group of its own; no group outlives the test or pytest's time limit."""
    groups: list[Process] = []

    def begin(arguments: list[str], log: Path) -> Process:
        command, environment = [sys.executable, "-m", *arguments], os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w", encoding="utf-8") as errors:
            options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors, "start_new_session": True}
            groups.append(subprocess.Popen(command, text=True, env=environment, **options))
        return groups[-1]

    def end() -> None:
        for process in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    watch = threading.Timer(CHILD_SECONDS, end)
    watch.start()
    yield begin
    watch.cancel()
    end()
    for process in groups:
        process.communicate()


def finish(process: Process, log: Path) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, log.read_text(encoding="utf-8")[-3000:]
    return out


def kill_after_step(process: Process, step: int) -> None:
    """SIGKILL as soon as the run has reported `step`."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step") == step:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def load(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    return state


def answers(out: Path) -> dict[int, float]:
    """Training loss of each step; the last report of a step counts."""
    rows = map(json.loads, (out / "curve.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["answer"] for row in rows if "answer" in row}


def flat_tensors(value: object, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested state, with their places."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flat_tensors(inner, f"{where}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from flat_tensors(inner, f"{where}/{index}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # accelerate's own, in this process
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(ground: Path, tmp_path: Path, start: Start) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    arguments = train_command(ground, "recipe.toml", broken)
    killed = start(arguments, log)
    kill_after_step(killed, 2 * SAVE_EVERY + 1)
    assert killed.returncode == -signal.SIGKILL, log.read_text(encoding="utf-8")[-3000:]
    reached = load(broken)["step"]
    assert 2 * SAVE_EVERY <= reached < STEPS
    # A kill in the middle of a write leaves a torn temporary file behind.
    (broken / "checkpoint.tmp").write_bytes(b"torn")
    resumed = start(arguments, log)
    whole.mkdir()
    Run(load_recipe(ground / "recipe.toml"), ground / "base.gguf", ground, whole, "cpu", torch.float32).train()
    lines = finish(resumed, log).splitlines()
    assert {"event": "resumed", "step": reached} in [json.loads(line) for line in lines]
    want, got = load(whole), load(broken)
    assert got["step"] == want["step"] == STEPS
    for part in ("hypernetwork", "optimizers"):
        wanted, made = dict(flat_tensors(want[part])), dict(flat_tensors(got[part]))
        assert wanted.keys() == made.keys() and wanted
        different = [name for name in wanted if not torch.equal(wanted[name], made[name])]
        assert not different, (part, different)
    assert answers(broken) == answers(whole) and len(answers(whole)) == STEPS


def averaged_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What two processes must do together, done by one: a step on the mean of their losses."""
    losses = []
    for index in range(2):
        monkeypatch.setattr(type(run.accelerator), "process_index", index)
        batch = run.batch(run.maker, 0, run.recipe.mixture, unrelated=True)
        result = run.model(batch, run.recipe.loss)
        torch.autograd.backward(result.total / 2)
        losses.append(float(result.answer))
    parameters = [p for p in run.model.hypernetwork.parameters() if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(parameters, run.recipe.run.clip)
    for optimizer in run.optimizers:
        optimizer.step()
    return losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # accelerate's own, in this process
def test_two_processes_do_the_step_of_one(
    ground: Path, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, single = tmp_path / "pair", tmp_path / "single"
    log = tmp_path / "pair.log"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = start([*launcher, *train_command(ground, "one.toml", pair)], log)
    single.mkdir()
    run = Run(load_recipe(ground / "one.toml"), ground / "base.gguf", ground, single, "cpu", torch.float32)
    losses = averaged_step(run, monkeypatch)
    assert abs(losses[0] - losses[1]) > 1e-3, "the processes must see different data"
    finish(process, log)
    environment = json.loads((pair / "curve.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert environment["processes"] == 2
    # After one step the moments are the averaged, clipped gradients up to a factor.
    got = dict(flat_tensors(load(pair)["optimizers"]))
    want = dict(flat_tensors([optimizer.state_dict() for optimizer in run.optimizers]))
    moments = [name for name in want if name.endswith(("momentum_buffer", "exp_avg"))]
    assert got.keys() == want.keys() and len(moments) > 10
    assert any(bool(want[name].any()) for name in moments)
    largest = max(float(want[name].abs().max()) for name in moments)
    for name in moments:
        assert torch.allclose(got[name], want[name], rtol=1e-4, atol=1e-6 * largest), name


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
    return collator(random.Random(0), EXAMPLES, 2)


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
        want = float(model.answer_loss(batch, exchanged)[0])
        right = float(model.answer_loss(batch, model.adapters(batch.documents, batch.document_mask))[0])
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
        a, b = model.hypernetwork(hidden, ffn, batch.document_mask)
        single = b @ a
        more_a, more_b = add_chunks(a, b, 1)
        assert torch.allclose(more_b @ more_a, single + single.roll(1, 0), atol=1e-5)
