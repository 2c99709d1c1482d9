"""`models add` and `models remove`: own files into models.toml and out of it, and nothing of anybody else's touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localhyper.base_header import read_base_info
from localhyper.bundle import read_bundle
from localhyper.checksums import file_sha256
from localhyper.errors import Cancelled, ConfigError, HypernetworkError, LocalHyperError, ModelError
from localhyper.model_specs import load_known
from localhyper.models_edit import add_entry, remove_entry
from localhyper.own_models import Added, add_model
from localhyper.paths import Paths
from localhyper.progress import CancelToken, Progress
from localhyper.registry import load_registry
from localhyper.remove_models import plan_removal, remove
from tests.conftest import DEFAULT_BASE
from tests.tiny_gguf import TinySpec, write_tiny_gguf
from tests.tiny_onnx import TinyBundle
from tests.tiny_onnx import write as write_bundle

SPEC = TinySpec(blocks=4, context=512)
MINE = """# kept by hand
[base.first]   # the first
file = "first.gguf"
path = "/data/first.gguf"

# about the second
[hypernetwork."own-1.5"]
file = "own.onnx"
kind = "document"
base = "first"
path = "/data/own.onnx"

[base.third]
file = "third.gguf"
path = "/data/third.gguf"
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "given").mkdir()
    return write_tiny_gguf(tmp_path / "given" / "My Model.Q4.gguf", SPEC)


def _bundle(folder: Path, base: Path, name: str = "mine.onnx") -> Path:
    fingerprint = read_base_info(base).fingerprint
    return write_bundle(
        folder / name, TinyBundle(hidden=SPEC.hidden, ffn=SPEC.ffn, blocks=SPEC.blocks, fingerprint=fingerprint)
    )


def _add(paths: Paths, path: Path, name: str = "", base: str = "", copy: bool = False) -> Added:
    return add_model(load_registry(paths.create()), path, name=name, base=base, copy=copy)


def _remove(paths: Paths, name: str) -> None:
    registry = load_registry(paths)
    remove(registry, plan_removal(registry, name))


# --- add ---


def test_a_base_model_is_entered_where_it_is(paths: Paths, base: Path) -> None:
    added = _add(paths, base)
    assert (added.name, added.kind, added.path, added.remarks) == ("my-model.q4", "base", base, ())
    registry = load_registry(paths)
    spec = registry.bases["my-model.q4"]
    assert (spec.architecture, spec.path) == ("llama", str(base))
    assert registry.find_base("my-model.q4") == base
    assert os.listdir(paths.models_dir) == []
    write_tiny_gguf(base, TinySpec(blocks=3, context=512))  # the file is the user's, who may make it anew
    assert registry.find_base("my-model.q4") == base


def test_a_relative_path_is_entered_whole(paths: Paths, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    _add(paths, Path(base.name), "own")
    monkeypatch.chdir("/")
    assert load_registry(paths).find_base("own") == base


def test_a_copy_lies_in_our_folder_with_its_checksum_known(
    paths: Paths, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Progress] = []
    added = add_model(load_registry(paths.create()), base, name="own", copy=True, progress=reports.append)
    assert added.path == paths.models_dir / "own.gguf"
    assert added.path.read_bytes() == base.read_bytes()
    assert [(report.stage, report.done) for report in reports] == [("copy", base.stat().st_size)]
    base.unlink()
    assert load_registry(paths).find_base("own") == added.path
    monkeypatch.setattr("localhyper.checksums._compute", lambda *_: pytest.fail("read again"))
    assert len(file_sha256(added.path, paths.checksums_file)) == 64


def test_a_stopped_copy_leaves_nothing(paths: Paths, base: Path) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        add_model(load_registry(paths.create()), base, copy=True, cancel=cancel)
    assert os.listdir(paths.models_dir) == []
    assert not paths.models_file.exists()


def test_a_copy_without_its_entry_does_not_stay(paths: Paths, base: Path) -> None:
    registry = load_registry(paths.create())
    paths.models_file.write_text('base = { x = { file = "x.gguf", path = "/x" } }\n')  # no table can be added to this
    with pytest.raises(ConfigError, match="cannot take another entry") as caught:
        add_model(registry, base, name="own", copy=True)
    assert "by hand" in caught.value.hint
    assert os.listdir(paths.models_dir) == []


def test_the_same_model_in_another_quantization_is_pointed_out(paths: Paths, base: Path, tmp_path: Path) -> None:
    _add(paths, base, "one")
    other = tmp_path / "other.gguf"
    other.write_bytes(base.read_bytes())
    added = _add(paths, other)
    assert "the same model as `one`" in added.remarks[0]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (DEFAULT_BASE, "there is a model named", "or put the file at"),
        ("taken", "there is a model named `taken`", "--name"),
        ("Big Name", "a name has lower-case letters", ""),
        ("../up", "a name has lower-case letters", ""),
        ("x" * 500, "a name has lower-case letters", ""),
    ],
)
def test_a_name_that_cannot_be(paths: Paths, base: Path, tmp_path: Path, name: str, message: str, hint: str) -> None:
    _add(paths, write_tiny_gguf(tmp_path / "taken.gguf", SPEC))
    before = paths.models_file.read_text()
    with pytest.raises(ConfigError, match=message) as caught:
        _add(paths, base, name, copy=True)
    assert hint in caught.value.hint
    assert paths.models_file.read_text() == before
    assert os.listdir(paths.models_dir) == []


