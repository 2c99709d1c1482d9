"""Task texts taken apart and put together again, and what a person or a stranger may write in their place."""

from __future__ import annotations

import pytest

from localhyper.errors import SourceError
from localhyper.task_examples import MOST_EXAMPLES, TaskExample, described, read_task_text
from localhyper.task_pipeline import task_document, with_examples

PAIRS = (TaskExample("pear fig", "fig pear"), TaskExample("b\n\na", "a\nb"))


@pytest.mark.parametrize("description", ["Sort the words.", "Sort.\n\nMind the case: input: is a word.", ""])
def test_what_is_put_together_comes_apart_again(description: str) -> None:
    task = read_task_text(described(description, PAIRS))
    assert (task.description, task.examples) == (description, PAIRS)


@pytest.mark.parametrize("text", ["Input: a", "x\nOutput: b", "a\n\nInput: b\nOutput: c", "Output:\nInput:"])
def test_lines_of_an_example_that_look_like_labels_stay_in_it(text: str) -> None:
    pairs = (TaskExample(text, "yes"), TaskExample("no", text))
    found = read_task_text(described("Judge.", pairs)).examples
    assert [(one.input, one.output) for one in found] == [
        (text.replace("\nI", "\n I").replace("\nO", "\n O").lstrip(), "yes"),
        ("no", text.replace("\nI", "\n I").replace("\nO", "\n O").lstrip()),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Sort the words.",
        "Input: a list. Output: the same, sorted.",
        "Output: as JSON.\nInput: any",
        "  Input: indented\n  Output: too",
        "Say what the Input: and the Output: are",
    ],
)
def test_a_description_without_examples_is_all_description(text: str) -> None:
    assert read_task_text(text) == read_task_text(text.strip()) and not read_task_text(text).examples


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Sort.\n\nInput: a\nOutput: b\n\nInput: c", "example 2 of the task has no output"),
        ("Input: a\nOutput:\n\nInput: b\nOutput: c", "example 1 of the task has no output"),
        ("Input:\nOutput: b", "example 1 of the task has no input"),
        ("Input: a\nOutput: b\n" * (MOST_EXAMPLES + 1), "1,001 examples, at most 1,000"),
    ],
)
def test_half_an_example_and_too_many_are_refused_before_anything_is_loaded(text: str, line: str) -> None:
    with pytest.raises(SourceError, match=line):
        task_document(text)


def test_the_title_is_the_description_or_the_first_example() -> None:
    assert task_document(described("Sort\nthe words.", PAIRS)).title == "Sort the words."
    assert task_document(described("", PAIRS)).title == "pear fig → fig pear"


def test_examples_are_added_behind_those_that_are_there() -> None:
    document = with_examples(task_document(described("Sort.", PAIRS[:1])), PAIRS[1:])
    assert read_task_text(document.text).examples == PAIRS and document.title == "Sort."
    assert document.sha256 != task_document(described("Sort.", PAIRS[:1])).sha256
