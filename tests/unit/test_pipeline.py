"""The pipeline with a scripted engine and a tiny real ONNX bundle: numbers, reuse, stop and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from localhyper.database import Database
from localhyper.engine import Activations
from localhyper.errors import Cancelled, ConfigError, HypernetworkError, LibraryError, SourceError
from localhyper.example_lesson import Learnt
from localhyper.gguf_adapter import read_adapter
from localhyper.hypernet import OnnxHypernetwork
from localhyper.initial_factors import InitialFactors
from localhyper.library import Library, chunk_folder
from localhyper.lora import FloatArray, LoraWeights
from localhyper.pipeline import AttachOptions, AttachResult, attach_document
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from localhyper.task_examples import UNDESCRIBED, TaskExample, described
from localhyper.task_pipeline import task_document
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, bias_arrays, write


def document(words: int = 60, title: str = "Long words", seed: int = 0) -> Document:
    """A document of made-up words, some of them again and again."""
    numbers = np.random.default_rng(seed).integers(0, 40, words)
    text = " ".join(f"word{number}." if place % 9 == 8 else f"word{number}" for place, number in enumerate(numbers))
    return Document(title, text, "txt", hashlib.sha256(text.encode()).hexdigest(), "x.txt")


class Place:
    """A library, a bundle and a checkpoint folder under one path."""

    def __init__(self, root: Path, tiny: TinyBundle | None = None) -> None:
        """Make them."""
        self.root = root
        self.library = Library(Database(root / "library.sqlite3"), root / "adapters")
        self.network = OnnxHypernetwork.load(write(root / "tiny.onnx", tiny), threads=1)
        self.reports: list[Progress] = []

    def attach(
        self,
        what: Document | None = None,
        engine: ScriptedEngine | None = None,
        cancel: CancelToken | None = None,
        watch: Callable[[Progress], None] | None = None,
        **options: object,
    ) -> AttachResult:
        """Attach with f32 files and checkpoints on."""
        chosen = AttachOptions(**{"cache_dir": self.root / "chunks", "dtype": "f32", **options})  # type: ignore[arg-type]
        return attach_document(
            what or document(), engine or ScriptedEngine(), self.network, self.library, chosen,
            watch or self.reports.append, cancel,
        )  # fmt: skip


# Of the largest value, what rounding both factors to q5_0 changes in their product at most, with room.
Q5_0_ERROR = 0.08


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty place."""
    return Place(tmp_path)


def dense(weights: LoraWeights) -> FloatArray:
    """The updates, [layers, d_out, d_in]."""
    target = weights.targets["ffn_down"]
    return np.asarray(np.matmul(target.b, target.a))


def watch_generate(network: OnnxHypernetwork) -> list[tuple[Activations, int]]:
    """The arguments of every `generate` from now on: activations, number of chunks."""
    seen: list[tuple[Activations, int]] = []
    original = network.generate

    def watched(activations: Activations, chunks: int = 1) -> LoraWeights:
        seen.append((activations, chunks))
        return original(activations, chunks)

    network.generate = watched  # type: ignore[method-assign]
    return seen


def test_the_adapter_is_the_sum_over_chunks_plus_one_bias(place: Place) -> None:
    engine = ScriptedEngine()
    result = place.attach(engine=engine, rank=8)
    assert len(engine.encoded) == result.adapter.chunks > 3
    want = np.zeros((2, 8, 12), np.float32)
    fresh = ScriptedEngine()
    for ids in engine.encoded:
        want += dense(place.network.generate(fresh.encode(np.array(ids, np.int32), place.network.info.capture)))
    a, b = bias_arrays(TinyBundle())
    weights, metadata = read_adapter(result.adapter.path)
    np.testing.assert_allclose(dense(weights), want + np.matmul(b, a), atol=1e-4)
    assert result.adapter.energy_kept == pytest.approx(1.0, abs=1e-6)
    assert (metadata.source_title, metadata.source_chunks) == ("Long words", result.adapter.chunks)
    assert metadata.base_fingerprint == engine.info.fingerprint
    assert metadata.hypernetwork_sha256 == place.network.info.sha256