def test_a_file_that_is_known_is_not_added_again(paths: Paths, base: Path, tmp_path: Path) -> None:
    _add(paths, base, "one")
    (tmp_path / "link.gguf").symlink_to(base)
    for path in (base, tmp_path / "link.gguf"):
        with pytest.raises(ConfigError, match="is known already: it is `one`"):
            _add(paths, path, "two")


def test_a_stray_file_in_our_folder_gets_an_entry(paths: Paths) -> None:
    stray = write_tiny_gguf(paths.create().models_dir / "stray.gguf", SPEC)
    assert _add(paths, stray, copy=True).path == stray
    assert load_registry(paths).bases["stray"].path == str(stray)


def test_a_bundle_finds_its_base_by_fingerprint(paths: Paths, base: Path, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, base)
    with pytest.raises(HypernetworkError, match="is not known on this machine") as caught:
        _add(paths, bundle)
    assert "add its base model first" in caught.value.hint
    _add(paths, base, "own")
    added = _add(paths, bundle)
    assert (added.name, added.kind) == ("mine", "document")
    registry = load_registry(paths)
    assert registry.hypernetworks["mine"].base == "own"
    assert registry.find_hypernetwork("own") == bundle


def test_every_name_of_a_base_finds_what_was_made_for_it(paths: Paths, base: Path, tmp_path: Path) -> None:
    _add(paths, base, "own")
    _add(paths, _bundle(tmp_path, base))
    twin = write_tiny_gguf(tmp_path / "twin.gguf", SPEC)
    _add(paths, twin, "twin")  # the same model, so the same fingerprint
    imported = paths.hypernetworks_dir / "imported.onnx"  # as `hypernet import` leaves it: no entry names it
    imported.write_bytes((tmp_path / "mine.onnx").read_bytes())
    registry = load_registry(paths)
    for name in ("own", "twin", str(twin)):
        assert read_bundle(registry.find_hypernetwork(name)).base_fingerprint == read_base_info(twin).fingerprint
    (tmp_path / "mine.onnx").unlink()
    assert registry.find_hypernetwork("twin") == registry.find_hypernetwork("own") == imported
    with pytest.raises(HypernetworkError, match="no task hypernetwork"):
        registry.find_hypernetwork("twin", "task")


def test_a_bundle_of_a_stray_base_says_what_to_add(paths: Paths, tmp_path: Path) -> None:
    stray = write_tiny_gguf(paths.create().models_dir / "stray.gguf", SPEC)
    with pytest.raises(HypernetworkError) as caught:
        _add(paths, _bundle(tmp_path, stray))
    assert "localhyper models add" in caught.value.hint and "`stray`" in caught.value.hint


def test_the_base_of_a_bundle_can_be_named(paths: Paths, base: Path, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, base)
    with pytest.raises(ConfigError, match="no base model named `nobody`"):
        _add(paths, bundle, base="nobody")
    assert "was not checked" in _add(paths, bundle, "one", base="qwen3-4b").remarks[0]
    _add(paths, write_tiny_gguf(tmp_path / "wrong.gguf", TinySpec(blocks=2)))
    with pytest.raises(HypernetworkError, match="for another base model"):
        _add(paths, _bundle(tmp_path, base, "two.onnx"), base="wrong")


