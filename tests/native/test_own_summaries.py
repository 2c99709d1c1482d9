"""What the base model says of passages in its prompt: passages, questions, and the file that training reads."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.evaluate.choice_set import read_prompts
from localhyper.export import own_summaries
from localhyper.export.data_files import read_about
from localhyper.export.own_summaries import PASSAGE, Asked, main, passages, questions, sound_reply, topics
from localhyper.export.packaged import packaged_table
from localhyper.export.tokenizer import load_tokenizer
from tests.benchmarks.overviews import QUESTIONS as OVERVIEW_QUESTIONS

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.native, pytest.mark.torch]


def test_questions_are_all_different_and_none_of_the_tested_ones() -> None:
    table = packaged_table("about.toml")
    asked: list[str] = table["questions"]
    assert len(asked) == len(set(asked)) > 20 and all("{topic}" in form for form in table["on_topic"])
    assert not {question.lower() for question in asked} & {prompt.lower() for prompt in read_prompts(None)}


def test_questions_about_overviews_are_none_of_the_tested_ones() -> None:
    table = packaged_table("about.toml")
    asked = [question.lower() for question in (*table["subject"], *table["points"])]
    tested = (ROOT / "localhyper" / "evaluate" / "general.txt").read_text(encoding="utf-8").splitlines()
    assert len(asked) == len(set(asked)) > 20
    assert not set(asked) & {question.lower() for question in (*tested, *OVERVIEW_QUESTIONS)}


def test_some_questions_are_about_a_topic_of_the_passage() -> None:
    passage = "In spring the miller of Aldea Norte sold barrels; barrels were dear, said Ines."
    assert topics(passage) == ["Aldea Norte", "Ines", "barrels"]
    asked = [question for seed in range(40) for question in questions(random.Random(seed), passage, 3)]
    named = [question for question in asked if any(topic in question for topic in topics(passage))]
    assert 0.2 * len(asked) < len(named) < 0.6 * len(asked) and not any("{" in question for question in asked)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("The miller of Aldea sold barrels in spring. Then he", "The miller of Aldea sold barrels in spring."),
        ("The miller sold barrels in spring", ""),  # no whole sentence
        ("The miller sold barrels. The miller of Aldea sold barrels, the miller of Aldea sold barrels.", ""),
        ("Astronauts photograph distant nebulae through gigantic telescopes nightly.", ""),
        ("A miller.", ""),
    ],
)
def test_only_sound_replies_are_kept(reply: str, kept: str) -> None:
    asked = Asked("In spring the miller of Aldea sold barrels.", "What is it about?")
    assert sound_reply(asked, reply) == kept


def test_passages_are_different_ones_and_each_fits_a_chunk(tiny_model_path: Path, tmp_path: Path) -> None:
    rows = [{"context": f"Town {i} has {'many ' * 400 * (i % 2)}mills.", "qas": []} for i in range(4)]
    (tmp_path / "towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = load_tokenizer(tiny_model_path)
    found = list(passages(tokenizer, tmp_path, ["towns.jsonl"], 9, random.Random(0)))
    assert len(found) == len(set(found)) == 4
    assert max(len(tokenizer.encode(text).ids) for text in found) <= PASSAGE + 4


def test_the_file_is_a_reading_set_of_sound_replies(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "towns.jsonl").write_text(json.dumps({"context": "Town 1 has mills.", "qas": []}), encoding="utf-8")
    where = ["--base", str(tiny_model_path), "--data", str(tmp_path), "--sets", "towns.jsonl", "--each", "1"]
    # A tiny model says no sentence.
    monkeypatch.setattr(own_summaries, "sound_reply", lambda asked, reply: reply)
    assert main([*where, "--max-tokens", "6", "--out", str(tmp_path / "llama.gz")]) == 0
    assert main([*where, "--max-tokens", "6", "--device", "cpu", "--out", str(tmp_path / "torch.gz")]) == 0
    (one,) = read_about(tmp_path / "llama.gz")
    assert one.kind == "about" and one.text == "Town 1 has mills." and len(one.pairs) == 1
    assert [pair.question for pair in read_about(tmp_path / "torch.gz")[0].pairs] == [one.pairs[0].question]


def test_a_missing_file_is_one_clear_line(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--base", str(tiny_model_path), "--data", str(tmp_path), "--out", str(tmp_path / "own.gz")])
    assert stop.value.code not in (0, None)
    assert "is missing" in capsys.readouterr().err
    assert not (tmp_path / "own.gz").exists()
