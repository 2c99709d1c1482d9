"""The tasks made by program: their schema, that they are the same each time, their answers, and what is never made."""

from __future__ import annotations

import gzip
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localhyper.export.made_dates import clock
from localhyper.export.made_describe import wordings
from localhyper.export.made_numbers import ordinal, roman
from localhyper.export.made_tasks import FAMILIES, SUBJECTS, main, make_tasks
from localhyper.export.task_data import instance_pairs

SINGLE = re.compile(r"[A-Za-z]+")
PAIR = re.compile(r"(\d+) (\d+)")


@pytest.fixture(scope="module")
def tasks() -> list[dict[str, Any]]:
    return make_tasks(0, 25)


def answer(family: str, item: Any, index: int = 0) -> Any:
    return FAMILIES[family].tasks[index].work(item)


def test_a_seed_says_it_all(tasks: list[dict[str, Any]]) -> None:
    assert make_tasks(0, 25) == tasks
    assert make_tasks(1, 25) != tasks


def test_there_are_many_tasks_and_families(tasks: list[dict[str, Any]]) -> None:
    assert len(tasks) >= 450
    assert len({task["name"] for task in tasks}) == len(tasks)
    assert len(FAMILIES) >= 60
    assert wordings().keys() == FAMILIES.keys()


def test_no_two_families_and_no_two_sources_share_a_name() -> None:
    assert sum(len(subject.FAMILIES) for subject in SUBJECTS) == len(FAMILIES)
    sources = {id(family.source): family.source.name for family in FAMILIES.values()}
    assert len(set(sources.values())) == len(sources)


def test_rows_are_in_the_schema_of_tasks(tasks: list[dict[str, Any]]) -> None:
    for task in tasks:
        assert (task["split"], task["category"], task["task"]) == ("train", "Made", task["name"])
        pairs = instance_pairs(task)
        assert len(pairs) >= 20 and len({given for given, _ in pairs}) == len(pairs)
        assert all(given.strip() and wanted.strip() and len(wanted.split()) <= 30 for given, wanted in pairs)
        assert len({wanted for _, wanted in pairs}) > 1, task["name"]


def test_descriptions_are_many_and_those_kept_are_in_no_other_list(tasks: list[dict[str, Any]]) -> None:
    told = {text for task in tasks for text in (*task["descriptions"], task["definition"])}
    for task in tasks:
        texts = task["descriptions"]
        assert 8 <= len(texts) == len(set(texts)) <= 16
        assert task["definition"] not in texts
        assert len(task["eval_descriptions"]) == 2 and not told & set(task["eval_descriptions"])
        assert not any("{" in text or "}" in text for text in (*texts, *task["eval_descriptions"]))


def test_every_family_has_phrasings_enough() -> None:
    seen: set[str] = set()
    for wording in wordings().values():
        assert len(wording.phrasings) >= 5 and len(wording.kept) == 2
        assert not seen & set(wording.kept)
        seen |= set(wording.kept)


def test_the_same_input_stands_in_tasks_that_answer_differently(tasks: list[dict[str, Any]]) -> None:
    answers: dict[str, set[str]] = {}
    for task in tasks:
        for given, wanted in instance_pairs(task):
            answers.setdefault(given, set()).add(wanted)
    shared = [
        task
        for task in tasks
        if sum(len(answers[given]) > 1 for given, _ in instance_pairs(task)) * 2 > len(task["instances"])
    ]
    assert len(shared) * 4 > len(tasks)


def of_pair(work: Callable[[int, int], int]) -> Callable[[str], str | None]:
    def wanted(given: str) -> str | None:
        found = PAIR.fullmatch(given)
        return str(work(int(found[1]), int(found[2]))) if found else None

    return wanted


EXCLUDED: dict[str, Callable[[str], str | None]] = {
    "sum": of_pair(lambda a, b: a + b),
    "diff": of_pair(lambda a, b: a - b),
    "first_word_letter": lambda given: given[0] if SINGLE.fullmatch(given) else None,
    "second_word_letter": lambda given: given[1:2] if SINGLE.fullmatch(given) else None,
    "letters_list": lambda given: " ".join(given) if SINGLE.fullmatch(given) else None,
    "singular_to_plural": lambda given: given + "s" if SINGLE.fullmatch(given) else None,
    "negation": lambda given: given.replace(" is ", " is not ") if " is " in given else None,
}


