"""Keys that a question finds its chunk by: arithmetic, files, bundles that have them, and what attaching leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper.chunk_choice import ChosenChunk
from localhyper.chunk_chooser import ChunkChooser
from localhyper.chunk_keys import (
    MOST_QUESTION_TOKENS,
    QUESTION_FILE,
    ChunkKeys,
    decide,
    in_memory,
    keys_file,
    read_keys,
    read_question,
    write_keys,
)
from localhyper.database import Database
from localhyper.engine import AdapterUse
from localhyper.errors import AdapterError, Cancelled, HypernetworkError, LibraryError
from localhyper.gguf_adapter import read_adapter
from localhyper.hypernet import SEARCH_OUTPUTS, OnnxHypernetwork
from localhyper.library import AdapterInfo, Library, chunk_folder
from localhyper.pipeline import AttachOptions, attach_document
from localhyper.progress import CancelToken
from localhyper.search_head import LOOKBACK, Match, SearchHead, features, is_related, make_head, max_sim
from localhyper.sources.document import Document
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, search_arrays, write

TINY = TinyBundle()
COUNTING = TinyBundle(bias=False, metric=False, chunks=True)
# Sixteen words a chunk: what is asked for stands in the second, third and fourth one.
WORDS = [f"w{number}" for number in range(16)] + [f"x{number}" for number in range(16)]
WORDS += [f"y{number}" for number in range(16)] + [f"z{number}" for number in range(12)]


def head(**changes: np.ndarray) -> SearchHead:
    arrays = search_arrays(TINY) | changes
    return make_head(*(arrays[name] for name in SEARCH_OUTPUTS))


def network(folder: Path, name: str = "search.onnx", tiny: TinyBundle = TINY) -> OnnxHypernetwork:
    return OnnxHypernetwork.load(write(folder / name, replace(tiny, constants=search_arrays(tiny))), threads=1)


def attach(library: Library, net: OnnxHypernetwork, engine: ScriptedEngine, words: list[str]) -> AdapterInfo:
    text = " ".join(words)
    return attach_document(Document("Words", text, "txt", f"{len(words):064d}"), engine, net, library).adapter


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters")


@pytest.fixture
def attached(tmp_path: Path, library: Library) -> tuple[AdapterInfo, ScriptedEngine]:
    engine = ScriptedEngine()
    return attach(library, network(tmp_path), engine, WORDS), engine


def test_a_chunk_scores_the_best_of_its_tokens_for_each_of_the_questions() -> None:
    rng = np.random.default_rng(0)
    question, keys = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((9, 4)).astype(np.float32)
    scores = max_sim(question, keys, np.array([0, 2, 8]))
    wanted = [sum(max(float(q @ k) for k in part) for q in question) for part in (keys[:2], keys[2:8], keys[8:])]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_what_a_chunk_lacks_may_stand_before_it_for_less() -> None:
    question = np.array([[2.0, 0, 0], [0, 3.0, 0]], np.float32)
    keys = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], np.float32)  # the last one is an overview
    starts = np.arange(4)
    np.testing.assert_allclose(max_sim(question, keys, starts), [2, 3, 0, 3.6], rtol=1e-6)
    less = 1 - LOOKBACK
    wanted = [2, 3 + less * 2, (1 - 2 * LOOKBACK) * 2 + less * 3, 3.6]
    np.testing.assert_allclose(max_sim(question, keys, starts, 3), wanted, rtol=1e-6)
    np.testing.assert_allclose(max_sim(question, keys, starts, 1), max_sim(question, keys, starts), rtol=1e-6)
    # A long way back is worth nothing, and no chunk loses by what stands before it.
    far = np.concatenate([keys[:1], np.tile(keys[2:3], (30, 1))])
    scores = max_sim(question, far, np.arange(31), 31)
    assert (scores >= max_sim(question, far, np.arange(31))).all() and scores[20] == 0.0


def test_keys_have_length_one_and_a_questions_tokens_their_weights() -> None:
    hidden = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
    normed = features(hidden)
    assert normed.shape == (5, 16) and normed.dtype == np.float32
    np.testing.assert_allclose(normed.reshape(5, 2, 8).mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(normed.reshape(5, 2, 8).std(-1), 1, atol=1e-3)
    made = head()
    np.testing.assert_allclose(np.linalg.norm(made.keys(hidden), axis=1), 1, rtol=1e-5)
    weight = 3.0 * np.log1p(np.exp(0.5))  # of every token alike: no direction of the weight
    np.testing.assert_allclose(made.question.read(hidden), made.keys(hidden) * weight, rtol=1e-5)
    pointed = search_arrays(TINY)["search_question"].copy()
    pointed[:, -1] = normed[2] / 4
    weights = np.linalg.norm(head(search_question=pointed).question.read(hidden), axis=1)
    assert weights.argmax() == 2 and weights[2] == pytest.approx(3.0 * np.log1p(np.exp(0.5 + 4.0)), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("search_mean", np.zeros(15, np.float32), "must be"),
        ("search_question", np.zeros((16, 4), np.float32), "must be"),
        ("search_scalars", np.zeros(2, np.float32), "must be"),
        ("search_document", np.zeros((16, 0), np.float32), "must be"),
        ("search_document", np.full((16, 4), np.nan, np.float32), "finite"),
        ("search_scalars", np.array([0, -1, 0], np.float32), "at least 0"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(tmp_path: Path, name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(HypernetworkError, match=message):
        head(**{name: value})
    path = write(tmp_path / "bad.onnx", replace(TINY, constants=search_arrays(TINY) | {name: value}))
    with pytest.raises(HypernetworkError) as caught:
        OnnxHypernetwork.load(path, threads=1).search_head()
    assert "bad.onnx" in caught.value.message and "\n" not in caught.value.message


def test_a_bundle_has_all_of_a_head_or_nothing(tmp_path: Path) -> None:
    assert OnnxHypernetwork.load(write(tmp_path / "without.onnx"), threads=1).search_head() is None
    found = network(tmp_path).search_head()
    assert found is not None
    assert (found.question.offset, found.question.scale, found.question.words) == (0.5, 3.0, 0.25)
    np.testing.assert_array_equal(found.document, search_arrays(TINY)["search_document"])
    some = {name: array for name, array in search_arrays(TINY).items() if name != "search_scalars"}
    with pytest.raises(HypernetworkError, match="a search head needs"):
        OnnxHypernetwork.load(write(tmp_path / "some.onnx", replace(TINY, constants=some)), threads=1)


def test_attaching_leaves_keys_of_every_token_and_a_question_finds_its_chunk(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    assert (info.chunks, info.chunk_files) == (4, 5), "and the overview"
    keys = read_keys(chunk_folder(info.path), 5)
    assert keys is not None and keys.keys.shape == (60 + 16, 4)
    assert list(keys.starts[:3]) == [0, 16, 32]
    assert info.chunk_bytes == sum(file.stat().st_size for file in chunk_folder(info.path).iterdir())
    scores = keys.scores("x3 x9 x1", engine)
    assert scores.argmax() == 1
    assert scores[1] == pytest.approx(3 * 3.0 * np.log1p(np.exp(0.5)), rel=1e-2), "three words found in full"
    chosen = ChunkChooser(lambda: library)(["y5 y7"], [AdapterUse(info.path)], engine)
    assert chosen.chunk == ChosenChunk("words", 2, 4)


def test_chunks_are_searched_in_their_order_and_the_overview_by_itself(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    info, engine = attached
    keys = read_keys(chunk_folder(info.path), 5)
    assert keys is not None
    hidden = read_question("x3 x9 y1", engine, keys.capture, keys.prefix)
    alone = keys.match(hidden)
    ordered = keys.match_parts(hidden, alone, 4).scores
    weight = 3.0 * np.log1p(np.exp(0.5))
    assert ordered[2] >= weight * (3 - 2 * LOOKBACK) * 0.99, "`y1` in the third chunk, the others in the one before it"
    np.testing.assert_array_equal(ordered[[0, 4]], alone.scores[[0, 4]])
    assert (ordered >= alone.scores).all() and keys.match_parts(hidden, alone) is alone
    asked, match_parts = list[int](), ChunkKeys.match_parts

    def spy(own: ChunkKeys, hidden: np.ndarray, found: Match, chunks: int = 0) -> Match:
        asked.append(chunks)
        return match_parts(own, hidden, found, chunks)

    monkeypatch.setattr(ChunkKeys, "match_parts", spy)
    choose, uses = ChunkChooser(lambda: library), [AdapterUse(info.path)]
    assert choose(["y5 y7"], uses, engine).chunk and asked == [4]
    asked.clear()
    assert choose(["What is the x3 of x9?", "And when does it end?"], uses, engine).chunk and asked == [4, 4]
    asked.clear()
    assert choose(["What is the x3 of x9?", "And of y1?"], uses, engine).chunk
    assert asked == [0, 0], "it names what it is about: that stands in its chunk"


def test_a_question_about_all_of_it_finds_the_overview_which_is_no_part_of_the_text(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    choice = ChunkChooser(lambda: library)(["What is this document about?"], [AdapterUse(info.path)], engine)
    assert choice.chunk is not None and choice.chunk.is_overview
    assert choice.uses == (AdapterUse(info.chunk_path(4)),)
    assert read_adapter(info.chunk_path(4))[1].name == "Words overview"
    assert {passage.chunk for passage in library.passages(info.id)} == {0, 1, 2, 3}


def test_documents_of_one_chunk_have_overviews_and_stay_in_force_beside_each_other(
    tmp_path: Path, library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    long, engine = attached
    net = network(tmp_path, "again.onnx")
    one, two = (
        attach(library, net, engine, [f"{letter}{n}" for n in range(count)]) for letter, count in (("a", 9), ("b", 10))
    )
    for info in (one, two):
        assert (info.chunks, info.chunk_files) == (1, 2) and info.chunk_path(0) == info.path
        assert {file.name for file in chunk_folder(info.path).iterdir()} == {
            "00000.npy", "00001.npy", "00001.gguf", "question.npz",
        }  # fmt: skip
    uses = [AdapterUse(one.path), AdapterUse(two.path, 0.5), AdapterUse(long.path)]
    choose = ChunkChooser(lambda: library)
    about_two = choose(["b3 b4"], uses, engine)
    assert (about_two.uses, about_two.chunk) == (tuple(uses[:2]), None), "the long document is not asked"
    about_long = choose(["x3 x9"], uses, engine)
    assert about_long.uses == (*uses[:2], AdapterUse(long.chunk_path(1)))
    general = choose(["What is this document about?"], uses[:2], engine)
    assert general.chunk is not None and str(general.chunk) == f"the overview of {one.name}"
    assert general.uses == (AdapterUse(one.chunk_path(1)), uses[1])


def test_what_has_no_letters_has_nothing_beside_its_adapter(tmp_path: Path, library: Library) -> None:
    document = Document("2026", "12 34 56", "txt", "2" * 64)
    info = attach_document(document, ScriptedEngine(), network(tmp_path), library).adapter
    assert (info.chunks, info.chunk_files) == (1, 0) and not chunk_folder(info.path).exists()
    assert not list((tmp_path / "adapters").glob(".unfinished/*"))


@pytest.mark.usefixtures("one_chunk_at_a_time")
def test_a_run_that_is_stopped_at_the_overview_goes_on_with_it(tmp_path: Path, library: Library) -> None:
    token, net = CancelToken(), network(tmp_path)
    document, options = Document("Words", " ".join(WORDS), "txt", "1" * 64), AttachOptions(cache_dir=tmp_path / "cache")
    engine = ScriptedEngine(on_encode=lambda done: token.cancel() if done == 4 else None)
    with pytest.raises(Cancelled):
        attach_document(document, engine, net, library, options, cancel=token)
    result = attach_document(document, ScriptedEngine(), net, library, options)
    assert (result.resumed_chunks, result.adapter.chunk_files) == (4, 5)
    assert read_keys(chunk_folder(result.adapter.path), 5) is not None


def test_without_a_word_in_common_keys_alone_decide(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    engine._words["stranger"] = engine._words["z4"]  # another word that the base model reads alike
    assert library.score_chunks("stranger", [info.id]) == {}
    choose = ChunkChooser(lambda: library)
    assert choose(["stranger"], [AdapterUse(info.path)], engine).chunk == ChosenChunk("words", 3, 4)
    assert choose([" "], [AdapterUse(info.path)], engine).chunk == ChosenChunk("words", 0, 4), (
        "nothing asked: the first"
    )


def test_a_follow_up_counts_what_was_asked_before_for_less(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    choose, uses = ChunkChooser(lambda: library), [AdapterUse(info.path)]
    encoded = len(engine.encoded)
    assert choose(["x2 x5"], uses, engine).chunk == ChosenChunk("words", 1, 4)
    assert choose(["x2 x5", "w1"], uses, engine).chunk == ChosenChunk("words", 0, 4)
    assert len(engine.encoded) == encoded + 2, "what was asked before is not read again"
    assert choose(["x2 x5", " "], uses, engine).chunk == ChosenChunk("words", 1, 4)


def test_of_several_documents_the_best_chunk_of_all_is_found_and_a_question_is_read_once(
    tmp_path: Path, library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    other = attach(library, network(tmp_path, "again.onnx"), engine, [f"v{number}" for number in range(40)])
    both, choose = [AdapterUse(info.path), AdapterUse(other.path, 0.5)], ChunkChooser(lambda: library)
    engine._words["stranger"] = engine._words["v20"]
    encoded = len(engine.encoded)
    choice = choose(["stranger"], both, engine)
    assert choice.chunk == ChosenChunk(other.name, 1, 3) and len(engine.encoded) == encoded + 1
    assert choice.uses == (AdapterUse(other.chunk_path(1), 0.5),)


def test_documents_are_compared_by_words_where_one_has_no_keys_or_another_base(
    tmp_path: Path, library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    info, engine = attached
    choose = ChunkChooser(lambda: library)
    engine._words["stranger"] = engine._words["z4"]
    plain = OnnxHypernetwork.load(write(tmp_path / "plain.onnx"), threads=1)
    other = attach(library, plain, engine, [f"v{number}" for number in range(40)])
    assert read_keys(chunk_folder(other.path), 3) is None
    both = [AdapterUse(info.path), AdapterUse(other.path)]
    assert choose(["stranger"], both, engine).chunk is None
    assert choose(["v20"], both, engine).chunk == ChosenChunk(other.name, 1, 3)
    elsewhere = ScriptedEngine(fingerprint="cd" * 32)
    assert choose(["stranger"], [AdapterUse(info.path)], elsewhere).chunk is None


@pytest.mark.parametrize("changes", [{"taps": [0, 99]}, {"taps": [0]}, {"taps": [-1, 2]}, {"base": "0" * 64}])
def test_keys_of_another_shape_of_base_are_passed_over(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine], changes: dict[str, object]
) -> None:
    info, engine = attached
    path = chunk_folder(info.path) / QUESTION_FILE
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(arrays["about"].tobytes()) | changes
    path.unlink()
    np.savez(path, **arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    encoded = len(engine.encoded)
    assert ChunkChooser(lambda: library)(["y5"], [AdapterUse(info.path)], engine).chunk == ChosenChunk("words", 2, 4)
    assert len(engine.encoded) == encoded


def two_heads(folder: Path, size: int = 6) -> OnnxHypernetwork:
    """Documents are told apart by four numbers a word, the chunks of one by another six."""
    arrays = search_arrays(TINY) | search_arrays(TINY, size, seed=12, head="parts")
    return OnnxHypernetwork.load(write(folder / "two.onnx", replace(TINY, constants=arrays)), threads=1)


def test_a_head_of_their_own_tells_chunks_apart(tmp_path: Path, library: Library) -> None:
    engine, net = ScriptedEngine(), two_heads(tmp_path)
    info = attach(library, net, engine, WORDS)
    keys, head = read_keys(chunk_folder(info.path), 5), net.search_head()
    assert keys is not None and head is not None and head.parts is not None
    assert keys.keys.shape[1] == 4 and keys.parts_keys is not None and keys.parts_keys.shape[1] == 6
    hidden = read_question("x3 x5", engine, keys.capture, keys.prefix)
    match = keys.match(hidden)
    parts = keys.match_parts(hidden, match)
    for found, one, stored in ((match, head, keys.keys), (parts, head.parts, keys.parts_keys)):
        read = one.question.read(hidden)
        np.testing.assert_allclose(found.scores, max_sim(read, stored, keys.starts), rtol=1e-2)
        assert found.most == pytest.approx(float(np.linalg.norm(read, axis=1).sum()), rel=1e-2)
    assert not np.allclose(match.scores, parts.scores)
    again = in_memory(head.maps, net.info, [head.keys(hidden), head.keys(hidden)])
    assert again.parts_keys is not None and again.keys.flags.c_contiguous and again.parts_keys.shape == (4, 6)


def test_one_head_chooses_the_document_and_the_overview_and_the_other_one_the_chunk(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine()
    info = attach(library, two_heads(tmp_path), engine, WORDS)
    choose, uses = ChunkChooser(lambda: library), [AdapterUse(info.path)]
    monkeypatch.setattr("localhyper.search_head.LEAST_SAID", 0.0)
    monkeypatch.setattr("localhyper.search_head.UNRELATED", -1.0)
    monkeypatch.setattr("localhyper.chunk_keys.ChunkKeys.beside_words", lambda *_: np.arange(5.0)[::-1])
    assert choose(["x3 x5"], uses, engine).chunk == ChosenChunk("words", 1, 4), (
        "what tells documents apart says chunk 1"
    )
    monkeypatch.setattr("localhyper.chunk_keys.ChunkKeys.beside_words", lambda *_: np.arange(5.0))
    assert choose(["x3 x5"], uses, engine).chunk == ChosenChunk("words", 4, 4), "about all of it"


def test_what_ranks_chunks_and_overview() -> None:
    parts = np.array([1.0, 3.0, 2.0, 9.0], np.float32)
    text, whole = np.array([5.0, 0.0, 0.0, 4.0], np.float32), np.array([5.0, 0.0, 0.0, 6.0], np.float32)
    assert list(np.argsort(-decide(text, parts, 3))) == [1, 2, 0, 3]
    assert list(np.argsort(-decide(whole, parts, 3))) == [3, 1, 2, 0]
    assert list(decide(text[:3], parts[:3], 3)) == [1.0, 3.0, 2.0] and parts[3] == 9.0


def test_keys_of_earlier_versions_are_read(library: Library, attached: tuple[AdapterInfo, ScriptedEngine]) -> None:
    info, engine = attached
    file = chunk_folder(info.path) / QUESTION_FILE
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored}
    about = json.loads(arrays["about"].tobytes())
    assert about["version"] == 2 and not any(name.startswith("parts") for name in arrays)
    choose = ChunkChooser(lambda: library)
    for version, keys in ((1, True), (3, False)):
        arrays["about"] = np.frombuffer(json.dumps(about | {"version": version}).encode(), np.uint8)
        with file.open("wb") as out:
            np.savez(out, **arrays)
        chunk_folder(info.path).touch()
        encoded = len(engine.encoded)
        choose([f"x5 again {version}"], [AdapterUse(info.path)], engine)
        assert (len(engine.encoded) > encoded) == keys, version


@pytest.mark.parametrize("gone", ["parts_mean", "parts_scalars", "search_mean"])
def test_half_a_second_head_is_refused(tmp_path: Path, gone: str) -> None:
    arrays = search_arrays(TINY) | search_arrays(TINY, 6, seed=12, head="parts")
    drop = {name for name in arrays if name == gone or (gone == "search_mean" and name.startswith("search"))}
    kept = {name: array for name, array in arrays.items() if name not in drop}
    path = write(tmp_path / "half.onnx", replace(TINY, constants=kept))
    with pytest.raises(HypernetworkError, match="search head"):
        OnnxHypernetwork.load(path, threads=1)


def test_the_end_of_a_long_question_is_read(attached: tuple[AdapterInfo, ScriptedEngine]) -> None:
    info, engine = attached
    keys = read_keys(chunk_folder(info.path), 4)
    assert keys is not None
    scores = keys.scores(" ".join(["w1"] * 1000 + ["x2"] * 100), engine)
    assert len(engine.encoded[-1]) == MOST_QUESTION_TOKENS and scores.argmax() == 1


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _pickle(file: Path) -> None:
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / QUESTION_FILE).write_bytes(b"no zip"),
        lambda folder: _truncate(folder / QUESTION_FILE),
        lambda folder: _truncate(keys_file(folder, 1)),
        lambda folder: keys_file(folder, 1).unlink(),
        lambda folder: _pickle(keys_file(folder, 1)),
        lambda folder: write_keys(folder, 1, np.zeros((16, 5), np.float32)),
        lambda folder: write_keys(folder, 1, np.zeros((0, 4), np.float32)),
        lambda folder: write_keys(folder, 1, np.full((16, 4), np.nan, np.float32)),
    ],
)
def test_damaged_keys_are_logged_and_words_decide(
    library: Library,
    attached: tuple[AdapterInfo, ScriptedEngine],
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], object],
) -> None:
    info, engine = attached
    folder, choose = chunk_folder(info.path), ChunkChooser(lambda: library)
    assert choose(["y5"], [AdapterUse(info.path)], engine).chunk == ChosenChunk("words", 2, 4)
    harm(folder)
    folder.touch()  # in the same tick, on file systems with coarse times
    with caplog.at_level(logging.WARNING):
        encoded = len(engine.encoded)
        assert choose(["y5"], [AdapterUse(info.path)], engine).chunk == ChosenChunk("words", 2, 4)
    assert "search keys" in caplog.text and len(engine.encoded) == encoded


@pytest.mark.usefixtures("one_chunk_at_a_time")
def test_a_resumed_attach_has_all_keys(tmp_path: Path, library: Library) -> None:
    engine, token, net = ScriptedEngine(), CancelToken(), network(tmp_path)
    stopping = ScriptedEngine(on_encode=lambda number: token.cancel() if number == 2 else None)
    document = Document("Words", " ".join(WORDS), "txt", "1" * 64)
    options = AttachOptions(cache_dir=tmp_path / "cache")
    for word in WORDS:
        engine.tokenize(word), stopping.tokenize(word)
    with pytest.raises(Cancelled):
        attach_document(document, stopping, net, library, options, cancel=token)
    result = attach_document(document, engine, net, library, options)
    assert result.resumed_chunks == 2
    keys = read_keys(chunk_folder(result.adapter.path), 4)
    assert keys is not None
    fresh = Library(Database(tmp_path / "fresh.sqlite3"), tmp_path / "fresh")
    whole = attach_document(document, engine, net, fresh, AttachOptions()).adapter
    wanted = read_keys(chunk_folder(whole.path), 4)
    assert wanted is not None
    np.testing.assert_array_equal(keys.keys, wanted.keys)


def test_chunks_made_for_a_name_that_another_one_took_meanwhile_are_not_lost(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = replace(TINY, chunk_tokens=48, metadata={"cut_tokens": 16})
    engine, net = ScriptedEngine(), network(tmp_path, tiny=cut)
    document = Document("Words", " ".join(WORDS), "txt", "1" * 64)
    options = AttachOptions(cache_dir=tmp_path / "cache")

    def refuse(self: Library, *_: object) -> AdapterInfo:
        raise LibraryError("there is an adapter named `words` already")

    with monkeypatch.context() as patched:
        patched.setattr(Library, "add", refuse)
        with pytest.raises(LibraryError, match="already"):
            attach_document(document, engine, net, library, options)
    assert not list((tmp_path / "adapters").glob("*.chunks")), "nothing lies about that no row names"
    result = attach_document(document, engine, net, library, options)
    assert result.resumed_chunks == 4 and result.adapter.chunk_files == 5


def test_keys_that_cannot_be_written_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AdapterError, match="cannot write"):
        write_keys(tmp_path / "file", 0, np.zeros((1, 4), np.float32))


def test_the_whole_of_several_chunks_has_the_overview_in_it_and_that_of_one_has_not(
    tmp_path: Path, library: Library
) -> None:
    net, engine = network(tmp_path, tiny=COUNTING), ScriptedEngine()
    for words, summed in ((WORDS, 5), (WORDS[:9], 1)):
        engine.encoded.clear()
        info = attach(library, net, engine, words)
        assert len(engine.encoded) == info.chunk_files == max(summed, 2), "the overview is read last"
        want = np.zeros((2, 8, 12), np.float32)
        for ids in engine.encoded[:summed]:
            target = net.generate(ScriptedEngine().encode(np.array(ids, np.int32), net.info.capture), summed)
            want += np.matmul(target.targets["ffn_down"].b, target.targets["ffn_down"].a)
        made = read_adapter(info.path)[0].targets["ffn_down"]
        np.testing.assert_allclose(np.matmul(made.b, made.a), want, atol=0.01 * np.abs(want).max())


def test_the_whole_is_the_same_without_chunks_beside_it(tmp_path: Path, library: Library) -> None:
    net, document = network(tmp_path), Document("Words", " ".join(WORDS), "txt", "7" * 64)
    with_them, without = (
        attach_document(document, ScriptedEngine(), net, library, AttachOptions(chunk_rank=rank)).adapter
        for rank in (64, 0)
    )
    assert with_them.chunk_files == 5 and without.chunk_files == 0
    one, two = (read_adapter(info.path)[0].targets["ffn_down"] for info in (with_them, without))
    np.testing.assert_allclose(np.matmul(one.b, one.a), np.matmul(two.b, two.a), atol=1e-6)


def test_a_question_is_related_that_comes_closer_than_chance_and_chance_grows_with_the_text() -> None:
    assert is_related(37.1, 100.0, 256) and not is_related(36.9, 100.0, 256)
    assert is_related(37.1, 100.0, 20) and not is_related(36.9, 100.0, 20), "a short text needs no less"
    assert is_related(43.1, 100.0, 8 * 256) and not is_related(42.9, 100.0, 8 * 256)
    assert is_related(0.0, 37.9, 256), "`And when?` may be about anything"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only words that stand there count: four numbers a word are close to some other by chance."""
    monkeypatch.setattr("localhyper.search_head.LEAST_SAID", 0.0)
    monkeypatch.setattr("localhyper.search_head.UNRELATED", 0.999)
    monkeypatch.setattr("localhyper.search_head.UNRELATED_PER_DOUBLING", 0.0)


