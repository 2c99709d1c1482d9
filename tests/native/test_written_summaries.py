"""Summaries by people: what prompts put round texts, who is asked about, and the file that training reads."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is in the [train] extra")

from localhyper.export.data_files import read_about, write_rows
from localhyper.export.data_sets import ABSTRACTS, PROMPTED, TASK_FILES
from localhyper.export.own_summaries import PASSAGE
from localhyper.export.tokenizer import load_tokenizer
from localhyper.export.written_summaries import Written, asked, borne_out, main, sound_pairs, tidy, unprompted

pytestmark = [pytest.mark.native, pytest.mark.torch]

TALK = "Ines: Are the barrels dear?\nJuan: They are, this spring.\nInes: Then I buy none.\nRosa: Good."
SUMMARY = "Ines will buy no barrels this spring. Juan says that barrels are dear this spring."


def test_what_all_prompts_of_a_template_share_is_no_part_of_a_text() -> None:
    texts = ["Ana: hello", "Bo: good day", "Cy: hi there", "Di: welcome", "Ed: morning"]
    prompts = [f"Sum up the following:\n{text}\nIn short:" for text in texts]
    assert unprompted([*prompts, prompts[0]]) == [*texts, texts[0]]
    assert unprompted(prompts[:3]) == ["", "", ""]  # too few to tell


def test_stray_signs_of_tokenizing_are_taken_out() -> None:
    assert tidy("Article: The mill , old as it is , turns .\r\nIt does .<|endoftext|>") == (
        "The mill, old as it is, turns.\nIt does."
    )


def test_a_general_question_has_the_whole_summary_and_one_about_a_speaker_his_part() -> None:
    pairs = [pair for seed in range(30) for pair in asked(random.Random(seed), Written(TALK, SUMMARY), TALK, 2)]
    answers = {question.question: answer for question, answer in pairs}
    assert {question.passage for question, _ in pairs} == {TALK}
    assert all(answers[one] == SUMMARY.split(". ")[0] + "." for one in answers if "Ines" in one)
    assert all(answers[one] == SUMMARY.split(". ")[1] for one in answers if "Juan" in one)
    assert any("Ines" in one for one in answers) and any("conversation" in one for one in answers)
    assert not any("Rosa" in one or "{" in one for one in answers)  # no sentence names Rosa


def test_a_question_of_its_own_is_the_only_one_and_prose_has_no_speakers() -> None:
    own = Written("The mill turns.", "It does turn.", "Does the mill turn?")
    assert [(q.question, a) for q, a in asked(random.Random(0), own, own.text, 3)] == [(own.question, own.summary)]
    prose = Written("The mill turns. Note: it is old.", "An old mill turns.")
    questions = [q.question for seed in range(30) for q, _ in asked(random.Random(seed), prose, prose.text, 2)]
    assert len(questions) == 60 and not any("conversation" in one or "Note" in one for one in questions)


def test_summaries_that_the_passage_does_not_bear_out_are_left_out(tiny_model_path: Path) -> None:
    assert borne_out(TALK, SUMMARY) and not borne_out(TALK, "Gigantic telescopes photograph distant nebulae.")
    assert not borne_out(TALK, "A or b.")
    tokenizer, long = load_tokenizer(tiny_model_path), "word " * 600 + "At last the telescopes photograph nebulae."
    found = [
        Written(TALK, SUMMARY),
        Written(TALK, "The same talk again: barrels, spring."),
        Written(long, "Telescopes."),
    ]
    pairs = sound_pairs(tokenizer, found, 1, random.Random(0))
    assert {question.passage for question, _ in pairs} == {TALK}
    (cut,) = sound_pairs(tokenizer, [Written(long, "Just a word.")], 1, random.Random(0))
    assert len(tokenizer.encode(cut[0].passage).ids) <= PASSAGE + 4


def test_the_file_is_a_reading_set_of_the_three_kinds_of_summaries(tiny_model_path: Path, tmp_path: Path) -> None:
    talks = [{"input": f"Sum up: {name} the miller {name}", "output": f"The miller {name}."} for name in "ABCDE"]
    backwards = [{"input": f"Write: {name} mills.", "output": f"{name}: Hello."} for name in "ABCDE"]
    notes = [{"input": f"{name} barrels {name}", "output": f"Barrels {name}."} for name in "VWXYZ"]
    abstract = {"context": "Barrels were weighed.", "qas": [{"question": "Heavy?", "long_answer": "Weighed barrels."}]}
    for folder in ("t0", "sni", "reading"):
        (tmp_path / folder).mkdir()
    write_rows(
        tmp_path / PROMPTED,
        [
            {"dataset": "samsum", "template": "Sum_up", "instances": talks},
            {"dataset": "samsum", "template": "Write_a_dialogue_that", "instances": backwards},
            {"dataset": "imdb", "template": "Sum_up", "instances": talks},
        ],
    )
    write_rows(
        tmp_path / TASK_FILES[0], [{"task": "lol_1572", "instances": notes}, {"task": "lol_9", "instances": talks}]
    )
    write_rows(tmp_path / TASK_FILES[1], [])
    write_rows(tmp_path / ABSTRACTS, [abstract])
    out = tmp_path / "written.jsonl.gz"
    assert main(["--base", str(tiny_model_path), "--data", str(tmp_path), "--each", "1", "--out", str(out)]) == 0
    found = {example.text: example.pairs for example in read_about(out)}
    assert set(found) == {
        *(f"{n} the miller {n}" for n in "ABCDE"),
        *(f"{n} barrels {n}" for n in "VWXYZ"),
        "Barrels were weighed.",
    }
    assert found["Barrels were weighed."][0].question == "Heavy?" and len(found["V barrels V"]) == 1


def test_a_missing_file_is_one_clear_line(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--base", str(tiny_model_path), "--data", str(tmp_path), "--out", str(tmp_path / "own.gz")])
    assert stop.value.code and "is missing" in capsys.readouterr().err
