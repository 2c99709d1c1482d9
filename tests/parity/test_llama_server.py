"""An exported adapter in llama.cpp's own server, another build than ours: over HTTP, the tokens of our engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp has no wheel for this platform")

from localhyper.engine import AdapterUse, ChatMessage, EngineConfig, Sampling
from localhyper.gguf_adapter import check_adapter
from localhyper.llama_engine import LlamaEngine
from tests.cli.conftest import Shell
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.native, pytest.mark.parity, pytest.mark.slow]

TOKENS = 32
QUESTIONS = (
    "What is the code of the storage room?",
    "Who has the spare key?",
    "What is the capital of France?",
    "Write two sentences about rain.",
)


@dataclass(frozen=True)
class Stock:
    """A running server, and what it was started with."""

    url: str
    base: Path
    adapters: tuple[Path, ...]

    def ask(self, path: str, body: object = None) -> Any:
        """The JSON answer of a route."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def greedy(self, prompt: list[int], scales: tuple[float, ...]) -> list[int]:
        """Tokens after `prompt` with each adapter at its scale."""
        found: list[int] = self.ask(
            "/completion",
            {
                "prompt": prompt, "n_predict": TOKENS, "temperature": 0, "return_tokens": True, "cache_prompt": False,
                "lora": [{"id": place, "scale": scale} for place, scale in enumerate(scales)],
            },
        )["tokens"]  # fmt: skip
        return found


@pytest.fixture(scope="module")
def stock(default_model_path: Path, f32_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """The server with two adapters that `attach` made of the default base model and `adapters export` gave out.

    It runs the same model in float32: the two builds multiply quantized weights with other kernels, and where two
    tokens are nearly as likely, they choose differently.
    """
    folder = tmp_path_factory.mktemp("stock")
    shell = Shell(folder / "home", default_model_path, Path())
    adapters = []
    for name in ("harbour-note", "harbour-office"):
        source = REPOSITORY / "localhyper" / "samples" / f"{name}.txt"
        for command in (("attach", source, "--name", name), ("adapters", "export", name, folder)):
            done = shell.run(*command, "--base", default_model_path) if command[0] == "attach" else shell.run(*command)
            assert done.returncode == 0, done.stderr
        adapters.append(folder / f"{name}.gguf")
    shutil.rmtree(folder / "home")  # the exported files are all that is needed
    script = Path(__file__).with_name("stock_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(f32_model), *map(str, adapters)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), f"the server did not start: {process.poll()}"
        yield Stock(url, f32_model, tuple(adapters))
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture(scope="module")
def engine(stock: Stock) -> Iterator[LlamaEngine]:
    with LlamaEngine.load(stock.base, EngineConfig(n_ctx=2048, threads=2, threads_batch=2)) as made:
        for path in stock.adapters:
            check_adapter(path, made.info)
        yield made


def ours(engine: LlamaEngine, question: str, uses: list[AdapterUse]) -> tuple[str, list[int]]:
    engine.set_adapters(uses)
    pieces = list(engine.generate([ChatMessage("user", question)], Sampling(max_tokens=TOKENS)))
    return "".join(piece.text for piece in pieces), [token for piece in pieces for token in piece.token_ids]


@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.8)])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_server_gives_our_greedy_tokens(
    stock: Stock, engine: LlamaEngine, question: str, scales: tuple[float, float]
) -> None:
    uses = [AdapterUse(path, scale) for path, scale in zip(stock.adapters, scales, strict=True) if scale]
    _, want = ours(engine, question, uses)
    prompt = engine.tokenize(engine.render([ChatMessage("user", question)]), special=True).tolist()
    got = stock.greedy(prompt, scales)
    assert len(want) > 3 and got[: len(want)] == want


def test_its_chat_route_answers_from_the_document(stock: Stock, engine: LlamaEngine) -> None:
    body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "temperature": 0, "max_tokens": TOKENS}
    with_adapter = {**body, "lora": [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.0}]}
    text, _ = ours(engine, QUESTIONS[0], [AdapterUse(stock.adapters[0])])
    answer = stock.ask("/v1/chat/completions", with_adapter)["choices"][0]["message"]["content"]
    assert "7314" in answer and answer == text
    without = {**body, "lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]}
    assert "7314" not in stock.ask("/v1/chat/completions", without)["choices"][0]["message"]["content"]


def test_it_lists_the_adapters_and_sets_scales_for_all_requests(stock: Stock) -> None:
    listed = stock.ask("/lora-adapters")
    assert [entry["path"] for entry in listed] == [str(path) for path in stock.adapters]
    assert stock.ask("/lora-adapters", [{"id": 0, "scale": 0.25}, {"id": 1, "scale": 0.0}])["success"] is True
    assert [entry["scale"] for entry in stock.ask("/lora-adapters")] == [0.25, 0.0]
