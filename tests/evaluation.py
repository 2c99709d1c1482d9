"""What the tests of the evaluation suites share: an engine that knows exactly what its adapter or its prompt says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localhyper.bundle import BundleInfo
from localhyper.engine import CaptureSpec, ChatMessage, FloatArray
from localhyper.hypernet import Hypernetwork
from localhyper.sources.document import Document
from tests.fakes import FakeEngine, fake_info

COLOURS = ("red", "green", "blue", "pink", "grey", "white")


@dataclass
class NamedHypernetwork:
    """Only its description is asked for: adapters are made by `write_text`."""

    info: BundleInfo

    def generate(self, activations: object) -> object:
        raise AssertionError("adapters are scripted")

    bias = metrics = generate


def hypernetwork() -> Hypernetwork:
    """One that no test runs."""
    info = BundleInfo(
        path=Path("b.onnx"), sha256="5" * 64, name="scripted", kind="document", base_architecture="llama",
        base_block_count=4, base_hidden_size=16, base_fingerprint="f" * 64, capture=CaptureSpec((0,)),
        targets={"ffn_down": (0,)}, rank=1, chunk_tokens=256, prefix="", suffix="", licence="", card={},
    )  # fmt: skip
    return NamedHypernetwork(info)  # type: ignore[return-value]


class WellReadEngine(FakeEngine):
    """Quotes the text of its adapter or of its prompt; a token costs 1 nat unless the text holds the answer."""

    def __init__(self, n_ctx: int = 4096) -> None:
        super().__init__(self._quote, info=fake_info(context=n_ctx), n_ctx=n_ctx)
        self.scored: list[str] = []

    def _known(self, prompt: str) -> str:
        return "".join(use.path.read_text() for use in self.adapters) or prompt.partition("\n\n")[0]

    def _quote(self, messages: Sequence[ChatMessage]) -> str:
        known = self._known(messages[-1].content)
        return known.rpartition(" is ")[2].split(".")[0]

    def score(self, prompt: str | Sequence[ChatMessage], continuation: str) -> FloatArray:
        """As long as the answer's letters."""
        assert not isinstance(prompt, str), "data is scored as messages, or its control tokens would be parsed"
        self.scored.append(prompt[-1].content)
        each = -0.25 if continuation in self._known(prompt[-1].content) else -1.0
        return np.full(len(continuation), each, np.float32)


def write_text(document: Document, folder: Path) -> Path:
    """The scripted adapter of a document: its text."""
    path = folder / "adapter.gguf"
    path.write_text(document.text)
    return path


class NeedleReader(WellReadEngine):
    """Replies with everything it knows, so that the value is found exactly where it can be known."""

    def _quote(self, messages: Sequence[ChatMessage]) -> str:
        return self._known(messages[-1].content)


def write_houses(path: Path) -> Path:
    """A reading set of six passages with two questions each."""
    rows = [
        {
            "id": colour,
            "title": f"Houses {colour}",
            "context": f"House {number} is {colour}.",
            "qas": [{"question": f"Which colour has house {number}?", "answers": [colour, f"a {colour} one"]}] * 2,
        }
        for number, colour in enumerate(COLOURS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
