"""What training documents are surrounded by: consecutive chunks of the very text they are drawn from."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localhyper.chunking import split_document
from localhyper.evaluate.columns import make_document

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.export.batches import ChunkTokens, Collator  # noqa: E402
from localhyper.export.cloze import GAP, cloze  # noqa: E402
from localhyper.export.cutting import END_MARKER, spelled_in  # noqa: E402
from localhyper.export.data import ExampleMaker, Mixture  # noqa: E402
from localhyper.export.data_files import read_reading, read_sentences  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.surround import Beside, FillerBank, RunMaker  # noqa: E402
from localhyper.export.texts import Corpus, Example, Pair, Text, article_texts, long_texts  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.train_config import SurroundConfig  # noqa: E402
from tests.tiny_gguf import TinySpec, write_tiny_gguf  # noqa: E402

pytestmark = [pytest.mark.torch]

TOKENS = 96
SENTENCES = [f"Ship {i} left the harbour with {i * 7} barrels." for i in range(400)]
CONFIG = SurroundConfig(share=1.0, live=3, bank=60, most=20, settle_every=4)


@pytest.fixture(scope="module")
def collator(tmp_path_factory: pytest.TempPathFactory) -> Collator:
    path = tmp_path_factory.mktemp("surround") / "base.gguf"
    write_tiny_gguf(path, TinySpec(blocks=2, hidden=32, ffn=48))
    return Collator(load_tokenizer(path), read_prompt_format(path, "<|im_start|>user\n"), TOKENS, 64, 16)


def maker(collator: Collator, reading: Sequence[Example] = ()) -> ExampleMaker:
    other = [f"Kettle {i} sang on the stove." for i in range(400)]
    return ExampleMaker(Corpus(list(reading), [SENTENCES, other]), collator.tokenizer, TOKENS)


def words_of(collator: Collator, ids: Sequence[int]) -> str:
    text: str = collator.tokenizer.decode(list(ids))
    return text


def texts_of(collator: Collator, tokens: ChunkTokens) -> set[str]:
    rows = zip(tokens.ids[:, len(collator.prefix) :], tokens.mask.bool(), strict=True)
    return {words_of(collator, ids[mask].tolist()) for ids, mask in rows}


def test_a_run_is_consecutive_chunks_of_one_text(collator: Collator) -> None:
    for seed in range(10):
        run = RunMaker(maker(collator), collator).run(random.Random(seed), Text(SENTENCES), 10, facts=0.0)
        assert run.tokens.ids.shape == (10, len(collator.prefix) + TOKENS)
        numbers = [int(re.findall(r"Ship (\d+)", chunk.text)[0]) for chunk in run.chunks]
        assert numbers == sorted(set(numbers))
        for chunk, row, mask in zip(run.chunks, run.tokens.ids, run.tokens.mask, strict=True):
            shown = row[len(collator.prefix) :][mask.bool()].tolist()
            assert words_of(collator, shown) == chunk.text and shown == collator.encode(chunk.text)


def test_every_chunk_begins_with_a_sentence_or_a_fact(collator: Collator) -> None:
    """A sentence cut at the beginning would tell chunks that surround from those asked about."""
    run = RunMaker(maker(collator), collator).run(random.Random(1), Text(SENTENCES), 30, facts=0.5)
    begun = [chunk for chunk in run.chunks if chunk.text.startswith("Ship ")]
    others = [chunk for chunk in run.chunks if not chunk.text.startswith("Ship ")]
    assert begun and all(chunk.text[0].isupper() or chunk.text[0].isdigit() or chunk.text[0] == "$" for chunk in others)


def test_a_run_is_cut_as_attaching_cuts(collator: Collator) -> None:
    run = RunMaker(maker(collator), collator).run(random.Random(4), Text(SENTENCES), 12, facts=0.5)
    text = "".join(chunk.text for chunk in run.chunks)
    document = make_document("one", text)

    def tokenize(part: str) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.array(collator.encode(part), np.int32)

    pieces = split_document(document, tokenize, lambda ids: words_of(collator, [int(i) for i in ids]), TOKENS)
    assert [piece.text for piece in pieces] == [chunk.text for chunk in run.chunks]


def test_planted_facts_are_asked_for_where_they_stand_and_once_a_run(collator: Collator) -> None:
    run = RunMaker(maker(collator), collator).run(random.Random(2), Text(SENTENCES), 40, facts=1.0)
    pairs = [(chunk, pair) for chunk in run.chunks for kind in ("facts", "relations") for pair in chunk.asked[kind]]
    assert len(pairs) > 10
    assert len({pair.question for _, pair in pairs}) == len(pairs)
    assert not any(chunk.asked["reading"] for chunk in run.chunks)


def test_documents_and_their_surround_are_chunks_of_one_run(collator: Collator) -> None:
    bank = FillerBank(maker(collator), collator, CONFIG, seed=0)
    assert sum(len(run.chunks) for run in bank.runs) >= CONFIG.bank - 2 * CONFIG.live
    for step in range(0, 40, 4):
        settled, surround, beside = bank.to_settle(step), bank.surround(step + 1), bank.beside(step + 1)
        assert settled is not None and surround.live is not None and beside is not None
        run = next(run for run in bank.runs if any(chunk is beside.chunks[0] for chunk in run.chunks))
        parts = [texts_of(collator, tokens) for tokens in (settled, surround.live)]
        parts.append({chunk.text for chunk in beside.chunks})
        assert all(parts) and all(part <= {chunk.text for chunk in run.chunks} for part in parts)
        assert sum(map(len, parts)) == len(run.chunks), "a chunk is settled, learns or is asked about"
        assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]


def test_what_surrounds_a_step_is_a_function_of_seed_and_step(collator: Collator) -> None:
    one, two = (FillerBank(maker(collator), collator, CONFIG, seed=3) for _ in range(2))
    for step in (0, 4, 8, 9, 10):
        a, b = one.surround(step), two.surround(step)
        assert a.settled == b.settled and a.live and b.live and torch.equal(a.live.ids, b.live.ids)
        first, second = one.to_settle(step), two.to_settle(step)
        assert (first is None) == (second is None) == (step % 4 != 0)
        assert first is None or second is None or torch.equal(first.ids, second.ids)


def test_nothing_surrounds_without_share(collator: Collator) -> None:
    bank = FillerBank(maker(collator), collator, SurroundConfig(share=0.0), seed=0)
    assert bank.beside(0) is None and bank.to_settle(0) is None and bank.surround(0).live is None


def test_contexts_of_an_article_follow_each_other() -> None:
    examples = [Example("reading", f"One {i}. Two {i}.", (Pair("q", "a"),), f"set/{i % 2}") for i in range(6)]
    first, second = article_texts(examples)
    assert first.sentences == ["One 0.", "Two 0.", "One 2.", "Two 2.", "One 4.", "Two 4."]
    assert [at for at, _ in first.examples] == [0, 2, 4]
    assert len(second.examples) == 3
    assert [len(texts) for texts in long_texts(Corpus(examples, [["a"], []]))] == [1, 2]


def test_reading_sets_keep_answers_with_a_stray_end(tmp_path: Path, collator: Collator) -> None:
    rows = [
        {
            "title": "t",
            "context": "The mill stands in Aldea",
            "qas": [{"question": "Where?", "answers": [f" Aldea.{END_MARKER}"]}],
        },
        {"title": "t", "context": "Nothing. Here.", "qas": [{"question": "Where?", "answers": ["Birkas"]}]},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (example,) = read_reading(path, collator.tokenizer, TOKENS)
    assert example.pairs == (Pair("Where?", "Aldea"),)
    assert spelled_in("He met Mr. Smith Jr.", "Smith Jr.") == "Smith Jr."
    assert spelled_in("x", "y") is None and spelled_in("x", ".") is None


def test_a_long_context_gives_several_chunks(tmp_path: Path, collator: Collator) -> None:
    context = " ".join(SENTENCES[:20])
    row = {
        "title": "t",
        "context": context,
        "qas": [
            {"question": f"Barrels of {i}?", "answers": [f"{i * 7} barrels"]} for i in (1, 2, 11, 19)
        ],  # 7 barrels stand in 77 barrels, too
    }
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    examples = read_reading(path, collator.tokenizer, TOKENS)
    assert [[p.answer for p in example.pairs] for example in examples] == [
        ["14 barrels"],
        ["77 barrels"],
        ["133 barrels"],
    ]
    assert all(len(collator.encode(example.text)) <= TOKENS + 2 for example in examples)
    assert read_sentences(path)[1] == SENTENCES[1]


def test_a_gap_hides_a_number_or_a_name_or_the_last_word() -> None:
    rng = random.Random(0)
    for sentence, hidden in (
        ("The patients were 63 years old on average.", "63"),
        ("In spring the choir of Aldea Norte sang for us.", "Aldea Norte"),
        ("they went home late and found the garden.", "garden"),
    ):
        found = cloze(rng, sentence)
        assert found is not None
        question, answer = found
        assert answer == hidden and GAP in question and hidden not in question
    assert cloze(rng, "Too short.") is None


def only(kind: str) -> Mixture:
    """Nothing but one kind of document."""
    shares = {name: float(name == kind) for name in Mixture().shares}
    return Mixture(**shares, most_facts=1)  # type: ignore[arg-type]


def test_a_chunk_is_asked_about_in_every_way_its_text_allows(collator: Collator) -> None:
    reading = [
        Example("reading", f"Cart {i} is old. It has {i} wheels.", (Pair(f"Cart {i}?", f"{i} wheels"),), "c")
        for i in range(200)
    ]
    run = RunMaker(maker(collator), collator).run(random.Random(0), next(article_texts(reading)), 30, facts=2.0)
    beside = Beside(run.chunks)
    for kind in ("facts", "relations", "reading"):
        for seed in range(10):
            example = beside.draw(random.Random(seed), only(kind))
            assert example is not None and example.kind == kind
            assert any(example.text == chunk.text for chunk in run.chunks)
            if kind == "reading":
                assert all(pair.answer in example.text for pair in example.pairs)
    plain = Beside(RunMaker(maker(collator), collator).run(random.Random(0), Text(SENTENCES), 6, facts=0.0).chunks)
    assert plain.draw(random.Random(0), only("reading")) is None
    for kind in ("gaps", "continuation"):
        example = plain.draw(random.Random(0), only(kind))
        assert example is not None and all(pair.answer.strip(".") in example.text for pair in example.pairs)


def test_every_kind_of_document_is_made_without_a_surround_too(collator: Collator) -> None:
    reading = [Example("reading", "Cart 1 is old.", (Pair("How is it?", "old"),), "carts")]
    about = Example("about", "Cart 1 is old.", (Pair("What is it about?", "An old cart."),))
    corpus = Corpus(reading, [SENTENCES], about=[about])
    made = ExampleMaker(corpus, collator.tokenizer, TOKENS)
    for kind in Mixture().shares:
        for seed in range(10):
            example = made.draw(random.Random(seed), only(kind), 0)
            assert example.kind == kind and example.pairs
            # Facts are as long as they are, and so are overviews.
            assert made.count(example.text) <= TOKENS + 4 or kind in ("relations", "crossed", "overviews")
