"""The other commands, and what all commands share: exit codes, broken pipes, bugs, damaged settings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from localhyper import __version__
from localhyper.paths import get_paths
from localhyper.registry import load_registry
from tests.cli.conftest import ROOT, Shell
from tests.hub_server import HubServer
from tests.tiny_onnx import TinyBundle, write


def test_version_and_help_touch_no_disk(shell: Shell) -> None:
    assert shell.spawn("--version").stdout == f"localhyper {__version__}\n"
    assert shell.spawn("nonsense").returncode == 2
    top = shell.run("--help")
    assert top.returncode == 0
    for command in (
        "attach",
        "ask",
        "chat",
        "adapters",
        "models",
        "hypernet",
        "eval",
        "paths",
        "doctor",
        "config",
        "tui",
        "demo",
    ):
        assert f"\n  {command} " in top.stdout
        assert shell.run(command, "--help").returncode == 0
    assert "Exit codes: 0 done; 2 wrong" in top.stdout
    assert not (shell.home / "data").exists()


def test_paths_and_settings(shell: Shell) -> None:
    listing = json.loads(shell.run("paths", "--json").stdout)
    assert listing["library"].startswith(str(shell.home))
    assert listing["log"] in shell.run("paths").stdout
    settings = json.loads(shell.run("config", "show", "--json").stdout)
    assert settings["adapter.rank_budget"] == 256
    config = Path(listing["config"])
    config.write_text("[adapter]\nrank_budget = 8\n")
    assert "adapter.rank_budget" in shell.run("config", "show").stdout
    assert json.loads(shell.run("config", "show", "--json").stdout)["adapter.rank_budget"] == 8
    config.write_text("[adapter]\nrank_bugdet = 8\n")
    done = shell.run("config", "show")
    assert done.returncode == 2
    assert "rank_bugdet" in done.stderr
    assert "did you mean" in done.stderr


def test_adapters_are_shown_renamed_exported_removed_and_restored(shell: Shell, lease: Path, tmp_path: Path) -> None:
    assert "no adapters yet" in shell.run("adapters", "list").stderr
    path = Path(shell.attach(lease).stdout.splitlines()[1])
    assert shell.run("adapters", "rename", "lease", "flat").stdout == "flat\n"
    shown = shell.run("adapters", "show", "fl").stdout
    assert str(path) in shown
    assert "tiny-llama" in shown
    assert "The rent is 812" in shell.run("adapters", "show", "flat", "--text").stdout
    assert shell.run("adapters", "export", "flat", tmp_path).stdout == f"{tmp_path / 'flat.gguf'}\n"
    assert (tmp_path / "flat.gguf").read_bytes() == path.read_bytes()
    assert shell.run("adapters", "export", "flat", tmp_path).returncode == 8
    assert shell.run("adapters", "remove", "flat").stdout == "flat\n"
    assert not path.exists()
    assert shell.run("adapters", "show", "flat").returncode == 8
    assert "flat" in shell.run("adapters", "list", "--removed").stdout
    assert shell.run("adapters", "restore", "flat").stdout == "flat\n"
    assert path.exists()
    assert "1 deleted for good" in shell.run("adapters", "remove", "flat", "--purge").stderr


def test_an_adapter_is_exported_as_a_peft_folder(shell: Shell, lease: Path, tmp_path: Path) -> None:
    shell.attach(lease)
    folder = tmp_path / "lease-peft"
    done = shell.run("adapters", "export", "lease", tmp_path, "--format", "peft")
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == ["down_proj"]
    again = shell.run("adapters", "export", "lease", folder, "--format", "peft")
    assert again.returncode == 8
    assert "exists already" in again.stderr and "--force" in again.stderr
    assert shell.run("adapters", "export", "lease", folder, "--format", "peft", "--force").stdout == f"{folder}\n"
    wrong = shell.run("adapters", "export", "lease", tmp_path, "--format", "onnx")
    assert wrong.returncode == 2
    assert "say `gguf` or `peft`" in wrong.stderr
    path = Path(json.loads(shell.run("adapters", "show", "lease", "--json").stdout)["path"])
    path.write_bytes(path.read_bytes()[:-100])
    damaged = shell.run("adapters", "export", "lease", tmp_path / "new", "--format", "peft")
    assert damaged.returncode == 6
    assert len(damaged.stderr.strip().splitlines()) == 3, "the error, a blank line, the hint"


def test_models_are_listed_and_checked(shell: Shell, tmp_path: Path) -> None:
    listed = json.loads(shell.run("models", "list", "--json").stdout)
    assert {"smollm2-135m-instruct", "smollm2-135m-document"} <= {row["name"] for row in listed}
    folder = shell.home / "data" / "hypernetworks"
    (folder / "broken.onnx").write_bytes(b"nothing")
    about = {"chunk_bundle": {"file": "other.onnx", "sha256": "0" * 64}}
    write(folder / "lonely.onnx", TinyBundle(metadata=about))
    done = shell.run("models", "check", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert not rows["broken"]["ok"]
    assert "not a readable ONNX file" in rows["broken"]["problem"]
    assert "needs `other.onnx` beside it" in rows["lonely"]["problem"]
    assert done.returncode == 5
    assert shell.run("models", "check", "no-such-model").returncode == 2


def test_own_models_are_added_used_and_removed(shell: Shell, lease: Path) -> None:
    assert shell.run("models", "add", shell.base, "--name", "own", "--copy").stdout == "own\n"
    assert shell.run("models", "add", shell.bundle, "--name", "own-document").stdout == "own-document\n"
    rows = {row["name"]: row for row in json.loads(shell.run("models", "list", "--json").stdout)}
    assert rows["own-document"]["base"] == "own" and rows["own-document"]["path"] == str(shell.bundle)
    assert shell.run("attach", lease, "--base", "own").returncode == 0
    asked = shell.run("models", "remove", "own-document")
    assert asked.returncode == 2 and "say --yes" in asked.stderr
    removed = shell.run("models", "remove", "own-document", "--yes")
    assert removed.returncode == 0 and removed.stdout == ""
    assert f"`{shell.bundle}` was left where it is" in removed.stderr
    removed = shell.run("models", "remove", "own", "-y")
    assert removed.stdout == f"{shell.home / 'data' / 'models' / 'own.gguf'}\n"
    assert shell.base.exists() and shell.bundle.exists()
    wrong = shell.run("models", "add", lease)
    assert wrong.returncode == 5 and len(wrong.stderr.strip().splitlines()) == 3


def test_pulling_a_published_hypernetwork_says_what_comes_next(shell: Shell, hub: HubServer) -> None:
    files = load_registry().folders["text-to-lora-gemma-2-2b"].files
    hub.files |= {file: b"x" * 1000 for file in files}
    done = shell.run("models", "pull", "text-to-lora-gemma-2-2b")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == shell.home / "data" / "models" / "text-to-lora-gemma-2-2b"
    assert "localhyper hypernet import text-to-lora-gemma-2-2b --base gemma-2-2b-it" in done.stderr
    checked = json.loads(shell.run("models", "check", "--json").stdout)
    assert {row["name"]: (row["kind"], row["ok"]) for row in checked}["text-to-lora-gemma-2-2b"] == ("published", True)


def test_doctor_says_what_there_is(shell: Shell) -> None:
    done = shell.run("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"python", "cores", "memory", "llama.cpp", "onnxruntime"} <= set(checks)
    assert all(check["hint"] for check in checks.values() if check["status"] == "fail")


def test_a_damaged_library_is_one_line(shell: Shell) -> None:
    (shell.home / "data").mkdir(parents=True)
    (shell.home / "data" / "library.sqlite3").write_bytes(b"no database" * 100)
    done = shell.spawn("adapters", "list")
    assert done.returncode == 8
    assert "damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_pipe_is_quiet(shell: Shell) -> None:
    command = " ".join(f"'{part}'" for part in shell.command("config", "show"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | true"],
        capture_output=True,
        text=True,
        env=shell.environment,
        cwd=ROOT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_bug_is_one_line_and_a_traceback_in_the_log(shell: Shell) -> None:
    code = (
        "import sys, localhyper.paths as paths\n"
        "def broken(self): raise ZeroDivisionError('oops')\n"
        "paths.Paths.listing = broken\n"
        "from localhyper.cli import main\n"
        "sys.exit(main(['paths']))"
    )
    done = subprocess.run(
        [shell.command()[0], "-c", code], capture_output=True, text=True, env=shell.environment, cwd=ROOT, check=False
    )
    assert done.returncode == 70
    assert done.stderr.startswith("error: unexpected ZeroDivisionError: oops\n\nhint: this is a bug; `")
    assert "Traceback" not in done.stderr
    log = (shell.home / "state" / "localhyper.log").read_text()
    assert "Traceback" in log
    assert "ZeroDivisionError: oops" in log


def test_output_that_the_terminal_cannot_show_is_replaced(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Grüße aus Zürich. 契約は三ヶ月です。", encoding="utf-8")
    shell.attach(path)
    environment = {**shell.environment, "PYTHONIOENCODING": "ascii"}
    done = shell.spawn("adapters", "show", "notes", "--text", environment=environment)
    assert done.returncode == 0
    assert "Gr??e aus Z?rich" in done.stdout


@pytest.mark.native
@pytest.mark.slow
def test_the_demo_runs_on_the_default_models(shell: Shell, default_model_path: Path) -> None:
    (get_paths(shell.home).create().models_dir / default_model_path.name).symlink_to(default_model_path)
    done = shell.spawn("demo")
    assert done.returncode == 0, done.stderr
    for words in ("base model", "hypernetwork", "file", "Q  What is the code of the storage room?", "7314"):
        assert words in done.stdout
    assert done.stdout.count("with adapter ") >= 7
    assert shell.run("demo", "--sample", "none").returncode == 2
