"""Who may use the server: where it listens, the names it answers to, the token, and the web pages that may call it.

Everything here is decided before a socket is opened; `guard` enforces it on every request.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localhyper.errors import ConfigError

TOKEN_VARIABLE = "LOCALHYPER_TOKEN"
MAX_TOKEN = 4096
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,]+", re.I)
_HOST = re.compile(r"[\w.-]{1,253}|\[?[0-9a-f:.]{2,45}\]?", re.I)


@dataclass(frozen=True)
class Access:
    """The rules.

    Attributes:
        hosts: Names that a request's Host may hold, in lower case, without port and brackets.
        any_address: Whether any IP address will do, too: a name from somebody else's DNS is not one.
        token: What `Authorization: Bearer` must carry; empty = nothing.
        origins: Web pages that may call.
    """

    hosts: frozenset[str]
    any_address: bool = False
    token: str = ""
    origins: tuple[str, ...] = ()


def read_token(file: Path | None, no_token: bool) -> str:
    """The token from a file, else from the environment; empty = none.

    Raises:
        ConfigError: The file cannot be read, it holds no token, or `--no-token` contradicts.
    """
    where = f"`{file}`" if file else f"${TOKEN_VARIABLE}"
    text = _read(file) if file else os.environ.get(TOKEN_VARIABLE, "").strip()
    if no_token and text:
        raise ConfigError(f"`--no-token` is given, and {where} holds a token", "leave one of them out")
    if file and not text:
        raise ConfigError(f"{where} is empty, wanted a token", "`openssl rand -hex 32` makes one")
    if len(text) > MAX_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{where} is no token, wanted one word of up to {MAX_TOKEN} printable ASCII characters",
            "`openssl rand -hex 32` makes one",
        )
    return text


def _read(file: Path) -> str:
    try:
        with file.expanduser().open("rb") as opened:
            return opened.read(2 * MAX_TOKEN).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ConfigError(f"token file `{file}` cannot be read: {error.strerror or error}") from error


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Origins as browsers send them, `scheme://host[:port]`.

    Raises:
        ConfigError: Something else.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin.rstrip("/")):
            raise ConfigError(
                f"`{origin[:80]}` is no origin of a web page", "write `http://localhost:3000`, without a path"
            )
    return tuple(origin.rstrip("/").lower() for origin in origins)


def make_access(
    host: str, address: str, *, token: str, no_token: bool, origins: Sequence[str] = (), names: Sequence[str] = ()
) -> Access:
    """The rules for a server at `address`.

    Args:
        host: As the user wrote it.
        address: The IP address it stands for.
        token: Empty = none.
        no_token: The user spelled out that none is wanted.
        origins: Web pages that may call.
        names: More names to answer to.

    Raises:
        ConfigError: Others could reach the server, and there is no token.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    for name in names:
        if not _HOST.fullmatch(name):
            raise ConfigError(f"`{name[:80]}` is no host name", "write it as in an URL, without scheme and port")
    if not parsed.is_loopback and not token and not no_token:
        raise ConfigError(
            f"`{host}` can be reached from other machines, and there is no token",
            f"set {TOKEN_VARIABLE} or give --token-file; `--no-token` lets in whoever can connect",
        )
    hosts = {*_LOOPBACK_NAMES, host.lower(), address.lower(), *(name.lower().strip("[]") for name in names)}
    if parsed.is_unspecified:
        hosts.add(socket.gethostname().lower())
    return Access(frozenset(hosts), parsed.is_unspecified, token, check_origins(origins))


def host_name(header: str) -> str:
    """The name in a Host header, in lower case, without port and brackets; empty where it is malformed."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d{1,5})?", header.strip(), re.ASCII)
    return (found[1] or found[2]).lower() if found else ""


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
