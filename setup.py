"""One build step that pyproject.toml cannot say: `models.toml` lies at the top and travels inside the package.

In an editable install nothing is copied: `localhyper.registry` then reads the file at the top.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent


class BuildWithModels(build_py):
    """`build_py` that also puts `models.toml` into `localhyper/`."""

    def run(self) -> None:
        """Build as usual, then copy the one file."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "localhyper" / "models.toml"
            self.mkpath(str(target.parent))
            self.copy_file(str(TOP / "models.toml"), str(target))


setup(cmdclass={"build_py": BuildWithModels})
