"""A hypernetwork for tasks that is shipped beside the one for documents: a file, an entry, and no option is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper import model_specs, registry
from localhyper.base_header import read_base_info
from localhyper.gguf_adapter import read_adapter
from localhyper.model_specs import package_folder, shipped_models_file
from tests.cli.conftest import Shell
from tests.conftest import DEFAULT_BASE
from tests.tiny_reader import RANK, widths, write_reader

pytestmark = pytest.mark.native
NAME = "default-task"
ENTRY = f"""
[hypernetwork.{NAME}]
description = "Tasks into adapters"
file = "{NAME}.onnx"
kind = "task"
base = "{DEFAULT_BASE}"
licence = "Apache-2.0"
size = %d
resource = "bundles/{NAME}.onnx"
"""


@pytest.fixture
def plain(shell: Shell, home_with_model: Path) -> Shell:
    """A shell over the default base model, with what is shipped."""
    return replace(shell, home=home_with_model)


@pytest.fixture
def shipped(plain: Shell, default_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The same, as if the package held a hypernetwork for tasks too."""
    info = read_base_info(default_model_path)
    package = tmp_path / "package"
    (package / "bundles").mkdir(parents=True)
    for file in (package_folder() / "bundles").iterdir():
        (package / "bundles" / file.name).symlink_to(file.resolve())
    bundle = write_reader(package / "bundles" / f"{NAME}.onnx", info, name=NAME)
    models = tmp_path / "models.toml"
    models.write_text(shipped_models_file().read_text() + ENTRY % bundle.stat().st_size)
    monkeypatch.setattr(model_specs, "shipped_models_file", lambda: models)
    monkeypatch.setattr(registry, "package_folder", lambda: package)
    return plain


def test_a_task_is_attached_and_used_without_an_option(shipped: Shell, default_model_path: Path) -> None:
    done = shipped.run("attach", "--task", "Answer in one word.", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["hypernet_name"], row["rank"], row["energy_kept"]) == ("task", NAME, RANK, 1.0)
    weights, _ = read_adapter(Path(row["path"]))
    assert set(weights.targets) == set(widths(read_base_info(default_model_path)))
    other = json.loads(shipped.run("attach", "--task", "Write a poem about the sea.", "--json").stdout)[0]
    second = read_adapter(Path(other["path"]))[0].targets["attn_q"].b
    assert not np.allclose(weights.targets["attn_q"].b, second), "each description makes its own"
    note = shipped.home / "note.txt"
    note.write_text("The keeper of the lighthouse is Tomas Brekkeli.")
    done = shipped.run(
        "ask", "Who keeps it?", "--document", note, "--task", "Answer in one word.", "--max-tokens", "4", "--json"
    )
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)["answers"][0]["adapters"]
    assert [use["name"] for use in used] == ["note", "answer-in-one-word"]
    merged = shipped.run("adapters", "merge", "note", "answer@0.5", "--name", "both")
    assert merged.returncode == 0 and "of the energy kept" in merged.stderr, merged.stderr


def test_lists_and_doctor_show_both_kinds(shipped: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(shipped.run("models", "list", "--json").stdout)}
    assert (rows[NAME]["kind"], rows[NAME]["base"], rows[NAME]["path"] is not None) == ("task", DEFAULT_BASE, True)
    line = next(line for line in shipped.run("models", "list").stdout.splitlines() if line.startswith(f"{NAME} "))
    assert line.split()[1:3] == ["task", DEFAULT_BASE]
    shown = shipped.run("hypernet", "show", NAME).stdout
    assert "task: turns task descriptions into adapters" in shown and f"for            {DEFAULT_BASE}\n" in shown
    checks = {check["name"]: check for check in json.loads(shipped.run("doctor", "--json").stdout)}
    assert checks[f"hypernetwork {NAME}"]["status"] == "ok"
    detail = f"{DEFAULT_BASE}: documents by smollm2-135m-document, task descriptions by {NAME}"
    assert (checks["attach"]["status"], checks["attach"]["detail"], checks["attach"]["hint"]) == ("ok", detail, "")


def test_without_one_a_line_says_how_to_get_one(plain: Shell) -> None:
    known = json.loads(plain.run("models", "list", "--json").stdout)
    if any(row["kind"] == "task" and row["base"] == DEFAULT_BASE and row["path"] for row in known):
        pytest.skip("one is shipped")
    done = plain.run("attach", "--task", "Answer in one word.")
    assert done.returncode == 5 and not done.stdout
    assert f"error: no task hypernetwork for the base model `{DEFAULT_BASE}` is on this machine\n" in done.stderr
    assert "`localhyper models add FILE.onnx`" in done.stderr
    assert "published for gemma-2-2b-it, mistral-7b-instruct-v0.2, llama-3.1-8b-instruct" in done.stderr
    checks = {check["name"]: check for check in json.loads(plain.run("doctor", "--json").stdout)}
    assert checks["attach"]["status"] == "ok" and "no task descriptions" in checks["attach"]["detail"]
    assert "models add FILE.onnx" in checks["attach"]["hint"]


def test_a_set_hypernetwork_goes_first_and_a_missing_one_is_named(shipped: Shell) -> None:
    from localhyper.paths import get_paths

    paths = get_paths(shipped.home)
    paths.config_file.write_text('[hypernet]\ntask = "gone"\n')
    done = shipped.run("attach", "--task", "Answer in one word.")
    assert done.returncode == 5 and "no hypernetwork is named `gone`" in done.stderr
    checks = {check["name"]: check for check in json.loads(shipped.run("doctor", "--json").stdout)}
    assert "no task descriptions" in checks["attach"]["detail"] and checks["attach"]["hint"]
