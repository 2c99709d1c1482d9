"""The adapter of a whole document, made when it is first wanted: the same as at once, stopped and gone on, refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper.chat import ChatSession
from localhyper.database import Database
from localhyper.engine import AdapterUse
from localhyper.errors import Cancelled, HypernetworkError, LibraryError
from localhyper.gguf_adapter import read_adapter
from localhyper.hypernet import OnnxHypernetwork
from localhyper.library import AdapterInfo, Library, chunk_folder, file_to_check
from localhyper.pipeline import AttachOptions, AttachResult, attach_document
from localhyper.progress import CancelToken, Progress
from localhyper.sources.document import Document
from localhyper.whole_document import make_whole
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, search_arrays, write

CUT = TinyBundle(
    chunk_tokens=48,
    floor=True,
    chunks=True,
    whitening=40.0,
    metadata={"cut_tokens": 16},
    constants=search_arrays(TinyBundle()),
)


class Place:
    """A library and a bundle whose chunks of 16 tokens answer, those of 48 being the sum."""

    def __init__(self, root: Path, tiny: TinyBundle = CUT) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.cache = root, root / "cache"
        self.library = Library(Database(root / "library.sqlite3"), root / "adapters")
        self.network = OnnxHypernetwork.load(write(root / "tiny.onnx", tiny), threads=1)

    def attach(self, words: int = 150, engine: ScriptedEngine | None = None, **options: object) -> AttachResult:
        """Attach words, some of them again and again."""
        numbers = np.random.default_rng(0).integers(0, 40, words)
        text = " ".join(f"word{number}." if place % 9 == 8 else f"word{number}" for place, number in enumerate(numbers))
        chosen = AttachOptions(**{"cache_dir": self.cache, "dtype": "f32", "rank": 8, **options})  # type: ignore[arg-type]
        what = Document("Long words", text, "txt", f"{words:064d}", "words.txt")
        return attach_document(what, engine or ScriptedEngine(), self.network, self.library, chosen)

    def whole(
        self, info: AdapterInfo, engine: ScriptedEngine | None = None, cancel: CancelToken | None = None
    ) -> AdapterInfo:
        """What is made when it is first wanted."""
        return make_whole(
            info, engine or ScriptedEngine(), self.network, self.library, self.cache, cancel=cancel
        ).adapter


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty one."""
    return Place(tmp_path / "place")


