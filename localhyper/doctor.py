"""What this machine has, what is missing, and what to do about it, as a list of checks.

It changes nothing, uses no network and never raises: what cannot be found out is a failed check.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localhyper import __version__
from localhyper.bundle import KIND_WORDS
from localhyper.config import Config, load_config
from localhyper.errors import LocalHyperError
from localhyper.memory_check import available_memory, physical_cores
from localhyper.model_specs import FolderSpec
from localhyper.paths import HOME_VARIABLE, Paths, get_paths
from localhyper.registry import BaseModelSpec, HypernetworkSpec, ModelSpec, load_registry, title

OK, WARN, FAIL = "ok", "warn", "fail"
MIN_PYTHON = (3, 11)
MIB = 1024 * 1024
LOW_MEMORY = 1024 * MIB
LOW_DISK = 512 * MIB


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: `ok`, `warn` (works, but) or `fail` (something the main job needs is missing).
        detail: What was found, one line.
        hint: What to do; empty when there is nothing to do.
    """

    name: str
    status: str
    detail: str
    hint: str = ""


def run_checks(paths: Paths | None = None) -> list[Check]:
    """Look at everything, in the order people should read it. Takes a few seconds the first time."""
    paths = paths or get_paths()
    parts: list[tuple[str, Callable[[Paths], list[Check]]]] = [
        ("python", _python),
        ("cores", _cores),
        ("memory", _memory),
        ("disk", _disk),
        ("folders", _folders),
        ("config", _config),
        ("llama.cpp", _llama),
        ("onnxruntime", _onnxruntime),
        ("models", _models),
        ("attach", _attachable),
        ("library", _library),
    ]
    checks = []
    for name, part in parts:
        try:
            checks += part(paths)
        except LocalHyperError as error:
            checks.append(Check(name, FAIL, error.message, error.hint))
        except Exception as error:  # a doctor that falls ill helps nobody
            checks.append(Check(name, FAIL, f"could not be looked at: {type(error).__name__}: {error}"))
    return checks


def worst(checks: list[Check]) -> str:
    """`fail` when any check failed, else `warn` when any warned, else `ok`."""
    found = {check.status for check in checks}
    return next((status for status in (FAIL, WARN) if status in found), OK)


def _python(_paths: Paths) -> list[Check]:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, localhyper {__version__}"
    if sys.version_info < MIN_PYTHON:
        return [Check("python", FAIL, detail, "install Python 3.11 or newer")]
    return [Check("python", OK, detail)]


def _cores(_paths: Paths) -> list[Check]:
    physical = physical_cores()
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hint = "" if physical > 1 else "with one core, reading a document and chatting are slow"
    return [Check("cores", OK if physical > 1 else WARN, f"{physical} physical, {logical} logical", hint)]


def _memory(_paths: Paths) -> list[Check]:
    free = available_memory()
    if free is None:
        return [Check("memory", WARN, "this system does not tell how much is free")]
    total = f" of {_bytes(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))}" if hasattr(os, "sysconf") else ""
    low = free < LOW_MEMORY
    hint = "close other programs, or use a smaller base model" if low else ""
    return [Check("memory", WARN if low else OK, f"{_bytes(free)} free{total}", hint)]


def _disk(paths: Paths) -> list[Check]:
    place = paths.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK
    hint = f"make room, or set {HOME_VARIABLE} to a larger disk" if low else ""
    return [Check("disk", WARN if low else OK, f"{_bytes(free)} free at {place}", hint)]


