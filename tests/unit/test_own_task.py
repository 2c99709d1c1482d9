"""A person's own examples as a task to measure: what is learnt, what is asked, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.errors import ConfigError, SourceError
from localhyper.evaluate.own_task import own_task

MAIL = "input,output\n" + "".join(f"{word} {n},{label}\n" for label, word in (("a", "x"), ("b", "y")) for n in range(6))


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    path = tmp_path / "mail.csv"
    path.write_text(MAIL + "z,rare\n", encoding="utf-8")
    return path


def test_nothing_that_is_asked_was_learnt_and_every_label_is(mail: Path) -> None:
    task = own_task(mail, "Sort it.", 6, 0)
    learnt, asked = ({one.input for one in part} for part in (task.train, task.test))
    assert (len(learnt), len(asked)) == (6, 7) and not learnt & asked
    assert sorted(one.outputs[0] for one in task.train) == ["a", "a", "a", "b", "b", "rare"] or sorted(
        one.outputs[0] for one in task.train
    ) == ["a", "a", "b", "b", "b", "rare"]
    assert task.name == "mail" and task.unseen_descriptions == ("Sort it.",)
    assert own_task(mail, "", 6, 0).unseen_descriptions == ()


def test_the_draw_is_the_seeds(mail: Path) -> None:
    assert own_task(mail, "", 4, 1) == own_task(mail, "", 4, 1)
    assert own_task(mail, "", 4, 1).train != own_task(mail, "", 4, 2).train


def test_an_input_that_comes_again_is_one_example_with_several_right_outputs(tmp_path: Path) -> None:
    path = tmp_path / "twice.tsv"
    path.write_text("Hi\tHello\nBye\tCiao\nHi\tHey\nHi\tHello\n", encoding="utf-8")
    task = own_task(path, "", 1, 0)
    outputs = {one.input: one.outputs for one in (*task.train, *task.test)}
    assert outputs == {"Hi": ("Hello", "Hey"), "Bye": ("Ciao",)}


def test_too_few_examples_and_examples_in_the_description_are_refused(mail: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="13 examples with different inputs, wanted at least 14") as error:
        own_task(mail, "", 13, 0)
    assert "--shots" in error.value.hint
    with pytest.raises(ConfigError, match="the description has examples"):
        own_task(mail, "Sort.\n\nInput: x\nOutput: a", 3, 0)
    with pytest.raises(SourceError, match="cannot be read"):
        own_task(tmp_path / "none.csv", "", 3, 0)
