"""What the tests of the task suites share: three tiny tasks, and an engine that does what it is told or shown to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from localhyper.engine import ChatMessage
from localhyper.evaluate.task_adapters import TaskMaker
from localhyper.evaluate.task_costs import AdapterSpent
from localhyper.sources.document import Document
from tests.fakes import FakeEngine, fake_info

WORDS = ("apple", "bread", "cloud", "dream", "earth", "flame", "grape", "house", "island", "jewel")
DOES: dict[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "backwards": lambda text: text[::-1],
    "twice": lambda text: f"{text} {text}",
}


def task_row(name: str, **more: object) -> dict[str, object]:
    """A row that says itself what is for training: the first six words are."""
    examples = [{"input": word, "output": DOES[name](word)} for word in WORDS]
    row = {"task": name, "descriptions": [f"Old: write it {name}"], "train": examples[:6], "test": examples[6:]}
    return {**row, "eval_descriptions": [f"New: write it {name}"], **more}


def write_rows(path: Path, *rows: object) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task_file(path: Path) -> Path:
    """The three tasks."""
    return write_rows(path, *(task_row(name) for name in DOES))


class ObedientEngine(FakeEngine):
    """Does what a description in its adapter or prompt says, else what all earlier turns did, else says something."""

    def __init__(self) -> None:
        super().__init__(self._obey, info=fake_info(context=4096), n_ctx=4096)
        self.conversations: list[list[ChatMessage]] = []

    def _obey(self, messages: Sequence[ChatMessage]) -> str:
        self.conversations.append(list(messages))
        given = messages[-1].content.rpartition("\n\n")[2]
        for told in (messages[0].content, *(use.path.read_text() for use in self.adapters)):
            for name, does in DOES.items():
                if name in told:
                    return does(given)
        for does in DOES.values():
            pairs = zip(messages[:-1:2], messages[1:-1:2], strict=True)
            if len(messages) > 1 and all(does(user.content) == reply.content for user, reply in pairs):
                return does(given)
        return "Something"


def text_maker() -> TaskMaker:
    """Adapters that are the text of their description; making one costs 3 and 1 GFLOP."""

    def make(document: Document, folder: Path) -> Path:
        path = folder / "adapter.gguf"
        path.write_text(document.text)
        return path

    return TaskMaker(make, lambda _, path, seconds: AdapterSpent(len(path.read_text()), 3e9, 1e9, seconds))
