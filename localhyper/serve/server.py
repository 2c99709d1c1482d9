"""Opens the socket, runs uvicorn over the application, and stops within two seconds of a signal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from localhyper.config import Config
from localhyper.engine import Engine, EngineConfig, Sampling
from localhyper.errors import ConfigError
from localhyper.paths import Paths
from localhyper.serve.access import check_origins, make_access, read_token
from localhyper.serve.app import Api, build_app
from localhyper.serve.catalogue import Catalogue
from localhyper.serve.connection import Connection
from localhyper.serve.engine_thread import EngineThread
from localhyper.serve.model_names import default_choice
from localhyper.workbench import Workbench

MAX_CONNECTIONS = 512
STOP_SECONDS = 1.5
INTERRUPTED = 130

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """What the command line says.

    Attributes:
        base: Base model; empty = as set.
        with_adapters: `NAME[@SCALE]` that go with it.
        host: Name or address to listen at.
        port: 0 = any free one.
        token_file: Holds the token; None = the environment may.
        no_token: Spelled out that none is wanted.
        origins: Web pages that may call.
        hosts: More names to answer to.
    """

    base: str = ""
    with_adapters: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8093
    token_file: Path | None = None
    no_token: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def run(paths: Paths, config: Config, options: ServeOptions, ready: Callable[[str, str], None]) -> int:
    """Serve until a signal comes.

    Args:
        paths: Where things lie.
        config: Settings.
        options: What the command line says.
        ready: Called with the name of the model and the URL once requests are answered.

    Returns:
        The exit code: 130 after Ctrl+C, 0 after SIGTERM.

    Raises:
        LocalHyperError: Whatever keeps the server from starting.
    """
    token = read_token(options.token_file, options.no_token)
    check_origins(options.origins)
    family, address = resolve_host(options.host)
    access = make_access(
        options.host,
        address,
        token=token,
        no_token=options.no_token,
        origins=options.origins,
        names=options.hosts,
    )
    catalogue = Catalogue(paths, config, options.base, options.with_adapters)
    catalogue.check_default()
    with contextlib.closing(bind(family, address, options)) as listener:
        first = default_choice(catalogue.snapshot())
        bench = Workbench(paths, config)
        engine = EngineThread(_opener(config), choosing=lambda cancel: bench.choosing(cancel=cancel))
        engine.start(first).result()
        _log_to_our_file()
        app = build_app(Api(catalogue, engine, Sampling(**dataclasses.asdict(config.sampling))), access)
        port = listener.getsockname()[1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        return asyncio.run(_serve(app, listener, engine, lambda: ready(first.id, f"http://{shown}:{port}/v1")))


def _opener(config: Config) -> Callable[[Path], Engine]:
    def open_engine(path: Path) -> Engine:
        from localhyper.llama_engine import LlamaEngine

        return LlamaEngine.load(path, EngineConfig(**dataclasses.asdict(config.engine)))

    return open_engine


def resolve_host(host: str) -> tuple[socket.AddressFamily, str]:
    """The address that a host stands for.

    Raises:
        ConfigError: None.
    """
    if host.lower() == "localhost":
        return socket.AF_INET, "127.0.0.1"
    try:
        if not host:
            raise socket.gaierror(socket.EAI_NONAME, "it is empty")
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"`--host {host[:80]}` is no address of this machine: {reason}", "try 127.0.0.1") from error
    return found[0], str(found[4][0])


def bind(family: socket.AddressFamily, address: str, options: ServeOptions) -> socket.socket:
    """A socket that listens, so that no other server can take the address while the model is being loaded.

    Raises:
        ConfigError: Taken, not allowed, or not this machine's.
    """
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, options.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        message, hint = {
            errno.EADDRINUSE: (f"port {options.port} is in use", "choose another with --port; 0 takes any free one"),
            errno.EACCES: (f"port {options.port} is for the system's own services", "choose one above 1023"),
            errno.EADDRNOTAVAIL: (f"`{options.host}` is not an address of this machine", "try 127.0.0.1"),
        }.get(error.errno or 0, (f"cannot listen at {address}:{options.port}: {error.strerror or error}", ""))
        raise ConfigError(message, hint) from error
    return listener


def _log_to_our_file() -> None:
    """What uvicorn and asyncio have to say goes where the rest does, and nothing to the terminal."""
    handlers = logging.getLogger("localhyper").handlers
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, False
        logger.setLevel(logging.WARNING)


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # a header must not make one client look like another
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which ends the process by the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(list(sockets or []))
        self.on_ready()

    def on_ready(self) -> None:
        """Replaced by whoever waits."""


async def _serve(app: ASGIApp, listener: socket.socket, engine: EngineThread, ready: Callable[[], None]) -> int:
    server = _Server(uvicorn_config(app))
    server.on_ready = ready  # type: ignore[method-assign]
    codes: list[int] = []
    stopped = asyncio.Event()

    def stop(code: int) -> None:
        codes.append(code)
        server.should_exit = True
        server.force_exit = len(codes) > 1
        stopped.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop, INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    closing = asyncio.create_task(_close_engine(engine, stopped))
    try:
        await server.serve([listener])
    finally:
        stopped.set()
        freed = await closing
    if not freed:
        _leave_at_once(codes[0] if codes else 0)
    return codes[0] if codes else 0


async def _close_engine(engine: EngineThread, stopped: asyncio.Event) -> bool:
    """Once the server stops: end every reply, so that connections can end, and free the model."""
    await stopped.wait()
    return await asyncio.to_thread(engine.close, STOP_SECONDS)


def _leave_at_once(code: int) -> None:
    """A thread inside a native call (a model being loaded) must not run on while the interpreter is taken down."""
    logging.shutdown()
    os._exit(code)
