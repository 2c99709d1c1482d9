"""What importing localhyper brings along, asked of fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "textual", "onnxruntime", "llama_cpp", "huggingface_hub", "onnx", "accelerate", "tokenizers",
    "yaml", "starlette", "uvicorn", "pydantic",
)  # fmt: skip


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import localhyper",
        "import localhyper.registry, localhyper.config, localhyper.paths, localhyper.download, localhyper.doctor",
        "import localhyper.engine, localhyper.hypernet, localhyper.lora, localhyper.chunking",
        "import localhyper.cli, localhyper.task_pipeline, localhyper.task_vector, localhyper.text_embedding",
    ],
)
def test_light_imports_bring_nothing_heavy(statement: str) -> None:
    assert _loaded_after(statement).isdisjoint(HEAVY)


def test_the_package_alone_brings_no_third_party_code() -> None:
    assert _loaded_after("import localhyper").isdisjoint({"numpy", "typer", "rich", "platformdirs"})


def test_the_training_room_is_importable_as_a_subpackage() -> None:
    assert "localhyper" in _loaded_after("import localhyper.export, localhyper.tui")
