"""Passages to be asked about, the two tasks that teach to ask, and the questions that are kept."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.errors import ConfigError  # noqa: E402
from localhyper.export import own_questions, passages, question_tasks, task_train  # noqa: E402
from localhyper.export.checkpoints import read_run  # noqa: E402
from localhyper.export.data_files import load_corpus, read_reading, read_rows, write_rows  # noqa: E402
from localhyper.export.own_questions import Answered, merge_lora, read_asked, read_passages, worth_asking  # noqa: E402
from localhyper.export.own_summaries import PASSAGE  # noqa: E402
from localhyper.export.passages import Passage, is_prose, runs_of, unlike  # noqa: E402
from localhyper.export.question_tasks import answering, asking, instances, sentence_asked  # noqa: E402
from localhyper.export.task_config import load_task_recipe  # noqa: E402
from localhyper.export.task_hypernetwork import LoraBank  # noqa: E402
from localhyper.export.task_objectives import block_adapter  # noqa: E402
from localhyper.export.texts import Example, Pair  # noqa: E402
from localhyper.export.tokenizer import load_tokenizer  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402

pytestmark = [pytest.mark.native, pytest.mark.torch]

WELL = "Ada dug the well in 1901. It is 12 m deep. The miller of Aldea drinks from it, and Ada does not."
RECIPE = """
name = "tiny-questions"
[task]
way = "multitask"
[hypernetwork]
hidden = 64
ffn = 96
keys = 32
blocks = 2
taps = [0, 1]
modules = ["attn_q", "attn_v", "ffn_down"]
rank = 2
[data]
tasks = ["tasks.jsonl.gz"]
holdout = 2
buckets = [256, 512]
[loss]
meaningless = 0.0
[run]
steps = 2
tasks = 1
rows = 2
save_every = 2
probe_every = 2
probe_batches = 1
"""


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(count)).capitalize() + "."


# --- the two tasks ----------------------------------------------------------------------------------------------------


def test_the_sentence_asked_about_holds_the_answer_and_most_of_the_question() -> None:
    assert sentence_asked(WELL, "Who dug the well?", "Ada") == "Ada dug the well in 1901."
    assert sentence_asked(WELL, "Who does not drink from it?", "Ada") == WELL.split("deep. ")[1]
    assert sentence_asked(WELL, "Who dug the well?", "Eve") is None


def test_each_question_teaches_to_answer_and_where_it_can_to_ask() -> None:
    pairs = (Pair("Who dug the well?", "Ada"), Pair("When and how deep?", "1901. It is 12 m"))
    made = list(instances([Example("reading", WELL, pairs)]))
    assert made == [
        ("answer", answering(WELL, "Who dug the well?"), "Ada"),
        ("ask", asking(WELL, "Ada dug the well in 1901."), "Who dug the well?\nAda"),
        ("answer", answering(WELL, "When and how deep?"), "1901. It is 12 m"),
    ]


# --- passages ---------------------------------------------------------------------------------------------------------


def test_prose_is_long_enough_and_of_words() -> None:
    assert is_prose(words(random.Random(0), 70))
    assert not is_prose(words(random.Random(0), 30))
    assert not is_prose(" ".join(["12:30", "a=b"] * 50))


def test_runs_are_whole_sentences_and_fit_a_chunk(tiny_model_path: Path) -> None:
    rng, tokenizer = random.Random(0), load_tokenizer(tiny_model_path)
    sentences = [words(rng, rng.randint(2, 12)) for _ in range(40)]
    runs = list(runs_of(sentences, tokenizer))
    assert " ".join(runs) == " ".join(sentences) and len(runs) > 3
    assert all(len(tokenizer.encode(" " + run, add_special_tokens=False).ids) <= PASSAGE for run in runs)


def test_what_is_tested_and_what_comes_again_is_left_out() -> None:
    rng = random.Random(1)
    tested, fresh, other = words(rng, 40), words(rng, 40), words(rng, 40)
    quoting = f"{other} {' '.join(tested.split()[10:25])}"
    kept = unlike(map(Passage, [quoting, fresh, fresh.upper(), f"{fresh} more"]), passages.shingles(tested), set())
    assert [one.text for one in kept] == [fresh]


def test_the_file_of_passages(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)
    told, input_ = words(rng, 30), f"Text: {words(rng, 70)}"
    write(tmp_path / "reading.jsonl", [{"title": "Wells", "context": told, "qas": []}])
    write(tmp_path / "tasks.jsonl", [{"instances": [{"input": f"{input_}\nshort line", "output": "x"}] * 2}])
    begun = [f"Bell -- {words(rng, 30)}", words(rng, 30)]
    write(tmp_path / "articles.jsonl", [{"passage": passage, "question": "is it", "answer": 1} for passage in begun])
    monkeypatch.setattr(passages, "ARTICLES", "articles.jsonl")
    (tmp_path / "book.txt").write_text(" ".join(words(rng, 12) for _ in range(60)), encoding="utf-8")
    write(tmp_path / "tested.jsonl", [{"context": words(rng, 30), "qas": []}])
    for name, found in (("READING", "reading.jsonl"), ("INPUTS", "tasks.jsonl"), ("TEXTS", "book.txt")):
        monkeypatch.setattr(passages, name, (found,))
    where = ["--base", str(tiny_model_path), "--data", str(tmp_path), "--out", str(tmp_path / "out.gz")]
    assert passages.main([*where, "--without", "tested.jsonl"]) == 0
    rows = list(read_rows(tmp_path / "out.gz"))
    assert rows[0] == {"title": "Wells", "context": told}
    assert rows[1] == {"title": "Bell", "context": begun[0].removeprefix("Bell -- ")}
    assert rows[2] == {"title": "", "context": begun[1]}
    assert str(rows[3]["context"]) in input_ and rows[3]["title"] == ""
    assert len(rows) > 6 and {row["title"] for row in rows[4:]} == {"book.txt"}
    with pytest.raises(SystemExit) as stop:
        passages.main([*where, "--without", "missing.jsonl"])
    assert stop.value.code not in (0, None) and "is missing" in capsys.readouterr().err
    (tmp_path / "broken.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(SystemExit):
        passages.main([*where, "--without", "broken.jsonl.gz"])
    assert "broken.jsonl.gz cannot be read" in capsys.readouterr().err


def test_contexts_that_are_held_out_are_not_trained_on_in_another_file(tiny_model_path: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    contexts = [f"{words(rng, 20)} Town {i} has a mill." for i in range(6)]
    rows = [{"context": c, "qas": [{"question": "What?", "answers": ["a mill"]}]} for c in contexts]
    write(tmp_path / "asked.jsonl", rows)
    write(tmp_path / "own.jsonl", rows[::-1])
    tokenizer = load_tokenizer(tiny_model_path)
    train, held = load_corpus(tmp_path, ["asked.jsonl", "own.jsonl"], [], tokenizer, 400, 6)
    assert len(held.reading) == 2 and len(train.reading) == 8
    assert not {e.text for e in held.reading} & {e.text for e in train.reading}


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("Who dug the well?\nAda", Answered(WELL, "Who dug the well?", "Ada")),
        ("Who dug the well? Ada", None),  # no answer
        ("Tell me who dug it.\nAda", None),  # no question
        ("Who dug the well?\nEve", None),  # not in the passage
        ("Who is Ada?\nAda", None),  # says its answer
        ("Who dug the well?\nAda\nWhen?", None),
        ("", None),
    ],
)
def test_only_questions_with_an_answer_in_the_passage_are_read(reply: str, kept: Answered | None) -> None:
    assert read_asked(WELL, reply) == kept


def test_sentences_worth_asking_about_are_long_enough_and_different() -> None:
    found = worth_asking(WELL + " So it is.", 9, random.Random(0))
    assert sorted(found) == sorted(["Ada dug the well in 1901.", "It is 12 m deep.", WELL.split("deep. ")[1]])
    assert len(worth_asking(WELL, 2, random.Random(0))) == 2


def test_rows_are_in_the_order_of_the_passages_and_no_question_comes_twice() -> None:
    kept = [Answered("b", "Q?", "1"), Answered("a", "Q?", "2"), Answered("b", "Q?", "3"), Answered("b", "R?", "4")]
    made = own_questions.rows({"a": "A", "b": "", "c": "C"}, kept)
    assert [(row["title"], row["context"]) for row in made] == [("A", "a"), ("", "b")]
    assert made[1]["qas"] == [{"question": "Q?", "answers": ["1"]}, {"question": "R?", "answers": ["4"]}]


def test_some_passages_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", [{"title": "", "context": str(i)} for i in range(50)])
    chosen = list(read_passages(tmp_path / "p.jsonl", 10, random.Random(0)))
    assert len(chosen) == 10 and chosen == sorted(chosen, key=int)
    write(tmp_path / "p.jsonl", [{"context": "a"}, {"text": "b"}])
    with pytest.raises(ConfigError, match="line 2 has no key `context`"):
        read_passages(tmp_path / "p.jsonl", 0, random.Random(0))


@pytest.fixture(scope="module")
def taught(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a run of two steps on a tiny model."""
    folder: Path = tmp_path_factory.mktemp("taught")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    qas = [{"question": f"What is {i}?", "answers": ["Ada"]} for i in range(8)]
    write(folder / "reading.jsonl", [{"title": "", "context": WELL, "qas": qas}])
    where = ["--base", str(tiny_model_path), "--data", str(folder)]
    out = str(folder / "tasks.jsonl.gz")
    assert question_tasks.main([*where, "--sets", "reading.jsonl", "--out", out]) == 0
    run = [str(folder / "recipe.toml"), *where, "--out", str(folder / "run"), "--device", "cpu", "--dtype", "float32"]
    assert task_train.main(run) == 0
    write_rows(folder / "passages.jsonl.gz", [{"title": "Wells", "context": WELL}])
    return folder


