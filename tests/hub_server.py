"""A Hugging Face hub on this machine: real sockets, the hub's paths and headers, and misbehaviour for each request.

Large files answer with a redirect to a storage on another host (`localhost` in place of 127.0.0.1), as the hub's do;
small ones (`.json`, `.yaml`) come from the hub itself.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = (".json", ".yaml")
BLOCK = 1 << 16


@dataclass
class Turn:
    """How one request is answered; the default is: rightly.

    Attributes:
        status: HTTP status in place of the usual one.
        headers: More headers, or others; an empty value takes one away.
        cut: Bytes of the body after which the connection is closed.
        change: What becomes of the body before it is sent.
        ignore_range: Whether the whole file is sent whatever range was asked for.
        shift: How many bytes after the asked one the answer begins.
        chunked: Whether no length is told.
        packed: Whether the body is sent gzipped.
        endless: Whether the body never ends.
        hold: Waited for after `hold_at` bytes of the body; `held` is set meanwhile.
        crumbs: Seconds between two bytes of a body that comes byte by byte; 0 = it comes in blocks.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    change: Callable[[bytes], bytes] = bytes
    ignore_range: bool = False
    shift: int = 0
    chunked: bool = False
    packed: bool = False
    endless: bool = False
    hold: threading.Event | None = None
    hold_at: int = 0
    held: threading.Event = field(default_factory=threading.Event)
    crumbs: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    host: str
    path: str
    headers: dict[str, str]


class HubServer:
    """The hub and its storage; `heads`, `gets` and `bodies` say how the next requests are answered, then rightly.

    `heads` are questions about files, `gets` requests for files at the hub, `bodies` requests at the storage (and for
    small files the bodies that the hub itself sends).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}  # said in place of the true ones
        self.heads: list[Turn] = []
        self.gets: list[Turn] = []
        self.bodies: list[Turn] = []
        self.seen: list[Seen] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}/storage"

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        """Serve in a thread."""
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def etag(self, name: str) -> str:
        """The version of a file: sha256 of large ones, git's id of small ones."""
        content = self.files[name]
        if name in self.etags:
            return self.etags[name]
        if name.endswith(SMALL):
            return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return hashlib.sha256(content).hexdigest()

    @property
    def ranges(self) -> list[str]:
        """What was asked of the storage, one entry a request; empty = from the first byte."""
        return [seen.headers.get("range", "") for seen in self.seen if seen.path.startswith("/storage/")]


def _next(turns: list[Turn]) -> Turn:
    return turns.pop(0) if turns else Turn()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._note()
            name = self._name()
            turn = _next(hub.heads) if name is not None else Turn(404)
            self._from_hub(name, turn, head=True)

        def do_GET(self) -> None:
            self._note()
            if self.path.startswith("/storage/"):
                self._body(unquote(self.path.removeprefix("/storage/").partition("?")[0]), _next(hub.bodies))
            elif (name := self._name()) is None:
                self._send(404, {})
            else:
                self._from_hub(name, _next(hub.gets), head=False)

        def _note(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            hub.seen.append(Seen(self.command, headers.get("host", ""), self.path, headers))

        def _name(self) -> str | None:
            """`/owner/repo/resolve/revision/name` → name."""
            parts = self.path.split("/", 5)
            return unquote(parts[5]) if len(parts) == 6 and parts[3] == "resolve" else None

        def _from_hub(self, name: str | None, turn: Turn, *, head: bool) -> None:
            if turn.status >= 300 or name not in hub.files:
                error = {} if turn.status else {"X-Error-Code": "EntryNotFound"}
                self._send(turn.status or 404, error | turn.headers)
                return
            about = {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.etag(name)}"'}
            if name.endswith(SMALL):
                if head:
                    self._send(200, about | {"Content-Length": str(len(hub.files[name]))} | turn.headers, length=False)
                else:
                    self._body(name, _next(hub.bodies), about)
                return
            linked = {"X-Linked-ETag": f'"{hub.etag(name)}"', "X-Linked-Size": str(len(hub.files[name]))}
            where = {"Location": f"{hub.storage}/{name}?signature=secret", "ETag": '"of-the-link"'}
            self._send(302, about | where | linked | turn.headers)

        def _send(self, status: int, headers: dict[str, str], *, length: bool = True) -> None:
            self.send_response(status)
            for key, value in (({"Content-Length": "0"} if length else {}) | headers).items():
                if value:
                    self.send_header(key, value)
            self.end_headers()

        def _body(self, name: str, turn: Turn, about: dict[str, str] | None = None) -> None:
            whole = hub.files.get(name, b"")
            asked = self.headers.get("Range", "")
            start = 0 if turn.ignore_range or not asked else int(asked.removeprefix("bytes=").rstrip("-"))
            if turn.status >= 300 or start > len(whole) or (asked and start == len(whole)):
                out_of = {"Content-Range": f"bytes */{len(whole)}"} if not turn.status else {}
                self._send(turn.status or 416, out_of | turn.headers)
                return
            begin = start + turn.shift
            body = turn.change(whole[begin:])
            headers = {"ETag": '"of-the-storage"'} | (about or {})
            if start:
                headers["Content-Range"] = f"bytes {begin}-{len(whole) - 1}/{len(whole)}"
            if turn.packed:
                body = gzip.compress(body)
                headers["Content-Encoding"] = "gzip"
            headers["Transfer-Encoding" if turn.chunked or turn.endless else "Content-Length"] = (
                "chunked" if turn.chunked or turn.endless else str(len(body))
            )
            self._send(206 if start else 200, headers | turn.headers, length=False)
            with suppress(ConnectionError):
                if turn.hold is not None:
                    self._block(body[: turn.hold_at], chunked=turn.chunked)
                    body = body[turn.hold_at :]
                    turn.held.set()
                    turn.hold.wait(30)
                self._write(body, turn)

        def _write(self, body: bytes, turn: Turn) -> None:
            if turn.crumbs:
                for at in range(len(body)):
                    self._block(body[at : at + 1], chunked=turn.chunked)
                    time.sleep(turn.crumbs)
            if turn.endless:
                while True:
                    self._block(bytes(BLOCK), chunked=True)
            sent = body if turn.cut is None else body[: turn.cut]
            for at in range(0, len(sent), BLOCK):
                self._block(sent[at : at + BLOCK], chunked=turn.chunked)
            if turn.cut is not None:
                self.close_connection = True
            elif turn.chunked:
                self.wfile.write(b"0\r\n\r\n")

        def _block(self, block: bytes, *, chunked: bool) -> None:
            if block:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