def test_prefix_and_suffix_are_encoded_but_their_activations_are_dropped(tmp_path: Path) -> None:
    place = Place(tmp_path, TinyBundle(prefix="before it", suffix="after", bias=False, metric=False))
    seen = watch_generate(place.network)
    engine = ScriptedEngine()
    place.attach(document(10), engine)
    ids = engine.encoded[0]
    assert engine.detokenize(ids[:2]) == "before it"
    assert engine.detokenize(ids[-1:]) == "after"
    inside = ScriptedEngine().encode(np.array(ids, np.int32), place.network.info.capture)
    np.testing.assert_array_equal(seen[0][0].hidden, inside.hidden[:, 2:-1])
    np.testing.assert_array_equal(seen[0][0].ffn, inside.ffn[:, 2:-1])


def test_a_hypernetwork_that_reads_prefix_and_suffix_gets_their_activations(tmp_path: Path) -> None:
    tiny = TinyBundle(prefix="before it", suffix="after", bias=False, metric=False, metadata={"reads_prefix": True})
    place = Place(tmp_path, tiny)
    assert place.network.info.reads_prefix
    seen = watch_generate(place.network)
    engine = ScriptedEngine()
    place.attach(document(40), engine)  # chunks as long as they may be: prefix and suffix do not count
    assert max(map(len, engine.encoded)) == tiny.chunk_tokens + 3
    for ids, (activations, _) in zip(engine.encoded, seen, strict=True):
        whole = ScriptedEngine().encode(np.array(ids, np.int32), place.network.info.capture)
        np.testing.assert_array_equal(activations.hidden, whole.hidden)
        np.testing.assert_array_equal(activations.ffn, whole.ffn)


WHITENING = TinyBundle(bias=True, metric=True, floor=True, chunks=True, whitening=40.0)


def test_the_hypernetwork_is_told_of_how_many_chunks_the_document_is(tmp_path: Path) -> None:
    place = Place(tmp_path, TinyBundle(bias=False, metric=False, chunks=True))
    engine = ScriptedEngine()
    result = place.attach(engine=engine, rank=0)
    fresh, want = ScriptedEngine(), np.zeros((2, 8, 12), np.float32)
    for ids in engine.encoded:
        want += dense(place.network.generate(fresh.encode(np.array(ids, np.int32), place.network.info.capture)))
    got = dense(read_adapter(result.adapter.path)[0])
    np.testing.assert_allclose(got * result.adapter.chunks, want, rtol=1e-4, atol=1e-5)


def test_the_sum_is_whitened_by_the_documents_own_inputs_and_the_bias_is_not(tmp_path: Path) -> None:
    place = Place(tmp_path, WHITENING)
    engine = ScriptedEngine()
    result = place.attach(engine=engine, rank=8)
    fresh, chunks = ScriptedEngine(), result.adapter.chunks
    encoded = [fresh.encode(np.array(ids, np.int32), place.network.info.capture) for ids in engine.encoded]
    total = sum((dense(place.network.generate(one, chunks)) for one in encoded), np.zeros((2, 8, 12), np.float32))
    metric = place.network.metrics()["ffn_down"]
    a, b = bias_arrays(WHITENING)
    want = np.matmul(b, a)
    for layer in range(2):
        inputs = np.concatenate([one.ffn[layer] for one in encoded]).astype(np.float64)
        generic, second = metric.moment(layer).astype(np.float64), inputs.T @ inputs
        turn = np.linalg.inv(WHITENING.whitening * generic + second)
        scale = np.trace(second @ np.linalg.inv(generic)) / np.trace(second @ turn)
        want[layer] += total[layer] @ generic @ turn * scale
    np.testing.assert_allclose(dense(read_adapter(result.adapter.path)[0]), want, atol=2e-4)


