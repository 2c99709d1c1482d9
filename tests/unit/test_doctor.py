"""The doctor says what is missing, and survives everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from localhyper import doctor, onnx_probe
from localhyper.doctor import FAIL, OK, WARN, Check, run_checks, worst
from localhyper.onnx_probe import ProviderReport, probe_providers
from localhyper.paths import Paths
from tests.tiny_onnx import TinyBundle, write


@pytest.fixture(autouse=True)
def quick_probe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process per check is slow; one test asks the real one."""
    if "real_probe" not in request.keywords:
        report = ProviderReport("1.0", ("A", "CPUExecutionProvider"), ("CPUExecutionProvider",))
        monkeypatch.setattr(onnx_probe, "probe_providers", lambda: report)


def _named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name.startswith(name))


def _base(paths: Paths, text: str) -> None:
    paths.create()
    paths.models_file.write_text(f'[base.one]\nfile = "one.gguf"\nhub = {{ repo = "a/b" }}\n{text}', encoding="utf-8")
    paths.config_file.write_text('[base]\nname = "one"\n', encoding="utf-8")


def test_everything_is_looked_at_and_nothing_is_made(paths: Paths, home: Path) -> None:
    names = [check.name.split()[0] for check in run_checks(paths)]
    for name in ("python", "cores", "memory", "disk", "folders", "config", "llama.cpp", "onnxruntime", "library"):
        assert name in names
    assert not paths.data_dir.exists()


def test_a_failed_check_always_says_what_to_do(paths: Paths) -> None:
    _base(paths, "")
    failed = [check for check in run_checks(paths) if check.status == FAIL]
    assert _named(failed, "base model one").hint == "run `localhyper models pull one`"
    assert all(check.hint for check in failed)


def test_a_damaged_model_fails(paths: Paths) -> None:
    _base(paths, f'sha256 = "{"0" * 64}"')
    (paths.models_dir / "one.gguf").write_bytes(b"x")
    check = _named(run_checks(paths), "base model one")
    assert check.status == FAIL
    assert "damaged" in check.detail


def test_a_hypernetwork_without_its_companion_fails(paths: Paths, tmp_path: Path) -> None:
    said = {"file": "other.onnx", "sha256": "0" * 64}
    bundle = write(tmp_path / "pair.onnx", TinyBundle(metadata={"chunk_bundle": said}))
    _base(paths, f'[hypernetwork.pair]\nfile = "pair.onnx"\npath = "{bundle}"\nkind = "document"\nbase = "one"\n')
    check = _named(run_checks(paths), "hypernetwork pair")
    assert check.status == FAIL and "needs `other.onnx` beside it" in check.detail and check.hint


def test_a_wrong_config_fails_alone(paths: Paths) -> None:
    paths.create()
    paths.config_file.write_text("[engine]\nthread = 1\n", encoding="utf-8")
    checks = run_checks(paths)
    assert _named(checks, "config").status == FAIL
    assert "did you mean `threads`?" in _named(checks, "config").hint
    assert _named(checks, "onnxruntime").status == OK


def test_folders_that_others_can_read_warn(paths: Paths) -> None:
    paths.create().adapters_dir.chmod(0o755)
    check = _named(run_checks(paths), "folders")
    assert check.status == WARN
    assert check.hint == f"run `chmod 700 {paths.adapters_dir}`"


def test_a_damaged_library_fails(paths: Paths) -> None:
    paths.create().library_db.write_bytes(b"this is no database, whatever it is called" * 50)
    assert _named(run_checks(paths), "library").status == FAIL


def test_a_provider_that_is_asked_for_must_load(paths: Paths) -> None:
    paths.create().config_file.write_text('[hypernet]\nproviders = ["CUDAExecutionProvider"]\n', encoding="utf-8")
    checks = run_checks(paths)
    assert "built in but does not load: A" in _named(checks, "onnxruntime").detail
    assert _named(checks, "providers").status == WARN


def test_both_onnxruntimes_warn(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda _package: True)
    check = _named(run_checks(paths), "onnxruntime")
    assert check.status == WARN
    assert "uninstall onnxruntime onnxruntime-gpu" in check.hint


def test_no_onnxruntime_fails(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_probe, "probe_providers", lambda: ProviderReport(problem="ModuleNotFoundError: no"))
    check = _named(run_checks(paths), "onnxruntime")
    assert check.status == FAIL
    assert "localhyper[cpu]" in check.hint


def test_a_check_that_breaks_is_a_failed_check(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(doctor, "physical_cores", broken)
    check = _named(run_checks(paths), "cores")
    assert check.status == FAIL
    assert "ZeroDivisionError: oh" in check.detail


def test_worst() -> None:
    checks = [Check("a", OK, ""), Check("b", WARN, "")]
    assert worst([]) == worst(checks[:1]) == OK
    assert worst(checks) == WARN
    assert worst([*checks, Check("c", FAIL, "")]) == FAIL


@pytest.mark.real_probe
def test_the_cpu_really_loads() -> None:
    report = probe_providers()
    assert "CPUExecutionProvider" in report.loaded
    assert set(report.loaded) <= set(report.built_in)
    assert report.version and not report.problem


@pytest.mark.real_probe
def test_the_probe_survives_a_child_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    for script, problem in (("kill -9 $$", "exit code -9"), ("echo nonsense", "exit code 0")):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(fake))
        assert problem in probe_providers().problem


def test_the_probe_says_so_when_there_is_no_onnxruntime(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('none here')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; "
    code += "runpy.run_module('localhyper.onnx_probe', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "none here" in json.loads(done.stdout)["problem"]
