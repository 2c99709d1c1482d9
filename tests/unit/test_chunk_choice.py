"""Which chunk of which long document answers, over a real library; and what a conversation does with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from localhyper.chat import ChatSession
from localhyper.chunk_choice import ChosenChunk
from localhyper.chunk_chooser import ChunkChooser
from localhyper.database import Database
from localhyper.engine import AdapterUse
from localhyper.library import AdapterInfo, Library, Passage, chunk_folder
from tests.fakes import FakeEngine

HOUSE = (
    "The house was built by Ada Marsh in 1887. It has three floors and a slate roof.",
    "The garden was laid out later by Tom Reed. He planted the old pear tree.",
    "In winter the house is heated with wood. The stove stands in the kitchen.",
)
SHIP = (
    "The ship left the yard in Bergen. Her first captain was Ada Holm.",
    "She carried timber and wool. The anchor weighs two tons.",
)


ENGINE = FakeEngine()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters")


@pytest.fixture
def choose(library: Library) -> ChunkChooser:
    return ChunkChooser(lambda: library)


def put(library: Library, name: str, chunks: tuple[str, ...], *, files: bool = True) -> AdapterInfo:
    """A document of these chunks, one passage a sentence; `files`: with an adapter of each chunk."""
    key = (name.encode().hex() + "0" * 64)[:64]
    path = library.file_for(name, key)
    path.write_bytes(b"gguf")
    info = AdapterInfo(
        name, path, key, name, "txt", "", "aa", "base", "bb", "net", "cc", 8, 1.0, 100, len(chunks), 4, "2026-01-01",
        chunk_files=len(chunks) if files else 0,
    )  # fmt: skip
    if files:
        chunk_folder(path).mkdir()
        for chunk in range(len(chunks)):
            info.chunk_path(chunk).write_bytes(b"gguf")
    sentences = [(number, f"{part}.") for number, text in enumerate(chunks) for part in text.rstrip(".").split(". ")]
    return library.add(info, [Passage(number, text, 0, 0) for number, text in sentences])


def test_the_chunk_that_a_question_is_about_answers_at_the_documents_strength(
    library: Library, choose: ChunkChooser
) -> None:
    house = put(library, "house", HOUSE)
    for question, chunk in (
        ("Who built the house?", 0),
        ("Who planted the pear tree?", 1),
        ("Where does the stove stand?", 2),
    ):
        choice = choose([question], [AdapterUse(house.path, 0.5)], ENGINE)
        assert choice.uses == (AdapterUse(house.chunk_path(chunk), 0.5),), question
        assert choice.chunk == ChosenChunk("house", chunk, 3)
    assert str(ChosenChunk("house", 1, 3)) == "chunk 2 of 3 of house"
    assert str(ChosenChunk("house", 3, 3)) == "the overview of house"


def test_of_several_long_documents_the_best_chunk_answers_and_all_else_stays(
    library: Library, choose: ChunkChooser
) -> None:
    house, ship = put(library, "house", HOUSE), put(library, "ship", SHIP)
    task = put(library, "task", ("Answer in one word.",), files=False)
    uses = [AdapterUse(house.path), AdapterUse(task.path, 2.0), AdapterUse(ship.path, 0.25)]
    anchor = choose(["How heavy is the anchor?"], uses, ENGINE)
    assert anchor.uses == (AdapterUse(task.path, 2.0), AdapterUse(ship.chunk_path(1), 0.25))
    assert anchor.chunk == ChosenChunk("ship", 1, 2)
    pear = choose(["Who planted the pear tree?"], uses, ENGINE)
    assert pear.uses == (AdapterUse(house.chunk_path(1)), AdapterUse(task.path, 2.0))


def test_a_document_that_is_switched_off_is_not_searched(library: Library, choose: ChunkChooser) -> None:
    house, ship = put(library, "house", HOUSE), put(library, "ship", SHIP)
    uses = [AdapterUse(house.path), AdapterUse(ship.path, 0.0)]
    choice = choose(["Who was the captain of the ship, and who built the house?"], uses, ENGINE)
    assert choice.uses == (AdapterUse(house.chunk_path(0)), AdapterUse(ship.path, 0.0))


@pytest.mark.parametrize("question", ["Hej!", "", "???", "zweiundvierzig"])
def test_without_a_word_in_common_the_whole_document_answers(
    library: Library, choose: ChunkChooser, question: str
) -> None:
    house = put(library, "house", HOUSE)
    choice = choose([question], [AdapterUse(house.path)], ENGINE)
    assert (choice.uses, choice.chunk) == ((AdapterUse(house.path),), None)


def test_a_follow_up_stays_with_its_chunk_and_a_new_question_does_not(library: Library, choose: ChunkChooser) -> None:
    common = tuple(
        f"And it was so when number {number} came. It was what it was and when it was." for number in range(12)
    )
    house = put(library, "house", HOUSE + common)  # in a document of real length, such words are everywhere
    uses = [AdapterUse(house.path)]
    for question, chunk in (("And when was it?", 1), ("Thanks!", 1), ("And when is the house heated?", 2)):
        chosen = choose(["Who planted the pear tree?", question], uses, ENGINE).chunk
        assert chosen == ChosenChunk("house", chunk, 15), question
    assert choose(["Thanks!", "Who planted it?"], uses, ENGINE).chunk == ChosenChunk("house", 1, 15)


def test_short_documents_and_files_from_elsewhere_stay_as_they_are(
    library: Library, choose: ChunkChooser, tmp_path: Path
) -> None:
    note = put(library, "note", HOUSE[:1], files=False)
    uses = (AdapterUse(note.path), AdapterUse(tmp_path / "other.gguf"))
    assert choose(["Who built the house?"], uses, ENGINE).uses == uses
    assert choose(["Who built the house?"], (), ENGINE).uses == ()
    assert choose([], uses, ENGINE).uses == uses


def test_a_missing_chunk_file_lets_the_whole_document_answer_and_is_logged(
    library: Library, choose: ChunkChooser, caplog: pytest.LogCaptureFixture
) -> None:
    house = put(library, "house", HOUSE)
    house.chunk_path(1).unlink()
    with caplog.at_level(logging.WARNING):
        choice = choose(["Who planted the pear tree?"], [AdapterUse(house.path)], ENGINE)
    assert (choice.uses, choice.chunk) == ((AdapterUse(house.path),), None)
    assert "chunk 2 of `house` is missing" in caplog.text


def test_a_conversation_asks_each_question_of_its_chunk(library: Library, choose: ChunkChooser) -> None:
    house = put(library, "house", HOUSE)
    engine = FakeEngine(["Ada Marsh", "in the kitchen", "hm"])
    session = ChatSession(engine, adapters=[AdapterUse(house.path)], choose=choose)
    assert session.choice.chunk is None
    for question, chunk in (("Who built the house?", 0), ("Where is the stove?", 2)):
        "".join(piece.text for piece in session.ask(question))
        assert engine.adapters == (AdapterUse(house.chunk_path(chunk)),)
        assert session.choice.chunk == ChosenChunk("house", chunk, 3)
    assert session.adapters == (AdapterUse(house.path),), "the conversation keeps the document, not its chunk"
    plain = ChatSession(engine, adapters=[AdapterUse(house.path)])
    "".join(piece.text for piece in plain.ask("Who built the house?"))
    assert (engine.adapters, plain.choice.chunk) == ((AdapterUse(house.path),), None)


def test_a_chunks_score_is_its_best_passages(library: Library) -> None:
    house = put(library, "house", HOUSE)
    scores = library.score_chunks("house roof", [house.id])
    by_passage = library.search_passages("house roof", [house.id], limit=100)
    assert scores[house.id, 0] == max(one.score for one in by_passage if one.chunk == 0)
    assert set(scores) == {(house.id, 0), (house.id, 2)}
    assert scores[house.id, 0] > scores[house.id, 2] > 0
    assert library.score_chunks("roof", [house.id + 1]) == {}


def test_trash_holds_the_chunks_too(library: Library) -> None:
    house = put(library, "house", HOUSE)
    library.remove("house")
    assert not chunk_folder(house.path).exists()
    back = library.restore("house")
    assert back.chunk_path(2).is_file() and back.chunk_files == 3
    library.remove("house")
    assert library.purge() == 1
    assert [file for file in house.path.parent.rglob("*") if file.is_file()] == []


def test_the_size_of_all_counts_chunks(library: Library) -> None:
    assert replace(put(library, "house", HOUSE), chunk_bytes=12).all_bytes == 16