@pytest.mark.usefixtures("one_chunk_at_a_time")
def test_a_stopped_run_that_whitens_goes_on_to_the_same_adapter(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    place, token = Place(tmp_path / "one", WHITENING), CancelToken()
    with pytest.raises(Cancelled):
        place.attach(engine=ScriptedEngine(on_encode=lambda done: token.cancel() if done == 3 else None), cancel=token)
    result = place.attach()
    assert result.resumed_chunks == 3
    whole = Place(tmp_path / "two", WHITENING).attach()
    one, two = (read_adapter(made.adapter.path)[0] for made in (result, whole))
    np.testing.assert_allclose(dense(one), dense(two), atol=1e-6)


def test_a_rank_budget_truncates_and_says_what_it_kept(place: Place) -> None:
    result = place.attach(rank=3)
    assert result.adapter.rank == 3
    assert 0.2 < result.adapter.energy_kept < 0.999
    weights, _ = read_adapter(result.adapter.path)
    assert weights.rank == 3


def test_the_same_document_is_attached_without_work(place: Place) -> None:
    first = place.attach()
    engine = ScriptedEngine()
    again = place.attach(document(title="Another title"), engine)
    assert again.reused
    assert again.adapter == first.adapter
    assert engine.encoded == []
    assert not first.reused
    assert place.attach(rank=2).adapter.key != first.adapter.key
    first.adapter.path.unlink()
    assert not place.attach().reused


def test_names_come_from_titles_and_stay_unique(place: Place) -> None:
    assert place.attach().adapter.name == "long-words"
    assert place.attach(document(seed=1)).adapter.name == "long-words-2"
    assert place.attach(document(seed=2), name="mine").adapter.name == "mine"
    engine = ScriptedEngine()
    with pytest.raises(LibraryError, match="`mine` already"):
        place.attach(document(seed=3), engine, name="mine")
    with pytest.raises(LibraryError, match="cannot be"):
        place.attach(document(seed=3), engine, name="../x")
    assert engine.encoded == []


@pytest.mark.usefixtures("one_chunk_at_a_time")
def test_a_stopped_run_goes_on_from_its_finished_chunks(place: Place, tmp_path: Path) -> None:
    token = CancelToken()
    first = ScriptedEngine(on_encode=lambda done: token.cancel() if done == 3 else None)
    with pytest.raises(Cancelled):
        place.attach(engine=first, cancel=token)
    assert len(first.encoded) == 3
    assert place.library.list() == ()
    second = ScriptedEngine()
    result = place.attach(engine=second)
    assert result.resumed_chunks == 3
    assert len(second.encoded) == result.adapter.chunks - 3
    assert list((tmp_path / "chunks").iterdir()) == []

    (tmp_path / "whole").mkdir()
    whole = Place(tmp_path / "whole").attach()
    np.testing.assert_array_equal(
        dense(read_adapter(result.adapter.path)[0]), dense(read_adapter(whole.adapter.path)[0])
    )


@pytest.mark.usefixtures("one_chunk_at_a_time")
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", None])
def test_a_damaged_checkpoint_means_starting_over(place: Place, tmp_path: Path, damage: bytes | None) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        place.attach(engine=ScriptedEngine(on_encode=lambda done: token.cancel() if done == 2 else None), cancel=token)
    (file,) = (tmp_path / "chunks").iterdir()
    file.write_bytes(damage if damage is not None else file.read_bytes()[:-200])
    engine = ScriptedEngine()
    result = place.attach(engine=engine)
    assert result.resumed_chunks == 0
    assert len(engine.encoded) == result.adapter.chunks


def test_progress_tells_stages_in_order_and_an_eta_after_three_chunks(place: Place) -> None:
    place.attach()
    stages = list(dict.fromkeys(report.stage for report in place.reports))
    assert stages == ["chunk", "encode", "generate", "merge", "write"]
    encodes = [report for report in place.reports if report.stage == "encode"]
    assert [report.done for report in encodes] == list(range(len(encodes)))
    assert {report.total for report in encodes} == {len(encodes)}
    assert [report.eta_seconds is None for report in encodes[:4]] == [True, True, True, False]
    assert place.reports[-1] == Progress("write", 1, 1, "Long words")


def test_timings_cover_every_stage(place: Place) -> None:
    timings = place.attach().timings
    assert set(timings) == {"chunk", "encode", "generate", "merge", "chunk_adapters", "write"}
    assert all(seconds > 0 for seconds in timings.values())


def test_each_chunk_of_a_long_document_gets_the_adapter_it_would_have_alone(tmp_path: Path) -> None:
    place = Place(tmp_path, WHITENING)
    what, engine = document(), ScriptedEngine()
    adapter = place.attach(what, engine, rank=8).adapter
    assert adapter.chunk_files == adapter.chunks > 3
    files = [adapter.chunk_path(chunk) for chunk in range(adapter.chunks)]
    assert sorted(chunk_folder(adapter.path).iterdir()) == files
    assert adapter.chunk_bytes == sum(file.stat().st_size for file in files)
    assert place.library.get(adapter.name) == adapter
    text = [""] * adapter.chunks
    for piece in place.library.passages(adapter.id):
        text[piece.chunk] += piece.text
    for chunk in (0, adapter.chunks - 1):
        alone = place.attach(Document("Alone", text[chunk], "txt", f"{chunk:064d}"), engine, rank=64).adapter
        assert alone.chunk_files == 0 and not chunk_folder(alone.path).exists()
        mine, metadata = read_adapter(files[chunk])
        its_own = dense(read_adapter(alone.path)[0])
        np.testing.assert_allclose(dense(mine), its_own, atol=Q5_0_ERROR * np.abs(its_own).max())
        assert metadata.name == f"Long words chunk {chunk + 1}"
        assert (metadata.source_chunks, metadata.source_sha256) == (1, what.sha256)
        assert metadata.base_fingerprint == engine.info.fingerprint


def test_chunks_get_none_where_that_is_set_and_that_is_another_adapter(place: Place) -> None:
    without = place.attach(chunk_rank=0).adapter
    assert (without.chunk_files, without.chunk_bytes) == (0, 0)
    assert not chunk_folder(without.path).exists()
    with_them = place.attach()
    assert not with_them.reused and with_them.adapter.chunk_files == without.chunks
    np.testing.assert_array_equal(dense(read_adapter(without.path)[0]), dense(read_adapter(with_them.adapter.path)[0]))


def test_chunks_may_be_smaller_than_the_hypernetwork_takes(tmp_path: Path) -> None:
    place = Place(tmp_path, TinyBundle(chunk_tokens=48))
    engine = ScriptedEngine()
    usual, smaller = place.attach(engine=engine), place.attach(engine=engine, chunk_tokens=16)
    assert (usual.adapter.chunks, smaller.adapter.chunks) == (2, 4) and not smaller.reused
    assert (usual.read_chunks, smaller.read_chunks) == (2, 4)
    one, two = (dense(read_adapter(result.adapter.path)[0]) for result in (usual, smaller))
    np.testing.assert_array_equal(one, two)
    texts = [""] * 4
    for passage in place.library.passages(smaller.adapter.id):
        texts[passage.chunk] += passage.text
    assert "".join(texts) == document().text and max(len(text.split()) for text in texts) <= 16
    for chunk, text in enumerate(texts):
        alone = place.attach(Document("Alone", text, "txt", f"{chunk:064d}"), engine, rank=64).adapter
        want = dense(read_adapter(alone.path)[0])
        mine = dense(read_adapter(smaller.adapter.chunk_path(chunk))[0])
        np.testing.assert_allclose(mine, want, atol=Q5_0_ERROR * np.abs(want).max())
    assert place.attach(chunk_tokens=16).reused
    assert place.attach(chunk_tokens=4096).adapter.chunks == 2, "never larger"
    nothing = place.attach(chunk_tokens=16, chunk_rank=0)
    assert nothing.adapter.chunks == nothing.read_chunks == 2, "nothing to choose from"
    short = place.attach(document(words=30), chunk_tokens=16).adapter
    assert (short.chunks, short.chunk_files) == (2, 2) and short.chunk_path(0) != short.path
    assert place.attach(document(words=9, title="Tiny"), chunk_tokens=16).adapter.chunk_files == 0
    for few in (1, 15):
        with pytest.raises(ConfigError, match=f"is {few}, wanted 0 or at least 16"):
            place.attach(chunk_tokens=few)


def test_a_bundle_says_how_long_chunks_are_where_nobody_else_does(tmp_path: Path) -> None:
    place = Place(tmp_path, TinyBundle(chunk_tokens=48, metadata={"cut_tokens": 16}))
    assert place.network.info.cut_sizes() == (16, 32, 48)
    as_it_says = place.attach()
    assert as_it_says.adapter.chunks == as_it_says.read_chunks == 4
    assert place.attach(chunk_tokens=32).adapter.chunks == 2
    large = place.attach(chunk_tokens=4096)
    assert large.adapter.chunks == 2, "never larger than it takes"
    one, two = (dense(read_adapter(made.adapter.path)[0]) for made in (as_it_says, large))
    np.testing.assert_array_equal(one, two)
    texts = [""] * 4
    for passage in place.library.passages(as_it_says.adapter.id):
        texts[passage.chunk] += passage.text
    assert "".join(texts) == document().text and max(len(text.split()) for text in texts) <= 16


@pytest.mark.usefixtures("one_chunk_at_a_time")
@pytest.mark.parametrize(("words", "read", "left"), [(150, 10, 4), (400, 26, 20)])
def test_a_run_over_smaller_chunks_that_was_stopped_goes_on(tmp_path: Path, words: int, read: int, left: int) -> None:
    def place(name: str) -> Place:
        (tmp_path / name).mkdir()
        return Place(tmp_path / name, TinyBundle(chunk_tokens=48, metadata={"cut_tokens": 16}))

    stopped, fresh, token = place("stopped"), place("fresh"), CancelToken()
    with pytest.raises(Cancelled):
        stopped.attach(
            document(words=words), ScriptedEngine(on_encode=lambda done: token.cancel() if done == 6 else None), token
        )
    gone_on, whole = stopped.attach(document(words=words)), fresh.attach(document(words=words))
    done = gone_on.resumed_chunks
    assert (done, gone_on.read_chunks, whole.read_chunks) == (6, left, read)
    assert whole.adapter.chunks == gone_on.adapter.chunks == gone_on.adapter.chunk_files == read
    for file in ("path", *range(read)):
        one, two = (
            dense(read_adapter(made.adapter.path if file == "path" else made.adapter.chunk_path(int(file)))[0])
            for made in (whole, gone_on)
        )
        np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("one_chunk_at_a_time")
@pytest.mark.parametrize("lost", [False, True])
def test_a_stopped_run_keeps_the_chunks_adapters_or_starts_over_without_one(place: Place, lost: bool) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        place.attach(engine=ScriptedEngine(on_encode=lambda done: token.cancel() if done == 3 else None), cancel=token)
    (unfinished,) = (place.root / "adapters" / ".unfinished").iterdir()
    assert [file.name for file in sorted(unfinished.iterdir())] == ["00000.gguf", "00001.gguf", "00002.gguf"]
    if lost:
        (unfinished / "00001.gguf").unlink()
    result = place.attach()
    assert result.resumed_chunks == (0 if lost else 3)
    adapter = result.adapter
    assert all(adapter.chunk_path(chunk).is_file() for chunk in range(adapter.chunks))
    assert not unfinished.exists()


def test_two_processes_that_attach_the_same_at_once_leave_all_chunks(place: Place) -> None:
    """The other one is first, and takes the files that were written by then along."""
    other: list[AttachResult] = []

    def overtake(done: int) -> None:
        if done == 3:
            other.append(place.attach())

    mine = place.attach(engine=ScriptedEngine(on_encode=overtake)).adapter
    assert mine == other[0].adapter and place.library.list() == (mine,)
    assert all(mine.chunk_path(chunk).is_file() for chunk in range(mine.chunks))


def test_a_failed_run_that_cannot_go_on_leaves_nothing(place: Place) -> None:
    def fail(done: int) -> None:
        if done == 2:
            raise MemoryError

    with pytest.raises(MemoryError):
        place.attach(engine=ScriptedEngine(on_encode=fail), cache_dir=None)
    assert [file for file in (place.root / "adapters").rglob("*") if file.is_file()] == []


def test_a_hypernetwork_that_does_not_count_chunks_runs_once_a_chunk(place: Place) -> None:
    assert not place.network.reads_count
    seen = watch_generate(place.network)
    adapter = place.attach().adapter
    assert [chunks for _, chunks in seen] == [adapter.chunks] * adapter.chunks


def test_the_source_text_can_be_quoted(place: Place) -> None:
    what = document()
    adapter = place.attach(what).adapter
    pieces = place.library.passages(adapter.id)
    assert all(what.text[piece.start : piece.end] == piece.text for piece in pieces)
    assert "".join(piece.text for piece in pieces) == what.text
    assert place.library.search_passages("word7", [adapter.id])


def test_what_cannot_be_attached_is_refused_before_any_work(place: Place) -> None:
    engine = ScriptedEngine("cd" * 32)
    with pytest.raises(HypernetworkError, match="another base"):
        place.attach(engine=engine)
    with pytest.raises(SourceError, match="no text"):
        place.attach(Document("empty", "", "txt", "00", ""), engine=ScriptedEngine())
    assert engine.encoded == []


def test_memory_stays_bounded_over_many_chunks(tmp_path: Path) -> None:
    """400 chunks of rank 16 would have rank 6400; what is held never has more than the limit."""
    from localhyper.lora import Accumulator

    place = Place(tmp_path)
    held: list[int] = []
    original = Accumulator.add

    def watched(self: Accumulator, part: LoraWeights) -> None:
        original(self, part)
        held.append(sum(one.rank for one in (self.state.settled, self.state.pending) if one))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accumulator, "add", watched)
        result = place.attach(document(6000), rank=4)
    assert result.adapter.chunks > 300
    assert max(held) <= 512


