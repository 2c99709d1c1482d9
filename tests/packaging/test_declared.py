"""What pyproject.toml says agrees with what lies in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from localhyper.checksums import file_sha256
from localhyper.registry import load_registry
from tests.conftest import REPOSITORY

ROOMS = {"localhyper": "localhyper", "localhyper.export": "export", "localhyper.tui": "tui"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def _names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
    return {match.group().lower().replace("_", "-").replace(".", "-") for match in found if match}


def _imported(folder: Path, skip: tuple[Path, ...] = ()) -> set[str]:
    """Top-level modules that the files of a room import, without following the two links."""
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        if any(file.is_relative_to(place) for place in skip):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"localhyper"}


def test_every_folder_with_an_init_is_a_listed_package(project: dict[str, Any]) -> None:
    """An unlisted one works in an editable install and is missing from the wheel."""
    found = set()
    for package, folder in ROOMS.items():
        for file in (REPOSITORY / folder).rglob("__init__.py"):
            inner = file.parent.relative_to(REPOSITORY / folder)
            if folder != "localhyper" or inner.parts[:1] not in (("export",), ("tui",)):
                found.add(".".join([package, *inner.parts]))
    assert sorted(found) == sorted(project["tool"]["setuptools"]["packages"])


def test_every_folder_with_code_has_an_init() -> None:
    for folder in ROOMS.values():
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_the_links_are_links() -> None:
    for room in ("export", "tui"):
        link = REPOSITORY / "localhyper" / room
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{room}"


def test_no_extra_asks_for_both_onnxruntimes(project: dict[str, Any]) -> None:
    base, extras = _names(project["project"]["dependencies"]), project["project"]["optional-dependencies"]
    assert base.isdisjoint({"onnxruntime", "onnxruntime-gpu", "torch"})
    assert _names(extras["cpu"]) == {"onnxruntime"}
    assert _names(extras["gpu"]) == {"onnxruntime-gpu"}
    for name in ("train", "dev"):
        assert _names(extras[name]).isdisjoint({"onnxruntime", "onnxruntime-gpu"})


@pytest.mark.torch
def test_every_import_is_declared(project: dict[str, Any]) -> None:
    """Run time needs no more than the base requirements and one onnxruntime; the rooms what their extras bring."""
    extras = project["project"]["optional-dependencies"]
    base = _names(project["project"]["dependencies"]) | _names(extras["cpu"])
    core = REPOSITORY / "localhyper"
    rooms = [
        (_imported(core, (core / "export", core / "tui")), base),
        (_imported(REPOSITORY / "tui"), base),
        (_imported(REPOSITORY / "export"), base | _names(extras["train"])),
        (_imported(REPOSITORY / "tests") - {"tests", "docs"}, base | _names(extras["train"]) | _names(extras["dev"])),
    ]
    owners = packages_distributions()
    for imported, declared in rooms:
        for module in sorted(imported):
            assert _names(owners.get(module, [f"nobody-owns-{module}"])) & declared, f"`{module}` is not declared"


def test_the_editable_install_sees_the_rooms(tmp_path: Path) -> None:
    code = "import localhyper.export, localhyper.tui; print(localhyper.export.__file__, localhyper.tui.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert [Path(path).resolve() for path in done.stdout.split()] == [
        REPOSITORY / "export" / "__init__.py",
        REPOSITORY / "tui" / "__init__.py",
    ]


def test_what_is_committed_names_no_folder_of_one_machine() -> None:
    for name in ("pyproject.toml", "setup.py", "Makefile", ".ci/run", "models.toml", "MANIFEST.in"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|work|Users|opt)/", text), name
        assert "index-url " not in text.replace("--index-url of PyTorch", ""), name


def test_shipped_bundles_are_the_ones_that_models_toml_describes() -> None:
    """Size and sha256 are the promise that a user's copy is whole; they change with the bundle."""
    registry = load_registry()
    shipped = [spec for spec in registry.hypernetworks.values() if spec.resource]
    assert shipped
    for spec in shipped:
        path = registry.locate(spec)
        assert path is not None and path.is_relative_to(REPOSITORY), spec.name
        assert (spec.size, spec.sha256) == (path.stat().st_size, file_sha256(path)), f"models.toml: {spec.name}"
        assert spec.size <= 32 * 1024 * 1024
