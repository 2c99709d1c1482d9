"""A bundle for whole documents with another one for chunks that stand alone: read, checked, used where it is meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper.bundle import read_bundle
from localhyper.checksums import file_sha256
from localhyper.database import Database
from localhyper.errors import HypernetworkError
from localhyper.gguf_adapter import read_adapter
from localhyper.hypernet import OnnxHypernetwork
from localhyper.library import Library
from localhyper.own_models import add_model
from localhyper.paths import get_paths
from localhyper.pipeline import AttachOptions, attach_document
from localhyper.registry import load_registry
from localhyper.sources.document import Document
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import FINGERPRINT, TinyBundle, write

CHUNK = TinyBundle(gain=0.2, metadata={"name": "tiny-chunk"})


def write_pair(folder: Path, chunk: TinyBundle = CHUNK, **spec: object) -> Path:
    """Both bundles in a folder; the one for wholes. `spec` replaces what it says of the other."""
    beside = write(folder / "tiny-chunk.onnx", chunk)
    said = {"file": beside.name, "sha256": file_sha256(beside), **spec}
    return write(folder / "tiny.onnx", TinyBundle(metadata={"chunk_bundle": said}))


def attach(folder: Path, network: OnnxHypernetwork, words: int, **options: object) -> Path:
    """The adapter file of a document of so many words."""
    folder.mkdir()
    library = Library(Database(folder / "library.sqlite3"), folder / "adapters")
    text = " ".join(f"word{number % 23}" for number in range(words))
    document = Document("Words", text, "txt", f"{words:064d}")
    chosen = AttachOptions(**{"dtype": "f32", **options})  # type: ignore[arg-type]
    return attach_document(document, ScriptedEngine(), network, library, chosen).adapter.path


def update(path: Path) -> np.ndarray:
    """What an adapter file adds, [layers, d_out, d_in]."""
    target = read_adapter(path)[0].targets["ffn_down"]
    return np.asarray(np.matmul(target.b, target.a))


def test_wholes_are_made_by_one_and_single_chunks_by_the_other(tmp_path: Path) -> None:
    pair = OnnxHypernetwork.load(write_pair(tmp_path), threads=1)
    whole = OnnxHypernetwork.load(write(tmp_path / "whole-alone.onnx"), threads=1)
    chunk = OnnxHypernetwork.load(tmp_path / "tiny-chunk.onnx", threads=1)
    assert whole.alone is whole and chunk.alone is chunk
    assert pair.alone is pair.alone and pair.alone.info.name == "tiny-chunk"
    long = attach(tmp_path / "long", pair, 60)
    np.testing.assert_array_equal(update(long), update(attach(tmp_path / "long-whole", whole, 60)))
    by_chunk = attach(tmp_path / "long-chunk", chunk, 60)
    for file in sorted(by_chunk.with_suffix(".chunks").iterdir()):
        np.testing.assert_array_equal(update(long.with_suffix(".chunks") / file.name), update(file))
    _, metadata = read_adapter(long.with_suffix(".chunks") / "00000.gguf")
    assert metadata.hypernetwork_name == "tiny-chunk"
    short = attach(tmp_path / "short", pair, 9)
    np.testing.assert_array_equal(update(short), update(attach(tmp_path / "short-chunk", chunk, 9)))
    assert read_adapter(short)[1].hypernetwork_name == "tiny", "the library knows the pair by one name"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"file": "../tiny-chunk.onnx"}, "bare name"),
        ({"file": "/etc/passwd"}, "bare name"),
        ({"file": "C:x.onnx"}, "bare name"),
        ({"file": ".hidden.onnx"}, "bare name"),
        ({"file": "tiny-chunk.bin"}, "bare name"),
        ({"file": 7}, "text of at most"),
        ({"sha256": "xyz"}, "64 hex digits"),
        ({"sha256": "0" * 64}, "not the one that `tiny.onnx` goes with"),
        ({"file": "other.onnx"}, "needs `other.onnx` beside it"),
        ({"file": "tiny.onnx"}, "not the one that `tiny.onnx` goes with"),
    ],
)
def test_a_pair_that_does_not_hold_is_refused_in_one_line(
    tmp_path: Path, spec: dict[str, object], message: str
) -> None:
    path = write_pair(tmp_path, CHUNK, **spec)
    with pytest.raises(HypernetworkError, match=message) as caught:
        OnnxHypernetwork.load(path, threads=1)
    assert "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"taps": (0, 3)}, "capture"),
        ({"chunk_tokens": 8}, "chunk_tokens"),
        ({"prefix": "x"}, "prefix"),
        ({"fingerprint": "cd" * 32}, "base_fingerprint"),
        ({"metadata": {"kind": "task"}}, "kind"),
    ],
)
def test_one_that_reads_something_else_is_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    path = write_pair(tmp_path, replace(CHUNK, **changes))  # type: ignore[arg-type]
    with pytest.raises(HypernetworkError, match=f"does not go with `tiny.onnx`: its {what} is"):
        OnnxHypernetwork.load(path, threads=1)


def test_a_chain_of_them_is_refused(tmp_path: Path) -> None:
    third = {"file": "third.onnx", "sha256": "0" * 64}
    path = write_pair(tmp_path, replace(CHUNK, metadata={"chunk_bundle": third}))
    with pytest.raises(HypernetworkError, match="names another one"):
        OnnxHypernetwork.load(path, threads=1)


def test_only_a_bundle_for_documents_may_have_one(tmp_path: Path) -> None:
    about = {"kind": "task", "chunk_bundle": {"file": "x.onnx", "sha256": "0" * 64}}
    with pytest.raises(HypernetworkError, match="only in a `document` bundle"):
        read_bundle(write(tmp_path / "tiny.onnx", TinyBundle(metadata=about)))


def test_of_two_files_in_the_folder_the_one_for_wholes_is_found(tmp_path: Path) -> None:
    paths = get_paths(tmp_path / "home").create()
    wanted = write_pair(paths.hypernetworks_dir)
    assert load_registry(paths).find_hypernetwork(FINGERPRINT) == wanted


def test_a_pair_is_not_copied_alone(tmp_path: Path) -> None:
    paths = get_paths(tmp_path / "home").create()
    with pytest.raises(HypernetworkError, match="cannot be copied alone"):
        add_model(load_registry(paths), write_pair(tmp_path), base="smollm2-135m-instruct", copy=True)
    assert list(paths.hypernetworks_dir.iterdir()) == []


def test_the_shipped_pair_holds() -> None:
    registry = load_registry()
    path = registry.locate(registry.hypernetworks["smollm2-135m-document"])
    assert path is not None
    network = OnnxHypernetwork.load(path, threads=1)
    alone = network.alone.info
    assert alone.name == "smollm2-135m-chunk" and alone.path.parent == path.parent
    assert json.dumps(dict(alone.card)) != json.dumps(dict(network.info.card))
    assert sum(file.stat().st_size for file in path.parent.glob("*.onnx")) <= 80_000_000
