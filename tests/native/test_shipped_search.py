"""The shipped search head on the default base model: a question in other words than the text finds its chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from localhyper.attach_steps import encode_chunks
from localhyper.chunk_keys import ChunkKeys, in_memory, read_question
from localhyper.chunking import Chunk
from localhyper.database import Database
from localhyper.engine import ChatMessage, Engine, EngineConfig, Sampling
from localhyper.hypernet import OnnxHypernetwork
from localhyper.library import Library
from localhyper.llama_engine import LlamaEngine
from localhyper.pipeline import passages_of
from localhyper.progress import CancelToken
from localhyper.registry import load_registry

pytestmark = pytest.mark.native

TEXTS = (
    "The vessel left the yard in Bergen in 1887. Her first skipper, Ada Holm, had sailed to Iceland before. She "
    "carried timber and wool, and later dried fish.",
    "The kitchen closes at nine in the evening. Guests who arrive later find bread, soup and cheese in the small "
    "dining room, free of charge.",
    "The observatory owns two telescopes. The larger one was a gift of the bank and shows the rings of Saturn on clear "
    "nights in autumn.",
    "The school teaches weaving, carpentry and bookkeeping. Lessons last forty minutes, and no child pays for them.",
    "The hospital has ninety beds. A doctor is there by night, too, and an ambulance fetches patients from the "
    "islands.",
)
ASKED = {  # none shares a word with its chunk but for those that stand everywhere
    "Who was the captain of the ship?": 0,
    "What can I eat after the restaurant has shut?": 1,
    "Which planet can be seen?": 2,
    "How much is the tuition?": 3,
    "Who treats sick people when it is dark?": 4,
}


# A text, questions about it in its own language, with slips or in many words, and others.
RELATED = {
    "Die Mietwohnung liegt in der Gartenstraße. Die monatliche Miete beträgt 870 Euro und ist bis zum dritten Werktag "
    "zu zahlen. Die Kündigungsfrist beträgt drei Monate.": (
        ["Wie hoch ist die monatliche Miete der Wohnung?", "Bis wann muss ich die Miete bezahlen?"],
        [],  # of another language than the base model's, all that is asked in it seems near
    ),
    "def load_settings(path):\n    with open(path, 'rb') as stream:\n        return tomllib.load(stream)\n\n"
    "MAX_RETRIES = 7\nTIMEOUT_SECONDS = 45\n": (
        ["What is the value of MAX_RETRIES?", "How many seconds is the timeout?"],
        ["Explain how photosynthesis works in plants."],
    ),
    "Name, City, Age\nAnna Kolb, Berlin, 34\nPeter Hansen, Oslo, 51\nJun Sato, Osaka, 45\n": (
        ["In which city does Peter Hansen live?", "What is the age of Anna Kolb?"],
        ["What is the capital of Portugal and what is it known for?"],
    ),
    "The harbour of Tarn opens in April, and the ferry to Brenn leaves at 6:40 from pier three.": (
        [
            "wen does teh tarn harbor open",
            "Please tell me, if you can, at what time in the morning I have to be at the boat that goes to Brenn.",
            "When does it open?",
            "Where?",
        ],
        ["Please tell me, if you can, how I might cook a good dinner for six guests."],
    ),
}


@pytest.fixture(scope="module")
def engine(default_model_path: Path) -> Iterator[Engine]:
    with LlamaEngine.load(default_model_path, EngineConfig()) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def keys(engine: Engine) -> ChunkKeys:
    """Keys of the five texts."""
    return keys_of(engine, TEXTS)


def keys_of(engine: Engine, texts: Iterable[str]) -> ChunkKeys:
    """Keys of chunks, made as attaching makes them."""
    registry = load_registry()
    path = registry.locate(registry.hypernetworks["smollm2-135m-document"])
    assert path is not None
    net = OnnxHypernetwork.load(path, threads=1, expected_base=engine.info)
    head = net.alone.search_head()
    assert head is not None and head.parts is not None, "the shipped bundle has two search heads"
    ids = [engine.tokenize(text) for text in texts]
    made = [head.keys(read.hidden) for read in encode_chunks(engine, net.info, ids, CancelToken())]
    return in_memory(head.maps, net.alone.info, made)


def is_asked(question: str, keys: ChunkKeys, engine: Engine, chunks: int = 1) -> bool:
    """Whether `ask` would put the question to the document."""
    hidden = read_question(question, engine, keys.capture, keys.prefix)
    return keys.is_related(keys.match(hidden), chunks)


@pytest.mark.parametrize("text", RELATED)
def test_what_a_text_is_asked_about_is_told_from_all_else(text: str, engine: Engine) -> None:
    about, elsewhere = RELATED[text]
    keys = keys_of(engine, [text])
    assert [question for question in about if not is_asked(question, keys, engine)] == []
    assert [question for question in elsewhere if is_asked(question, keys, engine)] == []


def test_questions_in_other_words_are_about_the_document(engine: Engine, keys: ChunkKeys) -> None:
    assert [question for question in ASKED if not is_asked(question, keys, engine, len(TEXTS))] == []


def test_questions_in_other_words_find_their_chunk(engine: Engine, keys: ChunkKeys, tmp_path: Path) -> None:
    assert keys.fits(engine.info)
    found = {question: int(keys.scores(question, engine).argmax()) for question in ASKED}
    assert found == ASKED
    chunks = [Chunk(number, np.zeros(1, np.int32), text) for number, text in enumerate(TEXTS)]
    library = Library(Database(tmp_path / "library.sqlite3"), tmp_path / "adapters")
    with library.database.transaction() as connection:
        connection.executemany(
            "INSERT INTO passages(text, adapter_id, chunk, start, stop) VALUES (?, 1, ?, 0, 0)",
            [(passage.text, passage.chunk) for passage in passages_of(chunks)],
        )
    by_words = 0
    for question, chunk in ASKED.items():
        scores = library.score_chunks(question, [1])
        by_words += bool(scores) and max(scores, key=lambda place: scores[place])[1] == chunk
    assert by_words < len(ASKED), "else this test shows nothing"


def test_reading_a_question_leaves_the_conversation_alone(engine: Engine, keys: ChunkKeys) -> None:
    messages = [ChatMessage("user", "Hello there, how are you today?")]
    sampling = Sampling(max_tokens=4)
    first = list(engine.generate(messages, sampling))
    keys.scores("Who was the captain of the ship?", engine)
    second = list(engine.generate(messages, sampling))
    assert [piece.text for piece in first] == [piece.text for piece in second]
    stats = second[-1].stats
    assert stats is not None and stats.reused_tokens > 0, "the KV cache is still there"
