"""Replies in which words are spelt as in the text: only where an adapter in force says so, and to the word's end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localhyper.config import load_config
from localhyper.engine import AdapterUse, ChatMessage, EngineConfig, FloatArray, Sampling
from localhyper.gguf_adapter import AdapterMetadata, read_metadata, write_adapter
from localhyper.jobs import JobRequest
from localhyper.library import chunk_folder
from localhyper.llama_engine import LlamaEngine
from localhyper.lora import TOKENS
from localhyper.paths import Paths
from localhyper.respelling import Respeller
from localhyper.task_pipeline import task_document
from localhyper.workbench import Workbench
from tests.tiny_gguf import tiny_lora

pytestmark = pytest.mark.native
WORD = [ord("o") + 3, ord("a") + 3, ord("k") + 3]


class OneWord(Respeller):
    """Knows the tokens of `WORD` as words, says it at every later start of one, and counts the rows it was shown."""

    def __init__(self) -> None:
        super().__init__([], lambda text: [])
        self.rows: list[tuple[int, ...]] = []

    @staticmethod
    def may_begin(said: str) -> bool:
        return True

    def likeliest(self, row: FloatArray, begun: str) -> int | None:
        self.rows.append(row.shape)
        return WORD[-1]

    def respelt(self, row: FloatArray, begun: str) -> list[int]:
        self.rows.append(row.shape)
        return WORD


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(tiny_model_path, EngineConfig(n_ctx=512, threads=1, threads_batch=1)) as made:
        yield made


def reply(engine: LlamaEngine, count: int = 6) -> list[int]:
    pieces = engine.generate([ChatMessage("user", "Which tree?")], Sampling(max_tokens=count, end_loops=False))
    return [token for piece in pieces for token in piece.token_ids]


def adapter(engine: LlamaEngine, folder: Path, values: str) -> AdapterUse:
    path = folder / f"{values or 'none'}.gguf"
    write_adapter(path, tiny_lora(), engine.info, AdapterMetadata(values=values))
    return AdapterUse(path)


def test_beside_a_task_a_word_begins_as_the_model_began_and_is_said_to_its_end(
    engine: LlamaEngine, tmp_path: Path
) -> None:
    engine._respeller = words = OneWord()
    engine.set_adapters([adapter(engine, tmp_path, TOKENS), adapter(engine, tmp_path, "")])
    assert reply(engine, 7) == [WORD[-1], *WORD, *WORD]
    assert words.rows == [(engine.info.vocab_size,)] * 3


def test_documents_tasks_and_the_base_model_alone_are_left_as_they_are(engine: LlamaEngine, tmp_path: Path) -> None:
    engine._respeller = words = OneWord()
    document, task = adapter(engine, tmp_path, TOKENS), adapter(engine, tmp_path, "")
    for uses in (
        [],
        [document],
        [task],
        [AdapterUse(document.path, 0.0), task],
        [document, AdapterUse(task.path, 0.0)],
    ):
        engine.set_adapters(uses)
        reply(engine)
    assert words.rows == []


def test_the_vocabulary_is_read_once(engine: LlamaEngine, tmp_path: Path) -> None:
    engine.set_adapters([adapter(engine, tmp_path, TOKENS), adapter(engine, tmp_path, "")])
    words = engine._words()
    assert words is not None and words is engine._words()
    assert reply(engine, 3)


def test_a_documents_word_comes_whole_in_json(default_model_path: Path, paths: Paths) -> None:
    text = "The keeper of the mill is Ada Holm. The password of the mill is jungle. It has two floors and a cellar."
    with Workbench(paths.create(), load_config(paths.config_file), base=str(default_model_path)) as bench:
        document = bench.attach(bench.read(JobRequest(text=text)), bench.options("mill")).result.adapter
        task = bench.attach_task(task_document("Reply in JSON."), bench.options("json")).result.adapter
        files = [document.path, *sorted(chunk_folder(document.path).glob("*.gguf"))]
        assert [read_metadata(path).values for path in files] == [TOKENS] * len(files)
        assert read_metadata(task.path).values == ""
        engine = bench.engine()
        engine.set_adapters([AdapterUse(document.path), AdapterUse(task.path)])
        asked = [ChatMessage("user", "What is the password of the mill?")]
        reply = "".join(piece.text for piece in engine.generate(asked, Sampling(max_tokens=24)))
    assert json.loads(reply) == {"answer": "jungle"}
