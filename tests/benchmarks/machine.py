"""What a benchmark ran on: the reader of a number must be able to judge it. Knows no benchmark."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from localhyper.memory_check import physical_cores

PACKAGES = ("llama-cpp-python", "onnxruntime", "onnxruntime-gpu", "numpy", "torch")


@dataclass(frozen=True)
class Machine:
    """A machine in words.

    Attributes:
        load: Runnable processes per minute's average when the run began; far above 0 means that it was not alone.
        versions: Package name to version, only those that are installed.
    """

    processor: str
    cores: int
    logical_cores: int
    memory_gib: float
    system: str
    load: float
    versions: dict[str, str]


def this_machine() -> Machine:
    """The machine this process runs on."""
    import psutil

    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        processor=_processor(),
        cores=physical_cores(),
        logical_cores=os.cpu_count() or 0,
        memory_gib=psutil.virtual_memory().total / 2**30,
        system=f"{platform.system()} {platform.machine()}",
        load=psutil.getloadavg()[0],
        versions=versions,
    )


def _processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()