def test_a_merged_lora_is_the_same_as_one_beside_the_base(taught: Path, tiny_model_path: Path) -> None:
    recipe = load_task_recipe(taught / "recipe.toml")
    base, merged = TorchBase(tiny_model_path), TorchBase(tiny_model_path)
    merge_lora(merged, taught / "run", recipe)
    bank = LoraBank(recipe.hypernetwork)
    bank.load_state_dict(read_run(taught / "run")["hypernetwork"])
    ids = torch.tensor([[5, 9, 33, 7]])
    with torch.no_grad():
        adapter = block_adapter(bank(), recipe.hypernetwork.scaling, torch.float32)
        want, _ = base.run(base.embed(ids), 0, 2, lora=adapter)
        plain, _ = base.run(base.embed(ids), 0, 2)
        got, _ = merged.run(merged.embed(ids), 0, 2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, plain, rtol=1e-4, atol=1e-5)


def test_the_file_is_a_reading_set_of_questions_that_agree(
    taught: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = taught / "own.jsonl.gz"
    command = [str(taught / "recipe.toml"), str(taught / "run"), "--base", str(tiny_model_path), "--data", str(taught)]

    def replies(self: object, requests: list[str], max_tokens: int, group: int) -> list[str]:
        if max_tokens == own_questions.MOST_ASKED:
            return [f"Who is in {i}?\nAda" if i else "no question" for i, _ in enumerate(requests)]
        return ["ada." if "in 1?" in request else "Eve" for request in requests]

    assert own_questions.main([*command, "--device", "cpu", "--out", str(out)]) == 0  # a tiny model asks nothing
    assert list(read_rows(out)) == []
    monkeypatch.setattr(own_questions.Asker, "_replies", replies)
    assert own_questions.main([*command, "--device", "cpu", "--out", str(out)]) == 0
    (one,) = read_reading(out, load_tokenizer(tiny_model_path), 400)
    assert one.text == WELL and one.pairs == (Pair("Who is in 1?", "Ada"),)


def test_a_run_that_is_not_there_is_one_clear_line(
    taught: Path, tiny_model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(taught / "recipe.toml"), str(taught / "none"), "--base", str(tiny_model_path)]
    with pytest.raises(SystemExit) as stop:
        own_questions.main([*command, "--data", str(taught), "--device", "cpu", "--out", str(taught / "no.gz")])
    assert stop.value.code not in (0, None) and "error: " in capsys.readouterr().err
    assert not (taught / "no.gz").exists()