@pytest.mark.usefixtures("strict")
def test_a_question_about_no_document_is_answered_without_them(
    tmp_path: Path, library: Library, attached: tuple[AdapterInfo, ScriptedEngine]
) -> None:
    long, engine = attached
    short = attach(library, network(tmp_path, "again.onnx"), engine, [f"a{n}" for n in range(9)])
    task = AdapterUse(tmp_path / "task.gguf", 0.7)
    uses = [AdapterUse(long.path), task, AdapterUse(short.path)]
    choose = ChunkChooser(lambda: library)
    nothing = choose(["strange other"], uses, engine)
    assert nothing.uses == (task,) and nothing.left_out == (long.name, short.name)
    assert (str(nothing), nothing.chunk) == ("about none of the 2 documents", None)
    assert str(choose(["strange other"], uses[:1], engine)) == f"not about {long.name}"
    of_short = choose(["a3 a5"], uses, engine)
    assert of_short.uses == (task, uses[2]) and not of_short.left_out, "the long one is left out, silently"
    of_long = choose(["x3 x5"], uses, engine)
    assert of_long.uses == (AdapterUse(long.chunk_path(1)), task) and not of_long.left_out
    always = ChunkChooser(lambda: library, only_related=False)(["strange other"], uses, engine)
    assert always.uses[1] == task and len(always.uses) == 3 and not always.left_out


