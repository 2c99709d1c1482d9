"""`localhyper attach`: output, reuse, several sources, stdin, Ctrl+C and going on, no network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from localhyper.gguf_adapter import read_adapter
from tests.cli.conftest import ROOT, Shell

NO_NETWORK = """
import socket
def refuse(*arguments, **more):
    raise RuntimeError("network used")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


def test_a_document_becomes_an_adapter_and_the_second_time_costs_nothing(shell: Shell, lease: Path) -> None:
    first = shell.attach(lease)
    assert first.returncode == 0, first.stderr
    name, path = first.stdout.splitlines()
    assert name.startswith("lease  ")
    assert "16 chunks, rank 232, 100.0% of the energy kept" in name  # below the rank budget: nothing is lost
    assert Path(path).is_file()
    assert "chunk" in first.stderr
    again = shell.attach(lease)
    assert again.stdout.splitlines() == ["lease  attached before, nothing to do", path]
    listed = json.loads(shell.run("adapters", "list", "--json").stdout)
    assert [row["name"] for row in listed] == ["lease"]


def test_json_goes_to_stdout_alone(shell: Shell, lease: Path) -> None:
    done = shell.attach(lease, "--name", "mine", "--rank", "4", "--json")
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["rank"], row["reused"], row["kind"]) == ("mine", 4, False, "txt")
    assert set(row["timings"]) == {"read", "load", "chunk", "encode", "generate", "merge", "chunk_adapters", "write"}
    assert 0 < row["energy_kept"] <= 1
    weights, metadata = read_adapter(Path(row["path"]))
    assert weights.rank == 4
    assert metadata.source_sha256 == row["document_sha256"]
    (again,) = json.loads(shell.attach(lease, "--rank", "4", "--json").stdout)
    assert (again["name"], again["reused"]) == ("mine", True)


def test_text_stdin_and_folders_are_sources(shell: Shell, lease: Path, tmp_path: Path) -> None:
    assert shell.attach("--text", "The gate code is 4711.").stdout.startswith("the-gate-code-is-4711")
    assert shell.attach("-", stdin="From a pipe: the key is under the mat.").stdout.startswith("stdin  ")
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "one.txt").write_text("One paper about herrings.")
    (folder / "two.md").write_text("# Two\n\nAnother about mackerel.")
    assert shell.attach(folder).stdout.startswith("papers  ")


def test_one_bad_source_does_not_stop_the_others(shell: Shell, lease: Path, tmp_path: Path) -> None:
    bad = tmp_path / "empty.txt"
    bad.write_bytes(b"")
    done = shell.attach(bad, lease)
    assert done.returncode == 3
    assert done.stdout.startswith("lease  ")
    assert "left out: " in done.stderr
    assert "error: 1 of 2 sources could not be attached" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "error: give either SOURCE or --text"),
        (["x.txt", "--text", "y"], 2, "error: give either SOURCE or --text"),
        (["a.txt", "b.txt", "--name", "n"], 2, "error: --name goes with one SOURCE"),
        (["none.txt"], 3, "none.txt: no such file"),
        (["--rank", "x", "y.txt"], 2, "error: Invalid value"),
        (["--rank", "-1", "y.txt"], 2, "error: Invalid value"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(shell: Shell, arguments: list[str], code: int, message: str) -> None:
    done = shell.attach(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert message in done.stderr
    assert "\n\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_models_are_refused_with_their_own_codes(shell: Shell, lease: Path, tmp_path: Path) -> None:
    done = shell.run("attach", lease, "--base", tmp_path / "no.gguf", "--hypernet", shell.bundle)
    assert done.returncode == 4
    done = shell.run("attach", lease, "--base", shell.base, "--hypernet", tmp_path / "no.onnx")
    assert done.returncode == 5
    taken = shell.attach(lease, "--name", "../evil")
    assert taken.returncode == 8
    assert "cannot be an adapter's name" in taken.stderr


def long_document(folder: Path, facts: int = 700) -> Path:
    """Over a thousand chunks of the tiny model: a quick machine, too, is far from the end when it is stopped."""
    path = folder / "long.txt"
    path.write_text("".join(f"Fact {number}: the box {number * 7919 % 9973} is red.\n" for number in range(facts)))
    return path


def start_and_stop(shell: Shell, document: Path, number: int) -> tuple[int, str]:
    """Start an attach, send a signal when chunks are being done, and return exit code and stderr."""
    run = subprocess.Popen(
        shell.command("attach", document, *shell.models()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shell.environment,
        cwd=ROOT,
    )
    assert run.stderr is not None
    seen: list[str] = []
    for line in run.stderr:
        seen.append(line)
        if " chunk " in line and " chunk 1 of" not in line:
            os.kill(run.pid, number)
            break
    out, rest = run.communicate(timeout=60)
    assert out == ""
    return run.returncode, "".join(seen) + rest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_attach_goes_on_from_its_finished_chunks(shell: Shell, tmp_path: Path, number: int) -> None:
    document = long_document(tmp_path)
    code, err = start_and_stop(shell, document, number)
    assert code == 130, err
    assert "stopped\n\nhint: run the same command again" in err
    assert "Traceback" not in err
    assert json.loads(shell.run("adapters", "list", "--json").stdout) == []
    (row,) = json.loads(shell.attach(document, "--json").stdout)
    assert 0 < row["resumed_chunks"] < row["chunks"]
    assert list((shell.home / "cache" / "chunks").iterdir()) == []


@pytest.mark.slow
def test_a_killed_attach_goes_on_too(shell: Shell, tmp_path: Path) -> None:
    document = long_document(tmp_path)
    run = subprocess.Popen(
        shell.command("attach", document, *shell.models()), stderr=subprocess.DEVNULL, env=shell.environment, cwd=ROOT
    )
    folder = shell.home / "cache" / "chunks"
    until = time.monotonic() + 60
    while not list(folder.glob("*.npz")) and time.monotonic() < until:
        time.sleep(0.05)
    assert run.poll() is None, "the attach was over before it could be killed"
    run.kill()
    run.wait()
    (row,) = json.loads(shell.attach(document, "--json").stdout)
    assert row["resumed_chunks"] > 0


def test_attach_and_ask_use_no_network(shell: Shell, lease: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {**shell.environment, "PYTHONPATH": str(tmp_path / "site")}
    check = subprocess.run(
        [*shell.command()[:1], "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "network used" in check.stderr
    done = shell.spawn("attach", lease, *shell.models(), environment=environment)
    assert done.returncode == 0, done.stderr
    asked = shell.spawn(
        "ask", "What?", "--with", "lease", "--base", shell.base, "--max-tokens", "4", environment=environment
    )
    assert asked.returncode == 0, asked.stderr