@pytest.mark.parametrize("reads", [False, True])
def test_of_a_task_with_examples_the_description_is_read_and_they_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    taught: list[tuple[TaskExample, ...]] = []

    def learn(
        _engine: object, weights: LoraWeights, given: Sequence[TaskExample], _steps: object, *, initial: InitialFactors
    ) -> Learnt:
        assert initial.start == 3 and initial.weights.targets["attn_q"].a[0, 1, 2] == 7, "the bundle's own"
        taught.append(tuple(given))
        return Learnt(weights, len(given) - 1, 1, 40, "it has `blk.1.attn_q.bias`")

    monkeypatch.setattr("localhyper.pipeline.learn_examples", learn)
    metadata = {"kind": "task", "reads_examples": reads}
    begun = {"initial_a.attn_q": np.full((1, 2, 8), 7, np.float32), "initial_b.attn_q": np.ones((1, 8, 2), np.float32)}
    tiny = TinyBundle(bias=False, metric=False, chunk_tokens=64, metadata=metadata, constants=begun)
    place = Place(tmp_path, tiny)
    examples = (TaskExample("pear fig", "fig pear"), TaskExample("b a", "a b"))
    for text, count in ((described("Sort them.", examples), 1), (described("", examples), 1), ("Sort them.", 0)):
        engine = ScriptedEngine()
        result = place.attach(task_document(text), engine)
        wanted = text if reads else "Sort them." if text.startswith("Sort") else UNDESCRIBED
        assert engine.detokenize(engine.encoded[-1]) == engine.detokenize(engine.tokenize(wanted))
        assert result.examples == count
        assert result.adapter.notes == (
            (
                "1 of 2 examples: too long, or more than are learnt at once",
                "examples were learnt in closed form, which teaches less: it has `blk.1.attn_q.bias`",
            )
            if count
            else ()
        )
    assert taught == [examples, examples]
    again = place.attach(task_document(described("Sort them.", examples)), ScriptedEngine())
    assert again.reused and len(taught) == 2