def _folders(paths: Paths) -> list[Check]:
    """Ours must be writable, and nobody else's to read: they hold people's documents as weights and text."""
    present = [folder for folder in paths.folders() if folder.is_dir()]
    closed = [folder for folder in present if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        return [Check("folders", FAIL, f"{closed[0]} cannot be read and written", f"run `chmod u+rwx {closed[0]}`")]
    shared = [folder for folder in present if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & 0o077]
    if shared:
        return [Check("folders", WARN, f"{shared[0]} can be read by other users", f"run `chmod 700 {shared[0]}`")]
    return [Check("folders", OK, str(paths.data_dir) if present else f"{paths.data_dir} (made when first needed)")]


def _config(paths: Paths) -> list[Check]:
    load_config(paths.config_file)
    return [Check("config", OK, str(paths.config_file) if paths.config_file.is_file() else "all defaults")]


def _llama(_paths: Paths) -> list[Check]:
    from localhyper.llama_native import system_info

    info = system_info()
    offload = "GPU offload" if info["gpu_offload"] else "no GPU offload"
    detail = f"llama-cpp-python {info['llama_cpp_python']}, {offload}, {info['features']}"
    return [Check("llama.cpp", OK, detail)]


def _onnxruntime(paths: Paths) -> list[Check]:
    from localhyper.onnx_probe import probe_providers

    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(both) == 2:
        hint = f"run `{sys.executable} -m pip uninstall {' '.join(both)}`, then install one of them"
        return [Check("onnxruntime", WARN, "onnxruntime and onnxruntime-gpu overwrite each other's files", hint)]
    report = probe_providers()
    if not report.loaded:
        hint = "run `pip install localhyper[cpu]` (or [gpu]), never both"
        return [Check("onnxruntime", FAIL, report.problem or "no execution provider loads", hint)]
    dead = [name for name in report.built_in if name not in report.loaded]
    detail = f"{report.version}, loads: {_short(report.loaded)}"
    checks = [Check("onnxruntime", OK, detail + (f"; built in but does not load: {_short(dead)}" if dead else ""))]
    wanted = [name for name in _settings(paths).hypernet.providers if name not in report.loaded]
    if wanted:
        hint = "install its driver and libraries, or take it out of `hypernet.providers`"
        checks.append(Check("providers", WARN, f"config.toml asks for {_short(wanted)}, which does not load", hint))
    return checks


def _models(paths: Paths) -> list[Check]:
    """The base model in use must be there; every file that is there must be the right one."""
    registry, config = load_registry(paths), _settings(paths)
    checks = []
    if config.base.name not in registry.bases:
        checks.append(Check("base model", OK, str(registry.find_base(config.base.name))))
    for spec in registry.specs:
        if _is_needed(spec, config.base.name) or registry.locate(spec) is not None:
            checks.append(_model(registry.verify, registry.locate(spec), spec))
    return checks


def _is_needed(spec: ModelSpec, base: str) -> bool:
    """The base model in use and its hypernetworks; published ones and embedders are for making others."""
    if isinstance(spec, BaseModelSpec):
        return spec.name == base
    return isinstance(spec, HypernetworkSpec) and spec.base == base


def _model(verify: Callable[[ModelSpec], str], path: Path | None, spec: ModelSpec) -> Check:
    name = title(spec).replace("`", "")
    try:
        digest = verify(spec)
        if isinstance(spec, HypernetworkSpec) and path is not None:
            from localhyper.bundle import read_bundle, read_companion

            read_companion(read_bundle(path))
    except LocalHyperError as error:
        return Check(name, FAIL, error.message, error.hint)
    compared = len(spec.sha256) == len(spec.files) if isinstance(spec, FolderSpec) else spec.sha256
    proof = "sha256 right" if compared else f"sha256 {digest[:12]}…, none to compare with"
    return Check(name, OK, f"{path} ({proof})")


def _attachable(paths: Paths) -> list[Check]:
    """What the base model in use can be given: a hypernetwork of each kind, and what to do where one is missing."""
    registry, config = load_registry(paths), _settings(paths)
    wanted = {"document": config.hypernet.name, "task": config.hypernet.task}
    found, hints = [], {}
    for kind, name in wanted.items():
        try:
            found.append(f"{KIND_WORDS[kind]} by {registry.find_hypernetwork(config.base.name, kind, name).stem}")
        except LocalHyperError as error:
            found.append(f"no {KIND_WORDS[kind]}")
            hints[kind] = f"for {KIND_WORDS[kind]}, {error.hint}" if error.hint else error.message
    status = WARN if "document" in hints else OK
    return [Check("attach", status, f"{config.base.name}: {', '.join(found)}", "; ".join(hints.values()))]


def _library(paths: Paths) -> list[Check]:
    from localhyper.database import Database
    from localhyper.library import Library

    if not paths.library_db.is_file():
        return [Check("library", OK, "empty")]
    adapters = Library(Database(paths.library_db), paths.adapters_dir).list()
    broken = [info.name for info in adapters if not info.usable]
    if broken:
        hint = f"attach the document again, or run `localhyper adapters remove {broken[0]}`"
        return [Check("library", WARN, f"{len(broken)} of {len(adapters)} adapters lack their file: {broken[0]}", hint)]
    return [Check("library", OK, f"{len(adapters)} adapters, {_bytes(sum(info.all_bytes for info in adapters))}")]


def _settings(paths: Paths) -> Config:
    """The settings; the defaults when config.toml is wrong, which its own check says."""
    try:
        return load_config(paths.config_file)
    except LocalHyperError:
        return Config()


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _short(providers: tuple[str, ...] | list[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers)


def _bytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / MIB:.0f} MiB"
