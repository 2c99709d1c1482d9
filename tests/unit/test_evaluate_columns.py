"""What all suites share: names of columns, a document cut for the prompt, the ring of adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.chunk_choice import Choice, Choose
from localhyper.engine import ChatMessage
from localhyper.errors import ConfigError
from localhyper.evaluate import columns
from localhyper.evaluate.columns import (
    COLUMNS,
    AdapterRing,
    adapters_for,
    make_document,
    parse_columns,
    show_document,
)
from localhyper.sources.document import Document
from tests.evaluation import write_text
from tests.fakes import FakeEngine


def test_a_text_that_fits_is_shown_whole_and_a_longer_one_fills_the_window() -> None:
    engine = FakeEngine(n_ctx=256)
    assert show_document(engine, "short", ["Why?"], 32).text == "short"
    cut = show_document(engine, "x" * 1000, ["Why?", "Why not?"], 32).text
    prompt = engine.tokenize(engine.render([ChatMessage("user", f"{cut}\n\nWhy not?")]), special=True)
    assert 256 - 32 - 17 <= len(prompt) <= 256 - 32


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_ring_never_gives_a_document_its_own_control_and_keeps_few_files(tmp_path: Path, count: int) -> None:
    documents = [make_document("", f"text {number}") for number in range(count)]
    made: list[str] = []

    def make(document: Document, folder: Path) -> Path:
        made.append(document.text)
        return write_text(document, folder)

    ring, controls = AdapterRing(documents, make, tmp_path), []
    for index in range(count):
        assert ring.own(index).read_text() == f"text {index}"
        controls.append(ring.own(ring.next_to(index)).read_text())
        assert len(list(tmp_path.glob("*/adapter.gguf"))) <= 3
        ring.finish(index)
    assert controls == [f"text {(index + 1) % count}" for index in range(count)]
    assert sorted(made) == sorted(document.text for document in documents)


def test_columns_are_named_in_any_order_and_come_in_their_own() -> None:
    assert parse_columns("adapter, none,adapter") == ("none", "adapter")
    assert parse_columns(",".join(COLUMNS)) == COLUMNS
    for text, told in (("adaptor", "did you mean `adapter`"), ("", "known are"), (" , ", "known are")):
        with pytest.raises(ConfigError) as caught:
            parse_columns(text)
        assert told in caught.value.hint


def test_a_document_is_cut_to_the_smaller_of_window_and_limit() -> None:
    engine = FakeEngine(n_ctx=256)
    assert show_document(engine, "x" * 50, ["Why?"], 32, 40).tokens == 40
    assert show_document(engine, "x" * 50, ["Why?"], 32, 50).text == "x" * 50
    wide = show_document(engine, "x" * 1000, ["Why?"], 32, 900)
    assert (wide.tokens, wide.whole_tokens) == (len(show_document(engine, "x" * 1000, ["Why?"], 32).text), 1000)


def test_another_documents_adapter_is_a_control_though_ask_would_leave_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chooser_in(folder: Path, *, only_related: bool = True) -> Choose:
        return lambda questions, uses, engine: Choice(() if only_related else tuple(uses))

    monkeypatch.setattr(columns, "chooser_in", chooser_in)
    ring = AdapterRing([make_document("", f"text {number}") for number in range(2)], write_text, tmp_path)
    engine = FakeEngine()
    assert adapters_for("adapter", ring, 0, "Why?", engine) == ()
    for column, text in (("whole", "text 0"), ("shuffled", "text 1")):
        (use,) = adapters_for(column, ring, 0, "Why?", engine)
        assert use.path.read_text() == text
    assert adapters_for("none", ring, 0, "Why?", engine) == ()
