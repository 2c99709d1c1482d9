"""Real clients at a real server: a process of its own, the default base model, an adapter of a sample document."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient

from localhyper.chunk_chooser import ChunkChooser
from localhyper.database import Database
from localhyper.engine import AdapterUse, ChatMessage, EngineConfig, Sampling
from localhyper.library import Library
from localhyper.llama_engine import LlamaEngine
from localhyper.paths import get_paths
from tests.conftest import DEFAULT_BASE, REPOSITORY

pytestmark = [pytest.mark.native]

TOKEN = "a-token-for-tests"
QUESTION = "What is the code of the storage room?"
ANSWER = "7314"
MODELS = {"smollm2": None, "smollm2+note": 1.0, "smollm2+note@0.8": 0.8}
TOKENS = 24


@dataclass(frozen=True)
class Running:
    """A server."""

    url: str
    home: Path

    def client(self, **options: Any) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(**{"base_url": self.url, "api_key": TOKEN, "max_retries": 0, "timeout": 60.0, **options})

    def health(self) -> dict[str, Any]:
        """What /health says; no client in between."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/health", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def log(self) -> str:
        """The log file."""
        return get_paths(self.home).log_file.read_text()


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LOCALHYPER_HOME": str(home), "LOCALHYPER_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def server(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("served")
    (get_paths(home).create().models_dir / default_model_path.name).symlink_to(default_model_path)
    command = [sys.executable, "-m", "localhyper"]
    sample = REPOSITORY / "localhyper" / "samples" / "harbour-note.txt"
    subprocess.run(
        [*command, "attach", str(sample), "--name", "note"], env=environment(home), cwd=REPOSITORY, check=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    process = subprocess.Popen(
        [*command, "serve", "--port", "0", "--with", "note"], env=environment(home), cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith(f"serving {DEFAULT_BASE}+note at http://127.0.0.1:"), line
        yield Running(line.split()[-1], home)
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def expected(server: Running, default_model_path: Path) -> dict[str, str]:
    """Greedy replies of the engine itself by the chunk that the question is about, each from an empty cache."""
    paths = get_paths(server.home)
    library = Library(Database(paths.library_db), paths.adapters_dir)
    document, replies = library.get("note").path, {}
    for model, scale in MODELS.items():
        with LlamaEngine.load(default_model_path, EngineConfig()) as engine:
            uses = [] if scale is None else [AdapterUse(document, scale)]
            engine.set_adapters(ChunkChooser(lambda: library)([QUESTION], uses, engine).uses)
            pieces = engine.generate([ChatMessage("user", QUESTION)], Sampling(max_tokens=TOKENS))
            replies[model] = "".join(piece.text for piece in pieces)
    assert [ANSWER in text for text in replies.values()] == [False, True, True]
    return replies


def question(text: str = QUESTION) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("model", MODELS)
def test_the_official_client_gets_the_engines_own_reply(server: Running, expected: dict[str, str], model: str) -> None:
    with server.client() as client:
        reply = client.chat.completions.create(model=model, messages=question(), max_tokens=TOKENS, temperature=0)
        assert reply.choices[0].message.content == expected[model]
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        again = client.chat.completions.create(model=model, messages=question(), max_tokens=TOKENS)
        assert again.choices[0].message.content == expected[model]
        assert again.usage is not None and again.usage.prompt_tokens_details is not None
        assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


@pytest.mark.parametrize("model", MODELS)
def test_the_official_client_streams_the_engines_own_reply(
    server: Running, expected: dict[str, str], model: str
) -> None:
    with server.client() as client:
        chunks = list(
            client.chat.completions.create(
                model=model, messages=question(), max_tokens=TOKENS, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected[model]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] != []
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_the_official_clients_stream_helper_understands_every_event(server: Running, expected: dict[str, str]) -> None:
    with server.client() as client:
        asked = client.chat.completions.stream(model="smollm2+note", messages=question(), max_tokens=TOKENS)
        with asked as stream:
            assert stream.get_final_completion().choices[0].message.content == expected["smollm2+note"]


def test_the_official_client_lists_models(server: Running) -> None:
    with server.client() as client:
        ids = [model.id for model in client.models.list()]
        assert ids == ["localhyper", DEFAULT_BASE, f"{DEFAULT_BASE}+note"]
        for name in ids[1:]:
            assert client.models.retrieve(name).id == name
        assert client.models.retrieve("smollm2+note@0.8").id == f"{DEFAULT_BASE}+note@0.8"


def test_the_official_client_knows_our_errors_by_its_own_classes(server: Running) -> None:
    with server.client() as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            create(model="smollm2+notes", messages=question())
        assert missing.value.code == "model_not_found"
        assert f"`{DEFAULT_BASE}+note`" in missing.value.message
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")
        with pytest.raises(openai.BadRequestError) as wrong:
            create(model="smollm2", messages=question(), logprobs=True)
        assert (wrong.value.code, wrong.value.param) == ("unsupported_parameter", "logprobs")
        with pytest.raises(openai.BadRequestError) as long:
            create(model="smollm2", messages=question("word " * 9000))
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError) as big:
            create(model="smollm2", messages=question("x" * 3_000_000))
        assert big.value.status_code == 413
    with server.client(api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="smollm2", messages=question())


def test_closing_the_official_clients_stream_stops_the_generation(server: Running) -> None:
    with server.client() as client:
        stream = client.chat.completions.create(
            model="smollm2", messages=question("Write a very long story about a river."), max_tokens=6000, stream=True,
            temperature=0.8, extra_body={"repeat_penalty": 1.2},
        )  # fmt: skip
        first = next(iter(stream))
        assert server.health()["running"] == 1
        stream.close()
        end = time.monotonic() + 5
        while server.health()["running"] and time.monotonic() < end:
            time.sleep(0.01)
        assert server.health()["running"] == 0
    line = next(line for line in server.log().splitlines() if f"chat {first.id} " in line)
    assert "outcome=gone" in line
    assert int(line.split("generated=")[1].split()[0]) < 200


def test_a_second_client_that_knows_nothing_of_the_first_gets_the_same(
    server: Running, expected: dict[str, str]
) -> None:
    client = InferenceClient(base_url=server.url, api_key=TOKEN, timeout=60)
    for model, text in expected.items():
        reply = client.chat_completion(question(), model=model, max_tokens=TOKENS)
        assert reply.choices[0].message.content == text
        chunks = client.chat_completion(question(), model=model, max_tokens=TOKENS, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text


def test_curl_gets_the_same(server: Running, expected: dict[str, str]) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on this machine")
    data = json.dumps({"model": "localhyper", "messages": question(), "max_tokens": TOKENS})
    words = ["-sS", "-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {TOKEN}", "-d", data]
    done = subprocess.run(
        [curl, "--noproxy", "*", *words, f"{server.url}/chat/completions"], capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == expected["smollm2+note"]


def test_an_adapter_attached_while_serving_can_be_used_at_once(server: Running) -> None:
    subprocess.run(
        [sys.executable, "-m", "localhyper", "attach", "--text", "The code of the gate is 4711.", "--name", "gate"],
        env=environment(server.home), cwd=REPOSITORY, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with server.client() as client:
        assert f"{DEFAULT_BASE}+gate" in [model.id for model in client.models.list()]
        both = client.chat.completions.create(
            model="smollm2+gate+note@0.5", messages=question("What is the code of the gate?"), max_tokens=TOKENS
        )
        assert both.model == f"{DEFAULT_BASE}+gate+note@0.5"
        subprocess.run(
            [sys.executable, "-m", "localhyper", "adapters", "remove", "gate"],
            env=environment(server.home), cwd=REPOSITORY, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="smollm2+gate", messages=question())


def test_nothing_that_was_said_is_in_the_log(server: Running, expected: dict[str, str]) -> None:
    log = server.log()
    assert "model=smollm2-135m-instruct+note@0.8" in log
    assert QUESTION not in log and TOKEN not in log
    assert all(text not in log for text in expected.values())
