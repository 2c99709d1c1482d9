"""Task files: what is read, which examples are for training and which for testing, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from localhyper.errors import ConfigError
from localhyper.evaluate.task_set import TRAINING_INSTANCES, Example, read_tasks, split_instances


def sni_row(task: str = "lol_1", count: int = 60, **more: object) -> dict[str, object]:
    instances = [{"input": f"in {number}", "output": f"out {number}"} for number in range(count)]
    return {"task": task, "descriptions": ["Do it."], "instances": instances, **more}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_first_instances_are_for_training_and_the_rest_for_testing(tmp_path: Path) -> None:
    (task,) = read_tasks(write(tmp_path / "t.jsonl", sni_row(category="Sums", eval_descriptions=["Kept back."])))
    assert (task.name, task.group) == ("lol_1", "Sums")
    assert [example.input for example in task.train] == [f"in {number}" for number in range(TRAINING_INSTANCES)]
    assert [example.input for example in task.test] == [f"in {number}" for number in range(50, 60)]
    assert task.unseen_descriptions == ("Kept back.",)
    assert split_instances(range(3)) == ((0, 1, 2), ())


def test_a_file_may_say_itself_what_is_for_training(tmp_path: Path) -> None:
    row = {
        "task": "antonyms",
        "descriptions": ["Say the opposite."],
        "train": [{"input": " hot ", "output": "cold", "outputs": ["cold", "icy"]}],
        "test": [{"input": "dry", "output": "wet"}],
    }
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    (task,) = read_tasks(path)
    assert task.train == (Example("hot", ("cold", "icy")),)
    assert task.test == (Example("dry", ("wet",)),)
    assert task.group == "antonyms" and task.unseen_descriptions == ("Say the opposite.",)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ([], "must be an object, got list"),
        ({**sni_row(), "descriptions": []}, "`descriptions` must be a list of at least 1 text"),
        ({**sni_row(), "descriptions": ["a", " "]}, r"`descriptions\[1\]`"),
        ({**sni_row(), "instances": []}, "`instances` must be a list"),
        ({**sni_row(), "instances": [3]}, r"`instances\[0\]` must be an object"),
        ({**sni_row(), "instances": [{"input": "a"}]}, r"`instances\[0\].output`"),
        ({**sni_row(), "instances": [{"input": "a", "output": "b", "outputs": 1}]}, r"`instances\[0\].outputs`"),
        ({"task": "a", "descriptions": ["b"], "train": [{"input": "a", "output": "b"}]}, "`test`"),
        ({**sni_row(), "task": 7}, "`task` must be text"),
        ({**sni_row(), "category": 7}, "`category` must be text"),
        (sni_row("first"), "task `first` is there twice"),
    ],
)
def test_lines_out_of_the_schema_are_refused_by_number(tmp_path: Path, row: object, named: str) -> None:
    path = write(tmp_path / "bad.jsonl", sni_row("first"), row)
    with pytest.raises(ConfigError, match=f"line 2: .*{named}"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\n", "no tasks"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"\x1f\x8b.", "damaged"),
        (None, "exist"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=named):
        read_tasks(path)
