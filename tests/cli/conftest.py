"""What the command-line tests run on: a tiny real base model, a tiny real bundle for it, and a home of their own."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from localhyper.base_header import read_base_info
from localhyper.cli import main
from tests.tiny_gguf import TinySpec, write_tiny_gguf
from tests.tiny_onnx import TinyBundle, write

ROOT = Path(__file__).parents[2]
SPEC = TinySpec(blocks=4, context=512)


@dataclass(frozen=True)
class Shell:
    """Runs the command line."""

    home: Path
    base: Path
    bundle: Path

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the user's own settings; no colour."""
        keep = {key: value for key, value in os.environ.items() if not key.startswith("LOCALHYPER")}
        return {**keep, "LOCALHYPER_HOME": str(self.home), "NO_COLOR": "1", "OPENBLAS_NUM_THREADS": "1"}

    def command(self, *arguments: str | Path) -> list[str]:
        """The whole command."""
        return [sys.executable, "-m", "localhyper", *map(str, arguments)]

    def run(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run to the end inside this process, which is much quicker, with everything put back afterwards."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        logger = logging.getLogger("localhyper")
        propagate, level = logger.propagate, logger.level
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOCALHYPER_HOME", str(self.home))
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main([str(argument) for argument in arguments])
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate, logger.level = propagate, level
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(list(arguments), code, *texts)

    def spawn(
        self, *arguments: str | Path, stdin: str | bytes = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end in a process of its own."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(*arguments),
            input=data,
            capture_output=True,
            env=environment or self.environment,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def models(self) -> Sequence[str]:
        """Options that choose the tiny models."""
        return "--base", str(self.base), "--hypernet", str(self.bundle)

    def attach(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`attach` with the tiny models."""
        return self.run("attach", *arguments, *self.models(), stdin=stdin)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model file and a bundle that fits it."""
    folder = tmp_path_factory.mktemp("models")
    base = write_tiny_gguf(folder / "tiny.gguf", SPEC)
    info = read_base_info(base)
    tiny = TinyBundle(
        hidden=SPEC.hidden, ffn=SPEC.ffn, blocks=SPEC.blocks, fingerprint=info.fingerprint, chunk_tokens=16, gain=0.002
    )
    return base, write(folder / "tiny.onnx", tiny)


@pytest.fixture
def shell(tmp_path: Path, tiny_models: tuple[Path, Path]) -> Shell:
    """A shell with an empty home."""
    return Shell(tmp_path / "home", *tiny_models)


@pytest.fixture
def shipped(shell: Shell, home_with_model: Path) -> Shell:
    """A shell over the default base model, with what is shipped."""
    return replace(shell, home=home_with_model)


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    """A short document."""
    path = tmp_path / "lease.txt"
    path.write_text("The notice period is three months. The rent is 812 a month. The cellar is shared.\n" * 3)
    return path
