"""`python -m tests.benchmarks.serve`: what HTTP costs: the same replies from `localhyper serve` and from the engine.

A server in a process of its own and an engine in this one, in turns, so that a machine that slows down slows both.
Prints a table; asserts nothing, for times belong to the machine they are measured on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx

from localhyper.engine import ChatMessage, EngineConfig, Sampling
from localhyper.llama_engine import LlamaEngine
from localhyper.paths import get_paths
from localhyper.registry import load_registry
from tests.conftest import DEFAULT_BASE, REPOSITORY

ROUNDS = 8
TOKENS = 128
Measured = tuple[float, float]  # seconds to the first token; tokens a second after it


def main() -> None:
    """Measure and print."""
    model = load_registry(get_paths()).find_base(DEFAULT_BASE)
    with tempfile.TemporaryDirectory() as folder:
        (get_paths(Path(folder)).create().models_dir / model.name).symlink_to(model)
        process = subprocess.Popen(
            [sys.executable, "-m", "localhyper", "serve", "--port", "0"],
            env={**os.environ, "LOCALHYPER_HOME": folder},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            with LlamaEngine.load(model, EngineConfig()) as engine, httpx.Client(trust_env=False, timeout=120) as http:
                measure(lambda text: from_server(http, url, text), lambda text: from_engine(engine, text))
        finally:
            process.terminate()
            process.wait(10)


def measure(served: Callable[[str], Measured], direct: Callable[[str], Measured]) -> None:
    """Both in turns, each question twice: new, and with its prompt in the KV cache. The first round is thrown away."""
    new: list[tuple[Measured, Measured]] = []
    cached: list[tuple[Measured, Measured]] = []
    for number in range(ROUNDS + 1):
        text = f"{number} reasons to write a long story about a river, and the story:"
        for kind in (new, cached):
            pair = (served(text), direct(text))
            if number:
                kind.append(pair)
    print(f"medians of {ROUNDS}:             served    engine    served - engine")
    for name, pairs in (("prompt new", new), ("prompt in the cache", cached)):
        first = [[1000 * value[0] for value in pair] for pair in pairs]
        middle = [median(pair[side] for pair in first) for side in (0, 1)]
        gap = median(ours - theirs for ours, theirs in first)
        print(f"first token, {name:20} {middle[0]:6.1f} ms {middle[1]:6.1f} ms {gap:+6.1f} ms")
    speeds = [(ours[1], theirs[1]) for ours, theirs in new + cached]
    middle = [median(pair[side] for pair in speeds) for side in (0, 1)]
    ratio = median(ours / theirs for ours, theirs in speeds)
    print(f"tokens/s after it {'':15} {middle[0]:6.1f}    {middle[1]:6.1f}      {ratio:.3f} of it")


def from_server(http: httpx.Client, url: str, text: str) -> Measured:
    """As a client sees it: from the request to the first piece, and from there to the last."""
    options = {"max_tokens": TOKENS, "temperature": 0.8, "stream": True, "stream_options": {"include_usage": True}}
    data = {"model": "localhyper", "messages": [{"role": "user", "content": text}], **options}
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    with http.stream("POST", f"{url}/chat/completions", json=data) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            tokens = chunk["usage"]["completion_tokens"] if chunk["usage"] else tokens
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                last = time.perf_counter()
                first = first or last
    return first - begun, (tokens - 1) / (last - first)


def from_engine(engine: LlamaEngine, text: str) -> Measured:
    """The same reply, taken from the engine's own pieces with the same clock."""
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    for piece in engine.generate([ChatMessage("user", text)], Sampling(temperature=0.8, max_tokens=TOKENS)):
        if piece.text:
            last = time.perf_counter()
            first = first or last
        tokens = piece.stats.generated_tokens if piece.stats else tokens
    return first - begun, (tokens - 1) / (last - first)


if __name__ == "__main__":
    main()
