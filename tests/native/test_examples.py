"""Examples learnt by the default model: what they teach, what they leave alone, and what is put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import localhyper
from localhyper.attach_steps import AttachSteps
from localhyper.config import load_config
from localhyper.engine import AdapterUse, CaptureSpec, ChatMessage, Engine, EngineConfig, FloatArray, Sampling
from localhyper.errors import Cancelled
from localhyper.evaluate.task_items import grade_text
from localhyper.example_descent import DescentSettings
from localhyper.example_fit import FitSettings
from localhyper.example_lesson import LearnSettings, Learnt, learn_examples, learning_operations
from localhyper.example_turns import end_of_turn, example_turns
from localhyper.gguf_adapter import AdapterMetadata, read_adapter, write_adapter
from localhyper.hypernet import OnnxHypernetwork
from localhyper.llama_engine import LlamaEngine
from localhyper.lora import LoraTarget, LoraWeights
from localhyper.paths import Paths
from localhyper.pipeline import AttachOptions
from localhyper.progress import CancelToken, Progress
from localhyper.task_examples import TaskExample, described
from localhyper.task_pipeline import task_document
from localhyper.upper_weights import FAMILIES
from localhyper.workbench import Workbench

pytestmark = pytest.mark.native
SHIPPED = Path(localhyper.__file__).parent / "bundles" / "smollm2-135m-task.onnx"
DESCRIPTION = "Sort the customer's message into a category."
SHOWN = [
    TaskExample("My parcel never came.", "delivery"),
    TaskExample("The zip of this jacket broke after a day.", "quality"),
    TaskExample("I was charged twice this month.", "billing"),
    TaskExample("When will my order arrive?", "delivery"),
    TaskExample("The colour faded in the first wash.", "quality"),
    TaskExample("Why is my invoice higher than the quote?", "billing"),
]
ASKED = {
    "The courier left it in the rain.": "delivery",
    "Please refund the double payment.": "billing",
    "I want to change my delivery address.": "delivery",
    "The handle came off on the second day.": "quality",
    "Your driver went to the wrong house.": "delivery",
    "There is a fee on my bill that I don't know.": "billing",
}


@pytest.fixture(scope="module")
def engine(default_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(default_model_path, EngineConfig(n_ctx=1024)) as made:
        yield made


@pytest.fixture
def bench(default_model_path: Path, paths: Paths) -> Iterator[Workbench]:
    with Workbench(paths.create(), load_config(paths.config_file), base=str(default_model_path)) as made:
        yield made


def nothing(engine: LlamaEngine) -> LoraWeights:
    """An adapter of all blocks that does nothing."""
    info = engine.info
    a = np.zeros((info.block_count, 1, info.ffn_size), np.float32)
    b = np.zeros((info.block_count, info.hidden_size, 1), np.float32)
    return LoraWeights({"ffn_down": LoraTarget(tuple(range(info.block_count)), a, b)})


def steps(told: list[Progress] | None = None, cancel: CancelToken | None = None) -> AttachSteps:
    return AttachSteps("a task", (told if told is not None else []).append, cancel or CancelToken())


def nats(engine: Engine, pairs: dict[str, str]) -> float:
    """Mean log-likelihood of the answers, in nats each."""
    found = [engine.score([ChatMessage("system", ""), ChatMessage("user", q)], a).sum() for q, a in pairs.items()]
    return float(np.mean(found))


def in_force(engine: LlamaEngine, learnt: Learnt, path: Path) -> None:
    write_adapter(path, learnt.weights, engine.info, AdapterMetadata(base_fingerprint=engine.info.fingerprint))
    engine.set_adapters([AdapterUse(path)])


def test_labels_are_learnt_and_carry_over_to_other_inputs(bench: Workbench) -> None:
    engine, options = bench.engine(), bench.options("a")
    told = bench.attach_task(task_document(DESCRIPTION), options).result
    taught = bench.attach_task(task_document(described(DESCRIPTION, SHOWN)), bench.options("b")).result
    turned = [TaskExample(one.input, {"delivery": "x", "quality": "y", "billing": "z"}[one.output]) for one in SHOWN]
    other = bench.attach_task(task_document(described(DESCRIPTION, turned)), bench.options("c")).result
    assert (told.examples, taught.examples, "learn" in taught.timings) == (0, 6, True)
    found = {}
    for name, result in (("told", told), ("taught", taught), ("other", other)):
        engine.set_adapters([AdapterUse(result.adapter.path)])
        found[name] = nats(engine, ASKED)
    assert found["taught"] > found["told"] + 2, found
    assert found["taught"] > found["other"] + 2, "what other labels teach does not help"
    engine.set_adapters([AdapterUse(taught.adapter.path)])
    replies = [reply_to(engine, question) for question in ASKED]
    right = [grade_text([wanted], reply).exact for reply, wanted in zip(replies, ASKED.values(), strict=True)]
    assert sum(map(bool, right)) >= 4, replies


def reply_to(engine: Engine, question: str) -> str:
    messages = [ChatMessage("system", ""), ChatMessage("user", question)]
    return "".join(piece.text for piece in engine.generate(messages, Sampling(max_tokens=12)))


def test_the_same_task_is_found_and_other_examples_make_another(bench: Workbench) -> None:
    document = task_document(described(DESCRIPTION, SHOWN[:2]))
    first = bench.attach_task(document, bench.options("")).result
    again = bench.attach_task(document, bench.options("")).result
    assert again.reused and again.adapter.path == first.adapter.path and not first.adapter.notes
    fewer = bench.attach_task(task_document(described(DESCRIPTION, SHOWN[:1])), bench.options("")).result
    assert not fewer.reused and fewer.adapter.name != first.adapter.name
    weights, metadata = read_adapter(first.adapter.path)
    assert weights.rank == metadata.rank or weights.rank > metadata.rank > 0
    assert set(weights.targets) == {"attn_q", "attn_v", *DescentSettings().modules}
    assert set(weights.targets["attn_q"].layers) > set(weights.targets["ffn_up"].layers) == set(range(15, 30))


def test_examples_alone_are_enough_and_adapters_in_force_are_put_back(engine: LlamaEngine, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    write_adapter(mine, nothing(engine), engine.info, AdapterMetadata(base_fingerprint=engine.info.fingerprint))
    engine.set_adapters([AdapterUse(mine)])
    before = nats(engine, ASKED)
    told: list[Progress] = []
    learnt = learn_examples(engine, nothing(engine), SHOWN, steps(told))
    assert engine.adapters == (AdapterUse(mine),) and nats(engine, ASKED) == before
    assert (learnt.examples, learnt.left_out) == (6, 0)
    assert learnt.tokens == sum(len(turn.ids) for turn in example_turns(engine, SHOWN))
    # Read once through llama.cpp, then eight steps, whose pace says how long is left.
    assert [(one.stage, one.done, one.total) for one in told] == [("learn", 6 * read, 54) for read in range(10)]
    assert [one.eta_seconds is not None for one in told] == [False, False, *[True] * 7, False]
    in_force(engine, learnt, tmp_path / "learnt.gguf")
    assert nats(engine, ASKED) > before + 4
    engine.set_adapters([])


def test_learning_begins_with_what_other_tasks_taught(engine: LlamaEngine, tmp_path: Path) -> None:
    """The shipped factors: what little is shown carries further than from random ones."""
    initial = OnnxHypernetwork.load(SHIPPED, threads=1).initial()
    assert initial is not None and (initial.start, initial.rank) == (15, 8)
    assert set(initial.weights.targets) == set(DescentSettings().modules)
    found = []
    for begun in (None, initial):
        learnt = learn_examples(engine, nothing(engine), SHOWN, steps(), initial=begun)
        assert not learnt.no_gradients and learnt.weights.targets["ffn_up"].layers == tuple(range(15, 30))
        in_force(engine, learnt, tmp_path / "learnt.gguf")
        found.append(nats(engine, ASKED))
    engine.set_adapters([])
    assert found[1] > found[0] + 0.1, found
    asked = [learning_operations(engine, SHOWN, initial=begun) for begun in (None, initial)]
    assert asked[0] == asked[1]


def test_whoever_is_told_may_use_the_engine_meanwhile(engine: LlamaEngine) -> None:
    """As the terminal UI answers questions while a task is being learnt."""
    alone = learn_examples(engine, nothing(engine), SHOWN[:2], steps())

    def chat(_: Progress) -> None:
        engine.set_adapters([])
        engine.encode(engine.tokenize("Something else."), CaptureSpec((1,)))
        reply_to(engine, "Who are you?")

    beside = learn_examples(engine, nothing(engine), SHOWN[:2], AttachSteps("a task", chat, CancelToken()))
    for one, two in zip(alone.weights.targets.values(), beside.weights.targets.values(), strict=True):
        assert np.array_equal(one.a, two.a) and np.array_equal(one.b, two.b)


def test_it_stops_when_told_to_and_puts_back_what_was_in_force(engine: LlamaEngine) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        learn_examples(engine, nothing(engine), SHOWN, steps(cancel=token))
    assert engine.adapters == ()
    later = CancelToken()
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if progress.done > 12:
            later.cancel()

    with pytest.raises(Cancelled):
        learn_examples(engine, nothing(engine), SHOWN, AttachSteps("a task", stop, later))
    assert engine.adapters == () and told[-1].done == 18


@pytest.mark.parametrize("why", ["unlike llama.cpp", "long", "memory"])
def test_what_gradients_are_not_computed_of_is_learnt_in_closed_form(
    engine: LlamaEngine, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "localhyper")
    shown = SHOWN[:3]
    if why == "unlike llama.cpp":
        # As if blocks were computed otherwise than llama.cpp does: rotary pairs of another kind.
        monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], halves=True))
    elif why == "long":
        shown = [TaskExample("word " * 500, "yes"), SHOWN[0]]
        monkeypatch.setattr("localhyper.example_lesson.LONGEST", 400)
    else:
        monkeypatch.setattr("localhyper.upper_weights.available_memory", lambda: 1 << 28)
    settings = LearnSettings(rounds=FitSettings(rounds=2))
    learnt = learn_examples(engine, nothing(engine), shown, steps(), settings)
    assert set(learnt.weights.targets) == {"ffn_down"} and learnt.examples == len(shown)
    said = {"unlike llama.cpp": "apart from llama.cpp's", "long": "more than 400", "memory": "MiB"}[why]
    (message,) = caplog.messages
    assert said in message and "closed form" in message and learnt.no_gradients in message
    operations = learning_operations(engine, shown, settings)
    if why != "unlike llama.cpp":  # which the header does not tell
        assert operations == 2.0 * engine.info.parameter_count * 2 * learnt.tokens


def test_operations_are_of_one_reading_and_of_the_steps(engine: LlamaEngine) -> None:
    turns = example_turns(engine, SHOWN)
    tokens, said = sum(len(turn.ids) for turn in turns), sum(len(turn.wanted) for turn in turns)
    block = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    wanted = 2.0 * engine.info.parameter_count * tokens + 8 * 4.0 * (15 * block * tokens + 576 * 49152 * said)
    assert learning_operations(engine, SHOWN) == wanted
    assert learning_operations(engine, [TaskExample("word " * 3000, "yes")]) == 0


def test_what_is_too_long_is_left_out_and_said(
    engine: LlamaEngine, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localhyper.example_lesson.MOST_PLACES", 300)
    long = TaskExample("word " * 3000, "yes")
    wordy = TaskExample("Copy a lot.", "word " * 180)
    learnt = learn_examples(engine, nothing(engine), [long, SHOWN[0]], steps())
    assert (learnt.examples, learnt.left_out) == (1, 1)
    learnt = learn_examples(engine, nothing(engine), [long], steps())
    assert (learnt.examples, learnt.left_out, learnt.tokens) == (0, 1, 0)
    made = bench.attach_task(task_document(described("Copy.", [wordy, wordy, SHOWN[0]])), AttachOptions(name="w"))
    (note,) = made.result.adapter.notes
    assert made.result.examples == 2 and note.startswith("1 of 3 examples"), note


def test_control_tokens_in_an_example_are_plain_text(engine: LlamaEngine) -> None:
    end = end_of_turn(engine)
    assert engine.detokenize(end) == "" and len(end) == 1
    (turn,) = example_turns(engine, [TaskExample("a<|im_end|>b", "c<|im_end|>d")])
    assert list(turn.ids).count(int(end[0])) == 3, "of the system message, of the user's, of the answer"
    assert turn.wanted[-1] == end[0] and engine.detokenize(turn.wanted) == "c<|im_end|>d"
    assert len(range(len(turn.ids))[turn.places]) == len(turn.wanted)


def test_logits_come_with_activations_and_are_those_of_one_read_alone(engine: LlamaEngine) -> None:
    """Some begin alike, one is longer than a batch and wants more rows than a call may have, one wants none."""
    text = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old oak. "
    long = np.tile(engine.tokenize(text), 30)[:600]
    parts = [engine.tokenize(text), engine.tokenize("The quick answer is no."), long, engine.tokenize("The end.")]
    firsts, capture = [7, 2, 400, 2], CaptureSpec((12,), (22, 28))
    firsts[3] = len(parts[3])
    got: dict[int, list[tuple[int, FloatArray]]] = {}
    found = engine.read_together(
        parts, capture, firsts, lambda n, start, rows: got.setdefault(n, []).append((start, rows))
    )
    assert sorted(got) == [0, 1, 2] and len(got[2]) > 1
    for number, rows in got.items():
        assert [start for start, _ in rows] == [
            firsts[number] + sum(len(of_step) for _, of_step in rows[:place]) for place in range(len(rows))
        ]
        whole, alone = np.concatenate([of_step for _, of_step in rows]), engine.logits(parts[number], firsts[number])
        assert whole.shape == alone.shape
        assert np.abs(whole - alone).max() <= 0.1 * np.abs(alone).max()
        assert (whole.argmax(1) == alone.argmax(1)).mean() > 0.9
    for ids, one in zip(parts, found, strict=True):
        alone_read = engine.encode(ids, capture)
        assert one.ffn.shape == alone_read.ffn.shape
        assert np.abs(one.ffn - alone_read.ffn).max() <= 0.1 * np.abs(alone_read.ffn).max()
    every = engine.read_together(parts[:2], CaptureSpec((), (29,)), [0, 0], lambda n, start, rows: None)
    assert np.abs(every[0].ffn - engine.encode(parts[0], CaptureSpec((), (29,))).ffn).max() < 1
    with pytest.raises(ValueError, match="outside"):
        engine.read_together([long], capture, [601], no_rows)


def no_rows(number: int, start: int, rows: FloatArray) -> None:
    raise AssertionError("no logits were asked for")


def test_activations_under_adapters_are_another_models_and_leave_nothing_behind(
    engine: LlamaEngine, tmp_path: Path
) -> None:
    rng, info = np.random.default_rng(0), engine.info
    target = LoraTarget(
        (3,),
        rng.normal(0, 0.05, (1, 4, info.ffn_size)).astype(np.float32),
        rng.normal(0, 1, (1, info.hidden_size, 4)).astype(np.float32),
    )
    path = tmp_path / "a.gguf"
    write_adapter(path, LoraWeights({"ffn_down": target}), info, AdapterMetadata(base_fingerprint=info.fingerprint))
    ids, capture = engine.tokenize("The quick brown fox jumps over the lazy dog."), CaptureSpec((3, 4, 30), (3, 29))
    plain = engine.encode(ids, capture)
    engine.set_adapters([AdapterUse(path)])
    (adapted,) = engine.read_together([ids], capture, [len(ids)], no_rows)
    pair = engine.read_together([ids[:5], ids], capture, [5, len(ids)], no_rows)[1]
    after = engine.encode(ids, capture)
    engine.set_adapters([])
    (none,) = engine.read_together([ids], capture, [len(ids)], no_rows)
    for same in (after, none):
        assert np.array_equal(same.hidden, plain.hidden) and np.array_equal(same.ffn, plain.ffn)
    assert np.array_equal(adapted.hidden[0], plain.hidden[0]) and np.array_equal(adapted.ffn[0], plain.ffn[0])
    wanted = plain.hidden[1] + (plain.ffn[0] @ target.a[0].T) @ target.b[0].T
    assert np.abs(adapted.hidden[1] - wanted).max() < 0.02 * np.abs(wanted - plain.hidden[1]).max()
    assert np.abs(adapted.hidden[2] - plain.hidden[2]).max() > 1
    assert np.abs(pair.ffn - adapted.ffn).max() < 0.05 * np.abs(adapted.ffn).max()
