"""Who may use the server, decided before a socket is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from localhyper.errors import ConfigError
from localhyper.serve.access import (
    MAX_TOKEN,
    TOKEN_VARIABLE,
    check_origins,
    host_name,
    make_access,
    read_token,
)


@pytest.fixture(autouse=True)
def _no_token_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_needs_no_token(address: str) -> None:
    assert make_access(address, address, token="", no_token=False).token == ""


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "10.0.0.1", "fe80::1", "8.8.8.8"])
def test_what_others_can_reach_needs_a_token_or_a_word(address: str) -> None:
    with pytest.raises(ConfigError, match="there is no token"):
        make_access(address, address, token="", no_token=False)
    assert make_access(address, address, token="x", no_token=False).token == "x"
    assert make_access(address, address, token="", no_token=True).token == ""


def test_the_address_counts_and_not_how_it_is_written() -> None:
    with pytest.raises(ConfigError, match=r"`localhost\.example`"):
        make_access("localhost.example", "93.184.216.34", token="", no_token=False)


def test_a_wildcard_answers_to_addresses_and_to_no_strangers_name() -> None:
    access = make_access("0.0.0.0", "0.0.0.0", token="x", no_token=False, names=["Box.lan"])
    assert access.any_address
    assert "box.lan" in access.hosts and "evil.example" not in access.hosts
    assert not make_access("127.0.0.1", "127.0.0.1", token="", no_token=False).any_address


def test_the_file_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(" from-file \n")
    monkeypatch.setenv(TOKEN_VARIABLE, "from-environment")
    assert read_token(file, False) == "from-file"
    assert read_token(None, False) == "from-environment"
    with pytest.raises(ConfigError, match="--no-token"):
        read_token(None, True)
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert read_token(None, True) == ""


@pytest.mark.parametrize("text", ["", " \n", "two words", "two\nlines", "ü", "\x1b[31m", "x" * (MAX_TOKEN + 1)])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_token(file, False)


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_token(path, False)


@pytest.mark.parametrize("origin", ["*", "localhost:3000", "http://", "http://a/path", "http://a b", "null", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError):
        check_origins([origin])


def test_origins_are_as_browsers_send_them() -> None:
    wanted = ["http://LOCALHOST:3000/", "app://obsidian.md", "http://[::1]:80"]
    assert check_origins(wanted) == ("http://localhost:3000", "app://obsidian.md", "http://[::1]:80")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Localhost", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8093", "::1"),
        ("[::1]", "::1"),
        ("::1", ""),
        ("a:b", ""),
        ("a@b", ""),
        ("localhost:80:80", ""),
        ("localhost/evil", ""),
        ("", ""),
    ],
)
def test_host_names_are_taken_out_of_the_header_or_refused(header: str, name: str) -> None:
    assert host_name(header) == name
