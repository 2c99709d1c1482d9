"""Entries that are folders: published hypernetworks and embedders, several files of one repository."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from localhyper.errors import ConfigError, ModelError
from localhyper.paths import Paths
from localhyper.progress import Progress
from localhyper.registry import Registry, load_registry
from tests.conftest import DEFAULT_BASE

WEIGHTS, ARGUMENTS = b"weights" * 100, b"lr: 1\n"
FILES = {"demo/checkpoint-8/pytorch_model.bin": WEIGHTS, "demo/args.yaml": ARGUMENTS}
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
ENTRY = f'''
[published.paper]
description = "as published"
method = "doc-to-lora"
base = "{DEFAULT_BASE}"
licence = "MIT"
files = ["demo/checkpoint-8/pytorch_model.bin", "demo/args.yaml"]
hub = {{ repo = "owner/paper" }}
'''
SIZES = f'sizes = {{ "demo/checkpoint-8/pytorch_model.bin" = {len(WEIGHTS)}, "demo/args.yaml" = {len(ARGUMENTS)} }}\n'
SHA256 = f'sha256 = {{ "demo/checkpoint-8/pytorch_model.bin" = "{DIGEST}" }}\n'


def _own(paths: Paths, text: str) -> Registry:
    paths.create()
    paths.models_file.write_text(text, encoding="utf-8")
    return load_registry(paths)


def _write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_is_found_when_every_file_is_there(paths: Paths) -> None:
    registry = _own(paths, ENTRY + SIZES)
    for file in FILES:
        with pytest.raises(ModelError, match="published hypernetwork `paper` is not on this machine") as caught:
            registry.find_folder("paper")
        assert caught.value.hint == "run `localhyper models pull paper`"
        assert registry.locate(registry.spec("paper")) is None
        _write(paths.models_dir / "paper", {file: FILES[file]})
    assert registry.find_folder("paper") == paths.models_dir / "paper"


def test_a_folder_that_is_elsewhere_goes_first(paths: Paths, tmp_path: Path) -> None:
    elsewhere = _write(tmp_path / "elsewhere")
    _write(paths.models_dir / "paper")
    registry = _own(paths, f'{ENTRY}path = "{elsewhere.as_posix()}"\n')
    assert registry.find_folder("paper") == elsewhere


def test_only_folders_are_found_as_folders(paths: Paths) -> None:
    registry = _own(paths, ENTRY)
    with pytest.raises(ModelError, match=r"no published hypernetwork or embedder is named `papr`") as caught:
        registry.find_folder("papr")
    assert "did you mean `paper`?" in caught.value.hint
    with pytest.raises(ModelError):
        registry.find_folder(DEFAULT_BASE)


def test_a_file_of_another_size_is_refused(paths: Paths) -> None:
    registry = _own(paths, ENTRY + SIZES)
    folder = _write(paths.models_dir / "paper", {**FILES, "demo/args.yaml": b""})
    with pytest.raises(ModelError, match=r"args\.yaml` is damaged: 0 bytes, wanted 6") as caught:
        registry.find_folder("paper")
    assert "models pull paper --force" in caught.value.hint
    assert (folder / "demo/args.yaml").exists(), "looking changes nothing"


def test_verify_compares_each_file_and_shows_one_progress(paths: Paths) -> None:
    registry, reports = _own(paths, ENTRY + SHA256), list[Progress]()
    folder = _write(paths.models_dir / "paper")
    first = registry.verify(registry.spec("paper"), progress=reports.append)
    assert [(report.done, report.total) for report in reports] == [(700, 706), (706, 706)]
    assert registry.verify(registry.spec("paper")) == first
    (folder / "demo/args.yaml").write_bytes(b"lr: 2\n")
    assert registry.verify(registry.spec("paper")) != first  # nothing to compare with, yet another digest
    (folder / "demo/checkpoint-8/pytorch_model.bin").write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelError, match=f"sha256 is .*, wanted {DIGEST}"):
        registry.verify(registry.spec("paper"))


def test_statuses_show_folders_with_their_size(paths: Paths) -> None:
    registry = _own(paths, ENTRY + SIZES + '[embedder.vectors]\nfiles = ["a.onnx"]\nhub = { repo = "a/b" }\n')
    _write(paths.models_dir / "vectors", {"a.onnx": b"12345"})
    found = {status.name: (status.kind, status.path, status.size) for status in registry.statuses()}
    assert found["paper"] == ("published", None, 706)
    assert found["vectors"] == ("embedder", paths.models_dir / "vectors", 5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("[]", "must name 1 to 256 files, got 0"),
        (str(["x"] * 257), "must name 1 to 256 files, got 257"),
        ('"x"', "`files` must be a list"),
        *(
            (f"[{bad}]", "must be paths inside the repository")
            for bad in (
                *('"../x"', '"a/../../x"', '"/x"', '"a//x"', '"."', '"a/."', '""', '"a/"', '"a/.. /x"', '"..."'),
                *(r'"a\\x"', '"c:x"', r'"a\u0000"', r'"a\nb"', '"' + "x" * 401 + '"', '"~:x"', '"*"'),
            )
        ),
        ('["a", "A"]', "names one place twice"),
        ('["a", "a/b"]', "names one place twice"),
        ('["a"]\nsizes = { b = 1 }', "`sizes` names `b`, which is not in `files`"),
        ('["a"]\nsizes = { a = -1 }', "must be from 0"),
        ('["a"]\nsizes = { a = "1" }', "must be a whole number"),
        ('["a"]\nsha256 = { a = "ABC" }', "must be 64 lower-case hex digits"),
        ('["a"]\nsha256 = "ABC"', "must be a table"),
        ('["a"]\nbase = "x"', "unknown key `base`"),
    ],
)
def test_a_wrong_list_of_files_is_named(paths: Paths, files: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _own(paths, f'[embedder.x]\nhub = {{ repo = "a/b" }}\nfiles = {files}\n')
    assert message in caught.value.message
    assert "[embedder.x]" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[embedder.x]\nfiles = ["a"]\n', "does not say where the file comes from"),
        ('[embedder.x]\nfiles = ["a"]\nhub = { repo = "a/b", path = "c" }\n', "`hub.path` is for a single file"),
        ('[base.x]\nfile = "a"\nhub = { repo = "a/b", path = "../a" }\n', "must be a path inside the repository"),
        (ENTRY.replace("doc-to-lora", "magic"), "`method` must be one of"),
        (ENTRY.replace(DEFAULT_BASE, "nobody"), "published hypernetwork `paper` is for base `nobody`"),
    ],
)
def test_a_wrong_entry_is_named(paths: Paths, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _own(paths, text)
    assert message in caught.value.message