def file_of(info: AdapterInfo) -> tuple[object, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What an adapter's file says of itself, but for when it was made, and its matrices."""
    weights, metadata = read_adapter(info.path)
    return replace(metadata, made_at=""), {name: (one.a, one.b) for name, one in weights.targets.items()}


def test_an_attach_reads_the_chunks_that_answer_and_nothing_twice(place: Place) -> None:
    engine = ScriptedEngine()
    result = place.attach(engine=engine)
    info = result.adapter
    assert info.chunks == 10 and info.chunk_files == len(engine.encoded) == 11, "and the overview"
    assert not info.whole_made and not info.path.exists() and info.usable
    assert (info.size_bytes, info.rank, info.energy_kept, info.dtype) == (0, 8, 1.0, "f32")
    assert info.all_bytes == info.chunk_bytes == sum(file.stat().st_size for file in chunk_folder(info.path).iterdir())
    assert set(result.timings) == {"chunk", "encode", "generate", "chunk_adapters", "write"}
    assert place.library.get("long-words") == info
    assert place.attach().reused


@pytest.mark.parametrize("words", [150, 30])
def test_made_later_it_is_the_same_as_made_at_once(place: Place, tmp_path: Path, words: int) -> None:
    later = place.whole(place.attach(words).adapter)
    other = Place(tmp_path / "other")
    at_once = other.attach(words, whole=True)
    own = Place(tmp_path / "own").attach(words, chunk_rank=0).adapter
    assert later.whole_made and later == place.library.get("long-words")
    assert later.size_bytes == later.path.stat().st_size
    assert set(at_once.timings) == {"chunk", "encode", "generate", "merge", "chunk_adapters", "write"}
    (about, matrices), (about_at_once, at_once_matrices), (about_own, own_matrices) = map(
        file_of, (later, at_once.adapter, own)
    )
    assert about == about_at_once == about_own
    for name, (a, b) in matrices.items():
        for one, two in (at_once_matrices[name], own_matrices[name]):
            np.testing.assert_array_equal(a, one)
            np.testing.assert_array_equal(b, two)
    assert place.attach(words).adapter == later, "attached before, with its file"


def test_what_is_wanted_at_once_is_made_of_what_was_attached_before(place: Place) -> None:
    first = place.attach()
    engine = ScriptedEngine()
    again = place.attach(engine=engine, whole=True)
    assert len(engine.encoded) == 5, "four long chunks and the overview, none of those that answer"
    assert not again.reused and again.read_chunks == 0 and again.adapter.id == first.adapter.id
    assert place.attach(whole=True).reused


def test_without_keys_to_choose_by_it_is_made_at_once(tmp_path: Path) -> None:
    assert Place(tmp_path / "no keys", replace(CUT, constants={})).attach().adapter.whole_made


@pytest.mark.usefixtures("one_chunk_at_a_time")
def test_a_stopped_one_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    info, token = place.attach().adapter, CancelToken()
    with pytest.raises(Cancelled):
        place.whole(info, ScriptedEngine(on_encode=lambda done: token.cancel() if done == 3 else None), token)
    assert not place.library.get(info.name).whole_made and list(place.cache.iterdir())
    engine = ScriptedEngine()
    gone_on = place.whole(info, engine)
    assert len(engine.encoded) == 2 and not list(place.cache.iterdir())
    fresh = Place(tmp_path / "fresh")
    one, two = file_of(gone_on), file_of(fresh.whole(fresh.attach().adapter))
    for name, (a, b) in one[1].items():
        np.testing.assert_allclose(b @ a, two[1][name][1] @ two[1][name][0], atol=1e-5)


def test_progress_counts_the_chunks_that_are_read(place: Place) -> None:
    told: list[Progress] = []
    chosen = AttachOptions(cache_dir=place.cache)
    what = Document("Words", " ".join(f"w{number}" for number in range(90)), "txt", "0" * 64)
    info = attach_document(what, ScriptedEngine(), place.network, place.library, chosen, told.append).adapter
    encodes = [one for one in told if one.stage == "encode"]
    assert [one.done for one in encodes] == list(range(info.chunk_files))
    assert {one.total for one in encodes} == {info.chunk_files}
    assert [one.eta_seconds is None for one in encodes[:4]] == [True, True, True, False]


def test_it_is_refused_of_other_things_than_it_was_attached_with(place: Place, tmp_path: Path) -> None:
    info = place.attach().adapter
    other = Place(tmp_path / "other", replace(CUT, whitening=41.0))
    with pytest.raises(HypernetworkError, match="`long-words` was made by hypernetwork"):
        make_whole(info, ScriptedEngine(), other.network, place.library)
    with pytest.raises(HypernetworkError, match="another base"):
        make_whole(info, ScriptedEngine("cd" * 32), place.network, place.library)
    with place.library.database.transaction() as connection:
        connection.execute("DELETE FROM passages")
    with pytest.raises(LibraryError, match="no text is stored with `long-words`"):
        place.whole(info)


def test_one_that_was_removed_meanwhile_leaves_no_file(place: Place) -> None:
    info = place.attach().adapter

    def remove(done: int) -> None:
        if done == 3:
            place.library.remove("long-words")

    engine = ScriptedEngine(on_encode=remove)
    with pytest.raises(LibraryError, match="`long-words` was removed meanwhile"):
        place.whole(info, engine)
    assert not info.path.exists()
    back = place.library.restore("long-words")
    assert back.usable and not back.whole_made
    assert place.whole(back).whole_made


def test_the_trash_keeps_it_as_it_is(place: Place) -> None:
    for _ in range(2):
        info = place.library.get(place.attach().adapter.name)
        place.library.remove(info.name)
        assert not chunk_folder(info.path).exists()
        assert place.library.restore(info.name) == info
        place.whole(info)
    place.library.remove("long-words")
    place.library.purge()
    assert list((place.root / "adapters").rglob("*.gguf")) == []


def test_without_its_chunks_it_is_no_longer_usable(place: Place) -> None:
    info = place.attach().adapter
    shutil.rmtree(chunk_folder(info.path))
    assert not info.usable
    assert not place.attach().reused, "attached anew"
    info = place.library.get("long-words")
    place.library.remove(info.name)
    for folder in (place.root / "adapters" / ".trash").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(LibraryError, match="gone from the trash"):
        place.library.restore(info.name)


def test_it_cannot_be_copied_before_it_is_made(place: Place, tmp_path: Path) -> None:
    info = place.attach().adapter
    with pytest.raises(LibraryError, match="`long-words` as a whole is yet to be made"):
        place.library.export(info.name, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_a_conversation_checks_the_first_chunk_in_its_place(place: Place) -> None:
    class Checking(ScriptedEngine):
        def set_adapters(self, adapters: object) -> None:
            checked.append(adapters)

    checked: list[object] = []
    info = place.attach().adapter
    ChatSession(Checking()).use([AdapterUse(info.path, 0.5)])
    assert checked == [[AdapterUse(info.chunk_path(0), 0.5)]]
    assert file_to_check(place.whole(info).path) == info.path
    assert file_to_check(place.root / "gone.gguf") == place.root / "gone.gguf"
