"""A task alone is asked without the system message of the base's template, by the real template and library."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.config import load_config
from localhyper.engine import AdapterUse, ChatMessage
from localhyper.jobs import JobRequest
from localhyper.paths import Paths
from localhyper.task_pipeline import task_document
from localhyper.workbench import Workbench

pytestmark = pytest.mark.native
OWN = "You are a helpful AI assistant named SmolLM"


def test_tasks_do_without_it_and_what_else_acts_has_it(default_model_path: Path, paths: Paths) -> None:
    text = "The keeper of the mill is Ada Holm. The password of the mill is jungle. It has two floors and a cellar."
    asked = ChatMessage("user", "What is the capital of France?")
    with Workbench(paths.create(), load_config(paths.config_file), base=str(default_model_path)) as bench:
        document = AdapterUse(
            bench.attach(bench.read(JobRequest(text=text)), bench.options("mill")).result.adapter.path
        )
        task = AdapterUse(bench.attach_task(task_document("Reply in JSON."), bench.options("json")).result.adapter.path)
        engine = bench.engine()

        def prompt(*uses: AdapterUse, question: str = asked.content, told: str = "") -> str:
            choice = bench.choose([question], uses, engine)
            before = [ChatMessage("system", told)] if told else []
            return engine.render(choice.prompt([*before, ChatMessage("user", question)]))

        assert prompt(task) == "<|im_start|>system\n<|im_end|>\n" + engine.render([asked]).partition("<|im_end|>\n")[2]
        assert "Be brief." in prompt(task, told="Be brief.")
        about = "What is the password of the mill?"
        for uses in ((), (document,), (document, task), (AdapterUse(task.path, 0.0),)):
            assert OWN in prompt(*uses, question=about), uses
        # Not about the document: it is left out, and the task acts alone.
        assert OWN not in prompt(document, task)
        assert OWN not in prompt(task, AdapterUse(document.path, 0.0))
