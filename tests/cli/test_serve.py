"""`localhyper serve` as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localhyper.paths import get_paths
from tests.cli.conftest import ROOT, Shell


@contextlib.contextmanager
def running(shell: Shell, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server and its port."""
    process = subprocess.Popen(
        shell.command("serve", "--base", shell.base, "--port", "0", *arguments),
        env=shell.environment | environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving tiny at http://"), line + process.stderr.read()
        yield process, int(line.rpartition(":")[2].partition("/")[0])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def get(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_replies_and_the_server(shell: Shell, number: signal.Signals, code: int) -> None:
    with running(shell) as (process, port):
        data = {"model": "tiny", "stream": True, "max_tokens": 400, "messages": [{"role": "user", "content": "x"}]}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", json.dumps(data), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200
            process.send_signal(number)
            answer.read()  # ends, one way or the other
        assert process.wait(10) == code
        assert process.stderr is not None and process.stderr.read() == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def test_an_idle_connection_does_not_hold_the_server_up(shell: Shell) -> None:
    with running(shell) as (process, port), socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        time.sleep(0.1)
        process.terminate()
        assert process.wait(10) == 0


def test_the_token_comes_from_the_file_and_is_not_in_the_log(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret-token\n")
    with running(shell, "--token-file", str(file)) as (_, port):
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", Authorization="Bearer s3cret-token")[0] == 200
        assert get(port, "/health")[0] == 200
    assert "s3cret" not in get_paths(shell.home).log_file.read_text()


def test_the_token_comes_from_the_environment(shell: Shell) -> None:
    with running(shell, LOCALHYPER_TOKEN="s3cret") as (_, port):
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", Authorization="Bearer s3cret")[0] == 200


def test_what_others_can_reach_runs_with_a_token(shell: Shell) -> None:
    with running(shell, "--host", "0.0.0.0", "--allow-host", "box.lan", LOCALHYPER_TOKEN="s3cret") as (_, port):
        right = {"Authorization": "Bearer s3cret"}
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", **right)[0] == 200
        assert get(port, "/v1/models", Host="box.lan", **right)[0] == 200
        assert get(port, "/v1/models", Host="evil.example", **right)[0] == 403


def test_only_loopback_is_listened_at_unless_asked(shell: Shell) -> None:
    with running(shell) as (_, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
            own = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but loopback")
        if own.startswith("127."):
            pytest.skip("this machine has no address but loopback")
        with pytest.raises(OSError):
            socket.create_connection((own, port), timeout=2)


def test_a_port_in_use_is_one_clear_line(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = shell.run("serve", "--base", shell.base, "--port", port)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: port {port} is in use"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "`0.0.0.0` can be reached from other machines, and there is no token"),
        (("--host", "::"), "there is no token"),
        (("--host", "192.0.2.1", "--no-token"), "is not an address of this machine"),
        (("--host", "no such host"), "is no address of this machine"),
        (("--host", ""), "is no address of this machine"),
        (("--host", "x" * 300), "is no address of this machine"),
        (("--token-file", "/nonexistent"), "token file `/nonexistent` cannot be read"),
        (("--allow-origin", "*"), "is no origin of a web page"),
        (("--allow-host", "http://x"), "is no host name"),
        (("--port", "65536"), "`--port`"),
        (("--with", "nothing"), "there is no adapter named `nothing`"),
        (("--with", "x@y"), "is not `NAME` or `NAME@SCALE`"),
        (("--base", "nothing"), "no base model is named `nothing`"),
        (("--base", "pyproject.toml"), "pyproject.toml"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    base = () if "--base" in arguments else ("--base", str(shell.base))
    done = shell.run("serve", *base, "--port", "0", *arguments)
    assert done.returncode not in (0, 70)
    assert done.stderr.startswith("error: ") and words in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_there_is_no_option_that_shows_the_token_to_other_users(shell: Shell) -> None:
    done = shell.run("serve", "--token", "x")
    assert done.returncode == 2 and "--token" in done.stderr


def test_an_adapter_that_does_not_fit_keeps_it_from_starting(shell: Shell, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    done = shell.run("serve", "--base", shell.base, "--port", "0", "--with", str(damaged))
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