@pytest.mark.usefixtures("strict")
def test_a_general_question_is_about_the_document_and_a_follow_up_about_what_came_before(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    info, engine = attached
    choose, uses = ChunkChooser(lambda: library), [AdapterUse(info.path)]
    general = choose(["What is this document about?"], uses, engine)
    assert general.chunk is not None and general.chunk.is_overview
    # Chance grows with the text, not for the overview.
    monkeypatch.setattr("localhyper.search_head.UNRELATED_PER_DOUBLING", 99.0)
    assert choose(["What is this document about?"], uses, engine).chunk == general.chunk
    monkeypatch.setattr("localhyper.search_head.UNRELATED_PER_DOUBLING", 0.0)
    keys = read_keys(chunk_folder(info.path), 5)
    assert keys is not None

    def close(question: str) -> float:
        match = keys.match(read_question(question, engine, keys.capture, keys.prefix))
        return float(match.scores.max()) / match.most

    far = min((f"strange{n}" for n in range(40)), key=close)
    monkeypatch.setattr("localhyper.search_head.UNRELATED", close(far) + 0.03)
    assert choose([far], uses, engine).left_out == (info.name,)
    fitting = "x1 x2 x3 x4 x5 x6 x7 x8"
    assert not choose([fitting, far], uses, engine).left_out, "one strange word, after eight that fit"
    assert choose([fitting, " ".join([far] * 80)], uses, engine).left_out == (info.name,), "a new question"


@pytest.mark.usefixtures("strict")
def test_a_question_that_stands_for_itself_is_read_without_what_was_said_before(
    library: Library, attached: tuple[AdapterInfo, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localhyper.chunk_chooser.stands_alone", lambda question: "it" not in question.split())
    info, engine = attached
    choose, uses = ChunkChooser(lambda: library), [AdapterUse(info.path)]
    assert choose(["x3 x5"], uses, engine).earlier is None, "nothing was said before"
    assert choose(["x3 x5", "y3 y5"], uses, engine).earlier == 0
    monkeypatch.setattr("localhyper.search_head.UNRELATED", 0.5)
    assert choose(["x3", "y3 y5", "it y5"], uses, engine).earlier == 1, "back to the last one that stands for itself"
    assert choose(["x3", "y3 y5", "it y5", "it y6"], uses, engine).earlier == 2
    assert choose(["it y5", "it y6"], uses, engine).earlier is None, "all of it, as none does"
    monkeypatch.setattr("localhyper.search_head.UNRELATED", 0.93)
    monkeypatch.setattr("localhyper.search_head.LEAST_SAID", 9.0)  # more than two words have
    assert choose(["y3 y5 y7 y9", "it"], uses, engine).earlier == 1
    keys = read_keys(chunk_folder(info.path), 5)
    assert keys is not None

    def closeness(word: str) -> float:
        return float(keys.scores(word, engine).max())

    far = sorted((f"strange{n}" for n in range(40)), key=closeness)[:6]
    of_other = choose([" ".join(far), "it"], uses, engine)
    assert of_other.left_out == (info.name,), "what goes on from a question is about what that one was about"
    monkeypatch.setattr("localhyper.search_head.LEAST_SAID", 0.0)
    monkeypatch.setattr("localhyper.search_head.UNRELATED", 0.999)
    assert choose(["x3", "strange other"], uses, engine).left_out == (info.name,)
    assert choose(["x3", "strange other"], uses, engine).earlier is None, "about something else: as ever"
    assert ChunkChooser(lambda: library, standalone=False)(["x3 x5", "y3 y5"], uses, engine).earlier is None
    (chunk_folder(info.path) / QUESTION_FILE).unlink()
    assert choose(["x3 x5", "y3 y5"], uses, engine).earlier is None, "nobody knows what it is about"


def test_an_overview_must_come_closer_than_a_short_text(attached: tuple[AdapterInfo, ScriptedEngine]) -> None:
    info, _ = attached
    keys = read_keys(chunk_folder(info.path), 5)
    assert keys is not None
    words = np.zeros(2, np.float32)
    for ahead, first in ((0.02, 0), (0.04, 1)):
        scores = np.array([10, 10 + 100 * ahead], np.float32)
        assert keys.beside_words(Match(scores, 100.0), words, chunks=1).argmax() == first
        assert scores[1] == np.float32(10 + 100 * ahead), "scores themselves stay"
    several = np.array([0, 10, 0, 12], np.float32)
    assert keys.beside_words(Match(several, 100.0), np.zeros(4, np.float32), chunks=3).argmax() == 3
