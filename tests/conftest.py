"""What every test may ask for: an own home, the default base model, the shared data, a machine without network."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from localhyper import fetch_hub
from localhyper.errors import LocalHyperError
from localhyper.paths import HOME_VARIABLE, Paths, get_paths
from localhyper.registry import load_registry
from tests.hub_server import HubServer

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_BASE = "smollm2-135m-instruct"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell; the tests send it themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
_REAL_PATHS = get_paths()  # of the person who runs the tests, before each test gets a home of its own


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LOCALHYPER_HOME for every test: none sees or touches the files of the person who runs them."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv(HOME_VARIABLE, str(folder))
    monkeypatch.delenv("LOCALHYPER_OFFLINE", raising=False)
    return folder


@pytest.fixture(autouse=True)
def _same_logging_after() -> Iterator[None]:
    """A test that sends the log to a file must not take the next test's log lines away."""
    logger = logging.getLogger("localhyper")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def paths(home: Path) -> Paths:
    """The paths in force in this test."""
    return get_paths(home)


@pytest.fixture
def one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are read each for itself, so that a run can be stopped between any two of a short document."""
    monkeypatch.setattr("localhyper.attach_steps.TOGETHER", 1)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The file of the default base model, which `make test` fetches."""
    try:
        return load_registry(_REAL_PATHS).find_base(DEFAULT_BASE)
    except LocalHyperError as error:
        reason = f"{error.message}; {error.hint}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def home_with_model(home: Path, default_model_path: Path) -> Path:
    """This test's home, with the default base model in it: for programs run as subprocesses."""
    models = get_paths(home).create().models_dir
    (models / default_model_path.name).symlink_to(default_model_path)
    return home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets: `data` in `$LOCALHYPER_SHARED`, or in shared/ beside the repository."""
    folder = Path(os.environ.get("LOCALHYPER_SHARED") or REPOSITORY.parent / "shared") / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside the repository; LOCALHYPER_SHARED can name the folder of `data`")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine that is asked in place of the real one; nobody waits between two tries."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch_hub, "PATIENCE", replace(fetch_hub.PATIENCE, pause=0.0))
    with HubServer().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every connection and name look-up of this process fails the test, even where the error is swallowed."""
    tried: list[str] = []

    def refuse(*arguments: object, **_options: object) -> NoReturn:
        tried.append(repr(arguments[-1])[:100])
        raise AssertionError(f"the network was used: {tried[-1]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    yield
    assert not tried, f"the network was used: {tried}"