def test_no_task_does_what_training_is_measured_by(tasks: list[dict[str, Any]]) -> None:
    for task in tasks:
        pairs = [(given, wanted.strip(string.punctuation).lower()) for given, wanted in instance_pairs(task)]
        for name, work in EXCLUDED.items():
            same = sum((work(given) or "?").lower() == wanted for given, wanted in pairs)
            assert same * 3 < len(pairs), (task["name"], name)


def test_no_task_asks_for_what_training_is_measured_by(tasks: list[dict[str, Any]]) -> None:
    asked = re.compile(
        "antonym|synonym|opposite of|plural|negat|positive|number in words|sum of|difference"
        "|(start|begin)s? with the letter"
        "|the (first|second) letter (of|in) the|same meaning|(bigger|larger) (of the )?(two )?animal"
    )
    for task in tasks:
        for text in (task["definition"], *task["descriptions"], *task["eval_descriptions"]):
            assert not asked.search(text), text


@pytest.mark.parametrize(
    ("family", "index", "item", "wanted"),
    [
        ("sort_words", 0, ("pear", "apple", "fig"), ["apple", "fig", "pear"]),
        ("sort_words", 3, ("fig", "apple", "pear"), ["apple", "pear", "fig"]),
        ("join_words", 1, ("a", "b"), "a/b"),
        ("unique", 0, ("a", "b", "a"), ("a", "b")),
        ("pick_length", 0, ("pear", "fig", "kiwi"), None),
        ("number_words", 3, ("a", "b"), "#1 a, #2 b"),
        ("vowels_to", 1, "window", "w*nd*w"),
        ("naming_style", 2, "red old car", "redOldCar"),
        ("initials", 1, "red car", "R.C."),
        ("sentence_word", 1, "Anna sold the boat.", "boat"),
        ("date_form", 0, (3, 5, 2021), "2021-05-03"),
        ("date_part", 4, (3, 12, 2021), "winter"),
        ("price", 0, 1250, "$12.50"),
        ("hours", 0, 85, "1 h 25 min"),
        ("country", 0, "Japan", "Tokyo"),
        ("translate", 1, "water", "Wasser"),
        ("comparison", 1, "good", "best"),
        ("review", 0, ("", False), "bad"),
        ("to_24", 0, 13 * 60 + 5, "13:05"),
    ],
)
def test_a_family_answers(family: str, index: int, item: Any, wanted: Any) -> None:
    assert answer(family, item, index) == wanted


def test_what_happens_is_told_in_every_form() -> None:
    told = {"who": "My uncle", "inside": "my uncle", "thing": "door", "place": "after lunch"}
    item = told | {"base": "open", "past": "opened", "participle": "opened", "third": "opens", "ing": "opening"}
    assert answer("passive", item) == "The door was opened by my uncle after lunch."
    assert answer("to_question", item) == "Did my uncle open the door after lunch?"
    assert answer("order", item) == "Could you please open the door after lunch?"
    assert answer("from_past", item) == "My uncle opens the door after lunch."


def test_numbers_and_times_are_written_as_people_do() -> None:
    assert [ordinal(number) for number in (1, 12, 22, 103, 111)] == ["1st", "12th", "22nd", "103rd", "111th"]
    assert [roman(number) for number in (4, 19, 294)] == ["IV", "XIX", "CCXCIV"]
    assert [clock(minutes, 12) for minutes in (0, 725, 1439)] == ["12:00 am", "12:05 pm", "11:59 pm"]


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    out = tmp_path / "made.jsonl.gz"
    assert main(["--out", str(out), "--instances", "2"]) == 0
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == make_tasks(0, 2)


def test_no_instances_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "made.jsonl.gz"), "--instances", "0"])
    assert capsys.readouterr().err.startswith("error: a task needs at least one instance")