def test_what_is_no_model_is_refused_with_the_command_for_it(paths: Paths, tmp_path: Path, base: Path) -> None:
    published, peft, plain = (tmp_path / name for name in ("published", "peft", "plain"))
    for file in (
        published / "run" / "checkpoint-8" / "pytorch_model.bin",
        peft / "adapter_config.json",
        peft / "adapter_model.safetensors",
        plain / "notes.txt",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"PK\3\4")
    split = base.with_name("big-00001-of-00003.gguf")
    split.write_bytes(base.read_bytes())
    short = tmp_path / "short.gguf"
    short.write_bytes(base.read_bytes()[:5000])
    page = tmp_path / "page.gguf"
    page.write_bytes(b"<html>\x1b[2J")
    os.mkfifo(tmp_path / "pipe.gguf")
    cases: list[tuple[Path, str, str]] = [
        (published, "a published hypernetwork", f"hypernet import {published}"),
        (peft, "a PEFT adapter", f"adapters import {peft}"),
        (plain, "is a folder", "name one file"),
        (published / "run" / "checkpoint-8" / "pytorch_model.bin", "is a PyTorch file", "hypernet import"),
        (peft / "adapter_model.safetensors", "safetensors", "adapters import"),
        (plain / "notes.txt", "not a readable ONNX file", ""),
        (split, "is one part of a split model", "--merge"),
        (short, "not a sound GGUF file", ""),
        (page, "is not a GGUF file", ""),
        (tmp_path / "pipe.gguf", "is not a file", ""),
        (tmp_path / "none.gguf", "does not exist", ""),
    ]
    for path, message, hint in cases:
        with pytest.raises(LocalHyperError) as caught:
            _add(paths, path)
        assert message in caught.value.message, path
        assert hint in caught.value.hint, path
        assert "\n" not in caught.value.message and "\x1b" not in caught.value.message
    assert not paths.models_file.exists()


