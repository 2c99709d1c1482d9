"""Grading of replies to benchmarks: the number that a worked solution ends with, and programs with their tests.

Knows no files and no model; programs run in `code_runner`.
"""

from __future__ import annotations

import ast
import re
import warnings
from decimal import Decimal, InvalidOperation

from localhyper.evaluate.code_runner import run_program
from localhyper.evaluate.json_lines import Row
from localhyper.evaluate.task_items import Scores

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")
_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.S)


def final_number(reply: str) -> str:
    """The number after the last `####`, else the last number of the reply; empty where there is none.

    Without thousands separators and currency, as lm-evaluation-harness's `flexible-extract` takes it.
    """
    marked = reply.rpartition("####")[2] if "####" in reply else ""
    found = _NUMBER.findall(marked)[:1] or _NUMBER.findall(reply)[-1:]
    return found[0].replace(",", "").replace("$", "") if found else ""


def grade_number(answer: str, reply: str) -> Scores:
    """Whether the final number has the answer's value: `18.00` is `18`."""
    got = final_number(reply)
    try:
        right = Decimal(got) == Decimal(answer.replace(",", ""))
    except InvalidOperation:
        right = False
    return Scores(accuracy=float(right), note="" if right else f"got {got or 'no number'}"[:80])


def worked_solution(solution: str) -> str:
    """GSM8K's solution as a reply: without the notes for a calculator; its last line is `#### NUMBER`."""
    return _CALCULATION.sub("", solution)


def code_of(reply: str) -> str:
    """The first fenced block of a reply, also one that was cut off; the whole reply where there is none."""
    found = _FENCE.search(reply)
    return found[1] if found else reply


def program_of(prompt: str, entry: str, reply: str) -> str:
    """What is run of a reply to the beginning of a function.

    Where the reply defines the function itself, what stands before it in the prompt (imports, helpers) is put before
    the reply; else the reply is taken as the function's body. An empty prompt stands for none. Lines at the end that
    keep the whole from being Python are left out: words after the code, or a line that was cut off.
    """
    code, before, head = code_of(reply), "", f"def {entry}"
    if prompt and re.search(rf"^{re.escape(head)}\b", code, re.M):
        before = f"{prompt.partition(head)[0]}\n"
    elif prompt:
        # The strip of a reply takes the first line's indent, and that alone.
        before = f"{prompt}\n" if code[:1].isspace() else f"{prompt}\n    "
    lines = code.splitlines(keepends=True)
    beginnings = (before + "".join(lines[:end]) for end in range(len(lines), 0, -1))
    return next(filter(_is_python, beginnings), before + code)


def _is_python(text: str) -> bool:
    """Whether a text can be parsed; nothing of it is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings, which a user has nothing to do with
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def mbpp_tests(row: Row) -> str:
    """The asserts of an MBPP row with what must run before them."""
    return "\n".join((row.optional_text("test_setup"), *row.texts("test")))


def grade_program(prompt: str, entry: str, tests: str, reply: str) -> Scores:
    """Whether the program of a reply passes its tests (pass@1)."""
    result = run_program(f"{program_of(prompt, entry, reply)}\n\n{tests}\n")
    return Scores(accuracy=float(result.passed), note="" if result.passed else result.reason)
