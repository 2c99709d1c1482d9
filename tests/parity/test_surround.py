"""What training documents are surrounded by: consecutive chunks of the very text they are drawn from."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.export.batches import Collator  # noqa: E402
from localhyper.export.cloze import GAP, cloze  # noqa: E402
from localhyper.export.data import ExampleMaker, Mixture  # noqa: E402
from localhyper.export.data_files import END_MARKER, read_reading, read_sentences, spelled_in  # noqa: E402
from localhyper.export.prompts import read_prompt_format  # noqa: E402
from localhyper.export.surround import FillerBank, make_run, open_fact  # noqa: E402
from localhyper.export.texts import Corpus, Example, Near, Pair, Text, article_texts, long_texts  # noqa: E402
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


def test_a_run_is_consecutive_chunks_of_one_text(collator: Collator) -> None:
    for seed in range(20):
        run = make_run(random.Random(seed), maker(collator), collator, Text(SENTENCES), 10)
        assert run.chunks.shape == (10, len(collator.prefix) + TOKENS)
        assert list(run.starts) == sorted(run.starts)
        assert "Kettle" not in words_of(collator, run.chunks.flatten().tolist())
        near = run.near(2, 3)
        assert near.first == run.starts[2] and run.starts[5] < near.last <= run.starts[5] + 1


def test_some_runs_hold_planted_facts_about_invented_names(collator: Collator) -> None:
    runs = [make_run(random.Random(seed), maker(collator), collator, Text(SENTENCES), 10) for seed in range(12)]
    texts = [words_of(collator, run.chunks[:, len(collator.prefix) :].flatten().tolist()) for run in runs]
    own = re.compile(r"\s*(Ship \d+ left the harbour with \d+ barrels\.)*\s*(Ship [^.]*)?")
    plain = [text for text in texts if own.fullmatch(text.replace(". Ship", ".Ship"))]
    assert 0 < len(plain) < 12
    fact = open_fact(random.Random(1), maker(collator))
    assert fact.value in fact.statement


def test_the_surround_of_a_step_is_one_text_and_its_documents_lie_beside_it(collator: Collator) -> None:
    made = maker(collator)
    bank = FillerBank(made, collator, CONFIG, seed=0)
    assert sum(len(run.chunks) for run in bank.runs) >= CONFIG.bank - CONFIG.live
    for step in range(0, 40, 4):
        settled, near = bank.to_settle(step), bank.near(step)
        assert settled is not None and near is not None
        name = "Ship" if near.text.sentences[0].startswith("Ship") else "Kettle"
        other = "Kettle " if name == "Ship" else "Ship "
        surround = bank.surround(step + 1)
        assert surround.live is not None
        for ids in (settled, surround.live):
            assert other not in words_of(collator, ids.flatten().tolist())
        known = {tuple(row.tolist()) for row in settled}
        assert not known & {tuple(row.tolist()) for row in surround.live}, "a chunk learns or is settled, not both"
        example = made.facts(random.Random(step), 1, near)
        assert other not in example.text


def test_what_surrounds_a_step_is_a_function_of_seed_and_step(collator: Collator) -> None:
    one, two = (FillerBank(maker(collator), collator, CONFIG, seed=3) for _ in range(2))
    for step in (0, 4, 8, 9, 10):
        a, b = one.surround(step), two.surround(step)
        assert a.settled == b.settled and a.live is not None and b.live is not None and torch.equal(a.live, b.live)
        first, second = one.to_settle(step), two.to_settle(step)
        assert (first is None) == (second is None) == (step % 4 != 0)
        assert first is None or second is None or torch.equal(first, second)


def test_nothing_surrounds_without_share(collator: Collator) -> None:
    bank = FillerBank(maker(collator), collator, SurroundConfig(share=0.0), seed=0)
    assert bank.near(0) is None and bank.to_settle(0) is None and bank.surround(0).live is None


def test_a_document_is_not_drawn_out_of_its_own_surround() -> None:
    example = Example("reading", "x", (Pair("q", "a"),))
    near = Near(Text([str(i) for i in range(10)], [(3, example), (8, example)]), 2, 7)
    rng = random.Random(0)
    starts = {near.start(rng) for _ in range(300)}
    assert starts == {0, 1, 7, 8, 9}
    assert Near(near.text, 0, 10).start(rng) in range(10)
    assert near.example(rng) is example
    assert Near(Text(["a"], [(0, example)]), 0, 1).example(rng) is None


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


def test_every_kind_of_document_comes_beside_its_surround(collator: Collator) -> None:
    reading = [Example("reading", f"Cart {i} is old.", (Pair("How is it?", "old"),), "carts") for i in range(20)]
    made = maker(collator, reading)
    text = Text(SENTENCES)
    for kind in Mixture().shares:
        mixture = Mixture(
            facts=float(kind == "facts"),
            relations=float(kind == "relations"),
            reading=float(kind == "reading"),
            continuation=float(kind == "continuation"),
            gaps=float(kind == "gaps"),
            most_facts=1,
        )
        for seed in range(10):
            example = made.draw(random.Random(seed), mixture, 0, Near(text, 100, 200))
            assert example.kind == kind and example.pairs
            assert "Kettle" not in example.text
            assert made.count(example.text) <= TOKENS + 4 or kind == "relations"