def test_an_adapter_is_no_base_model(paths: Paths, tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "adapter.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="is a LoRA adapter") as caught:
        _add(paths, path)
    assert caught.value.hint == f"run `localhyper adapters import {path}`"


def test_a_model_of_another_family_is_refused(paths: Paths, tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture `mamba`"):
        _add(paths, path)


# --- models.toml ---


def test_entries_come_and_go_and_comments_stay(paths: Paths) -> None:
    file = paths.create().models_file
    file.write_text(MINE, encoding="utf-8")
    add_entry(file, "base", "own-2.0", {"file": "o.gguf", "path": '/with "quotes"\\o.gguf', "licence": ""})
    text = file.read_text(encoding="utf-8")
    assert text.startswith(MINE)
    assert '[base."own-2.0"]' in text and "licence" not in text
    assert load_known(paths).bases["own-2.0"].path == '/with "quotes"\\o.gguf'
    remove_entry(file, "base", "own-2.0")
    assert file.read_text(encoding="utf-8").rstrip() == MINE.rstrip()
    remove_entry(file, "hypernetwork", "own-1.5")
    remove_entry(file, "base", "first")
    text = file.read_text(encoding="utf-8")
    assert "# kept by hand" in text and "third" in text and "first" not in text.replace("the first", "")
    assert [name for name in load_known(paths).bases if name in ("first", "third")] == ["third"]


def test_a_file_that_is_wrong_is_not_written_over(paths: Paths) -> None:
    file = paths.create().models_file
    for text in ("[base.x]\nfile = 3\n", "[base", '[base.x]\nfile = "x"\npath = "/x"\n'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            add_entry(file, "base", "x", {"file": "y.gguf", "path": "/y"})
        assert file.read_text(encoding="utf-8") == text
    with pytest.raises(ConfigError, match="has no entry"):
        remove_entry(file, "base", "y")


def test_entries_written_at_once_are_all_there(paths: Paths) -> None:
    from concurrent.futures import ThreadPoolExecutor

    file = paths.create().models_file
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(add_entry, file, "base", f"b{n}", {"file": "x", "path": "/x"}) for n in range(16)]
        for job in jobs:
            job.result()
    assert {f"b{n}" for n in range(16)} <= set(load_known(paths).bases)
    assert os.listdir(paths.config_dir) == ["models.toml"]


# --- remove ---


def test_an_entry_goes_and_the_users_file_stays(paths: Paths, base: Path) -> None:
    _add(paths, base, "own")
    removal = plan_removal(load_registry(paths), "own")
    assert (removal.files, removal.section, removal.left) == ((), "base", base)
    _remove(paths, "own")
    assert base.exists()
    assert "own" not in load_registry(paths).bases


def test_a_copy_goes_with_its_entry(paths: Paths, base: Path) -> None:
    _add(paths, base, "own", copy=True)
    _remove(paths, "own")
    assert base.exists()
    assert os.listdir(paths.models_dir) == []
    assert paths.models_file.read_text().strip() == ""


def test_a_fetched_file_goes_and_the_shipped_entry_stays(paths: Paths) -> None:
    file = paths.create().models_dir / "Qwen3-4B-Q4_K_M.gguf"
    file.write_bytes(b"x")
    parts = paths.models_dir / ".parts"
    parts.mkdir()
    (parts / f"qwen3-4b-{'a' * 16}.{'b' * 16}").write_bytes(b"half")
    (parts / f"qwen3-4b-instruct-2507-{'a' * 16}.{'b' * 16}").write_bytes(b"another's half")
    _remove(paths, "qwen3-4b")
    assert not file.exists()
    assert [part.read_bytes() for part in parts.iterdir()] == [b"another's half"]
    assert "qwen3-4b" in load_registry(paths).bases
    with pytest.raises(ModelError, match="it is not on this machine"):
        plan_removal(load_registry(paths), "qwen3-4b")


def test_a_link_goes_and_what_it_leads_to_stays(paths: Paths, base: Path) -> None:
    link = paths.create().models_dir / "Qwen3-4B-Q4_K_M.gguf"
    link.symlink_to(base)
    _remove(paths, "qwen3-4b")
    assert base.exists() and not link.is_symlink()


def test_only_the_listed_files_of_a_folder_go(paths: Paths, tmp_path: Path) -> None:
    spec = load_registry(paths.create()).folders["text-to-lora-gemma-2-2b"]
    folder = paths.models_dir / spec.name
    for file in spec.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    note = folder / "trained_t2l" / "my notes.txt"
    note.write_bytes(b"mine")
    _remove(paths, spec.name)
    assert [path for path in folder.rglob("*") if path.is_file()] == [note]
    note.unlink()
    (folder / spec.files[0]).parent.mkdir(parents=True, exist_ok=True)
    (folder / spec.files[0]).write_bytes(b"x")  # fetched in part
    _remove(paths, spec.name)
    assert not folder.exists() and paths.models_dir.exists()


def test_nothing_behind_a_linked_folder_goes(paths: Paths, tmp_path: Path) -> None:
    spec = load_registry(paths.create()).folders["text-to-lora-gemma-2-2b"]
    elsewhere = tmp_path / "elsewhere"
    for file in spec.files:
        (elsewhere / file).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / file).write_bytes(b"x")
    (paths.models_dir / spec.name).mkdir()
    inner = paths.models_dir / spec.name / "trained_t2l"
    inner.symlink_to(elsewhere / "trained_t2l")
    with pytest.raises(ModelError, match="nothing of"):
        plan_removal(load_registry(paths), spec.name)
    inner.unlink()
    inner.parent.rmdir()
    (paths.models_dir / spec.name).symlink_to(elsewhere)
    _remove(paths, spec.name)
    assert all((elsewhere / file).exists() for file in spec.files)
    assert not (paths.models_dir / spec.name).is_symlink()


def test_a_base_that_is_needed_stays(paths: Paths, base: Path, tmp_path: Path) -> None:
    _add(paths, base, "own")
    _add(paths, _bundle(tmp_path, base))
    with pytest.raises(ConfigError, match="`own` is the base model of `mine`") as caught:
        plan_removal(load_registry(paths), "own")
    assert caught.value.hint == "run `localhyper models remove mine` first"
    _remove(paths, "mine")
    _remove(paths, "own")


def test_a_stray_file_can_be_removed_and_the_shipped_bundle_cannot(paths: Paths) -> None:
    stray = paths.create().models_dir / "stray.gguf"
    stray.write_bytes(b"x")
    _remove(paths, "stray")
    assert not stray.exists()
    with pytest.raises(ModelError, match="which is not localhyper's own folder"):
        plan_removal(load_registry(paths), "smollm2-135m-document")
    with pytest.raises(ConfigError, match="no model is named"):
        plan_removal(load_registry(paths), "nothing")
