"""Imports into the library: which base is chosen, what the row says, twice the same, our own exports, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.adapter_export import export_peft
from localhyper.adapter_import import Imported, ImportOptions, import_adapter
from localhyper.base_header import read_base_info
from localhyper.database import Database
from localhyper.errors import AdapterError, LibraryError, LocalHyperError, ModelError
from localhyper.gguf_adapter import AdapterMetadata, permute_for_base, read_adapter, write_adapter
from localhyper.library import Library
from localhyper.paths import Paths
from localhyper.peft_folder import MODULES
from localhyper.registry import load_registry
from tests.peft_files import PREFIX, pair, write_peft
from tests.tiny_gguf import TinySpec, lora_deltas, tiny_lora, write_tiny_gguf

SPEC = TinySpec()
KNOWN = """[base.tiny]
file = "tiny.gguf"
unquantized = "someone/tiny"
path = "{}"

[base.other]
file = "other.gguf"
unquantized = "someone/other"
path = "{}"
"""


class Place:
    """A library, and two base models of the same shapes; `tiny` is the one that is set."""

    def __init__(self, root: Path, paths: Paths) -> None:
        self.paths = paths.create()
        self.tiny = write_tiny_gguf(root / "tiny.gguf")
        self.other = write_tiny_gguf(root / "other.gguf", TinySpec(rope_base=500.0))
        self.paths.models_file.parent.mkdir(parents=True, exist_ok=True)
        self.paths.models_file.write_text(KNOWN.format(self.tiny, self.other), encoding="utf-8")
        self.library = Library(Database(self.paths.library_db), self.paths.adapters_dir)
        self.registry = load_registry(self.paths)

    def take(self, path: Path, **options: str) -> Imported:
        return import_adapter(path, self.library, self.registry, replace(ImportOptions(default_base="tiny"), **options))


@pytest.fixture
def place(tmp_path: Path, paths: Paths) -> Place:
    return Place(tmp_path, paths)


def foreign(path: Path, alpha: float = 8.0, rank: int = 4, texts: Mapping[str, str] | None = None) -> Path:
    """A GGUF adapter as llama.cpp's converter writes one."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, text in (texts or {}).items():
        writer.add_string(key, text)
    random = np.random.default_rng(0)
    writer.add_tensor("blk.0.ffn_down.weight.lora_a", random.normal(size=(rank, 96)).astype(np.float32))
    writer.add_tensor("blk.0.ffn_down.weight.lora_b", random.normal(size=(64, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_foreign_file_is_copied_as_it_is_and_described_by_what_is_known(place: Place, tmp_path: Path) -> None:
    path = foreign(tmp_path / "Sums and more.gguf")
    made = place.take(path).adapter
    assert made.path.read_bytes() == path.read_bytes()
    assert (made.name, made.kind, made.rank, made.tokens, made.energy_kept) == ("sums-and-more", "gguf", 4, 0, 1.0)
    assert (made.base_name, made.base_fingerprint) == ("tiny-llama", read_base_info(place.tiny).fingerprint)
    assert (made.hypernet_name, made.document_sha256) == ("", "")
    assert made.origin == str(path)
    assert made.usable
    assert not place.library.has_text(made.id)
    assert place.library.get("sums") == made


def test_the_same_thing_twice_is_one_row(place: Place, tmp_path: Path) -> None:
    file = foreign(tmp_path / "a.gguf")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    folder = write_peft(tmp_path / "peft")
    first, second = place.take(file).adapter, place.take(folder).adapter
    for path, wanted in ((file, first), (copy, first), (folder, second)):
        again = place.take(path)
        assert again.reused
        assert again.adapter == wanted
    assert len(place.library.list()) == 2
    place.library.remove(first.name)
    assert not place.take(file).reused, "what lies in the trash is not there"


def test_our_own_export_brings_back_what_it_says(place: Place, tmp_path: Path) -> None:
    base = read_base_info(place.other)
    metadata = AdapterMetadata(
        "lease", "The lease", "pdf", "ab" * 32, 1234, 6, "net", "cd" * 32, base.fingerprint, 3, 0.987,
        "2026-01-02T03:04:05+00:00", '[{"name": "x"}]',
    )  # fmt: skip
    write_adapter(tmp_path / "x.gguf", tiny_lora(), base, metadata)
    made = place.take(tmp_path / "x.gguf").adapter
    assert (made.name, made.title, made.kind, made.document_sha256) == ("lease", "The lease", "pdf", "ab" * 32)
    assert (made.tokens, made.chunks, made.hypernet_name, made.hypernet_sha256) == (1234, 6, "net", "cd" * 32)
    assert (made.energy_kept, made.made_at) == (0.987, "2026-01-02T03:04:05+00:00")
    assert made.base_fingerprint == base.fingerprint, "the base it names, not the one that is set"
    assert "merged from several adapters" in made.notes
    folder = export_peft(made, place.registry, tmp_path / "peft").folder
    back = place.take(folder, name="lease-again").adapter
    kept = ("title", "kind", "document_sha256", "tokens", "hypernet_name", "energy_kept", "made_at", "base_fingerprint")
    assert all(getattr(back, name) == getattr(made, name) for name in kept)
    with pytest.raises(AdapterError, match="made for another base model than `tiny-llama`"):
        place.take(write_copy(folder, tmp_path / "copy"), base="tiny")


def write_copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "adapter_config.json").write_text(json.dumps(json.loads((to / "adapter_config.json").read_text())))
    return to


def test_a_peft_folder_becomes_an_adapter_of_the_base_it_names(place: Place, tmp_path: Path) -> None:
    for name, wanted, told in (
        ("someone/tiny", place.tiny, False),
        ("Someone/Other", place.other, False),
        ("/models/other/", place.other, False),
        ("elsewhere/tiny", place.tiny, True),
        ("", place.tiny, False),
    ):
        folder = write_peft(tmp_path / f"x{len(name)}", base_model_name_or_path=name, lora_dropout=len(name))
        made = place.take(folder).adapter
        assert made.base_fingerprint == read_base_info(wanted).fingerprint
        assert any("checked by shapes only" in note for note in made.notes) == told
    forced = place.take(write_peft(tmp_path / "z", base_model_name_or_path="someone/tiny"), base="other").adapter
    assert forced.base_fingerprint == read_base_info(place.other).fingerprint
    assert "made for `someone/tiny`" in forced.notes[-1]


def test_a_converted_file_names_its_base_too(place: Place, tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.gguf", texts={"general.base_model.0.repo_url": "https://hub.example/someone/other"})
    assert place.take(path).adapter.base_fingerprint == read_base_info(place.other).fingerprint


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_rows_of_queries_and_keys_are_put_in_the_order_of_the_base(
    tmp_path: Path, paths: Paths, architecture: str
) -> None:
    spec = TinySpec(architecture)
    base = write_tiny_gguf(tmp_path / "base.gguf", spec)
    library = Library(Database(paths.create().library_db), paths.adapters_dir)
    tensors: dict[str, np.ndarray] = {}
    for part, rows in (("q_proj", spec.hidden), ("k_proj", spec.heads_kv * spec.head_width)):
        tensors |= pair(4, spec.hidden, rows, f"{PREFIX}.1.self_attn.{part}")
    folder = write_peft(tmp_path / "x", tensors, target_modules=["q_proj", "k_proj"], lora_alpha=4)
    made = import_adapter(folder, library, load_registry(paths), ImportOptions(default_base=str(base))).adapter
    found = read_adapter(made.path)[0].targets
    for module, part, heads in (("attn_q", "q_proj", spec.heads), ("attn_k", "k_proj", spec.heads_kv)):
        raw = tensors[f"{PREFIX}.1.self_attn.{part}.lora_B.weight"]
        assert found[module].layers == (1,)
        assert np.array_equal(found[module].b[0], permute_for_base(raw[None], heads, architecture)[0])


def test_exporting_an_import_gives_equal_tensors(place: Place, tmp_path: Path) -> None:
    """Alpha is the rank on both sides, so that not even a factor is between them."""
    from safetensors.numpy import load_file

    tensors: dict[str, np.ndarray] = {}
    shapes = {t: (w.shape[2], v.shape[1]) for t, (w, v) in arrays().items()}
    for seed, (module, (d_in, d_out)) in enumerate(shapes.items()):
        for block in range(SPEC.blocks):
            name = f"{PREFIX}.{block}.{MODULES[module]}"
            tensors |= pair(4, d_in, d_out, name, seed * 10 + block)
    folder = write_peft(tmp_path / "in", tensors, lora_alpha=4, target_modules="all-linear")
    made = place.take(folder).adapter
    assert made.name == "in"
    back = load_file(export_peft(made, place.registry, tmp_path / "out").folder / "adapter_model.safetensors")
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: (t.a, t.b) for name, t in tiny_lora(modules=tuple(MODULES)).targets.items()}


def test_half_precision_stays_half(place: Place, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in pair().items()}
    small = place.take(write_peft(tmp_path / "half", halves, lora_alpha=2)).adapter
    large = place.take(write_peft(tmp_path / "full", pair(), lora_alpha=2)).adapter
    assert {t.tensor_type.name for t in gguf.GGUFReader(small.path).tensors} == {"F16"}
    assert {t.tensor_type.name for t in gguf.GGUFReader(large.path).tensors} == {"F32"}


def test_ranks_that_differ_survive_the_file(place: Place, tmp_path: Path) -> None:
    tensors = {**pair(2), **pair(4, 64, 96, f"{PREFIX}.1.mlp.up_proj")}
    folder = write_peft(
        tmp_path / "x", tensors, target_modules=["down_proj", "up_proj"], rank_pattern={"down_proj": 2}, lora_alpha=4
    )
    made = place.take(folder).adapter
    deltas = lora_deltas(read_adapter(made.path)[0])
    for tensor, name, factor in (
        ("blk.0.ffn_down.weight", f"{PREFIX}.0.mlp.down_proj", 2.0),
        ("blk.1.ffn_up.weight", f"{PREFIX}.1.mlp.up_proj", 1.0),
    ):
        wanted = factor * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        assert np.allclose(deltas[tensor], wanted, atol=1e-5)


def test_names_are_free_or_refused(place: Place, tmp_path: Path) -> None:
    file, folder = foreign(tmp_path / "a.gguf"), write_peft(tmp_path / "a")
    place.take(file, name="mine")
    with pytest.raises(LibraryError, match="`mine` already"):
        place.take(folder, name="mine")
    with pytest.raises(LibraryError, match="cannot be an adapter's name"):
        place.take(folder, name="../mine")
    assert place.take(folder).adapter.name == "a"
    assert place.take(write_peft(tmp_path / "tune-v1.2", lora_alpha=1)).adapter.name == "tune-v1.2"
    assert place.take(foreign(tmp_path / "A.gguf", alpha=1)).adapter.name == "A-2"


def test_what_does_not_fit_leaves_nothing(place: Place, tmp_path: Path) -> None:
    wide = pair(4, 100)
    deep = pair(name=f"{PREFIX}.7.mlp.down_proj")
    cases: list[tuple[Path, type[LocalHyperError], str]] = [
        (write_peft(tmp_path / "wide", wide), AdapterError, "maps 100 to 64 in `ffn_down` of block 0, the base `tiny-"),
        (write_peft(tmp_path / "deep", deep), AdapterError, "block 7, the base `tiny-llama` has 2 blocks"),
        (tmp_path / "nothing.gguf", AdapterError, "does not exist"),
        (place.tiny, AdapterError, "is no LoRA adapter"),
        (tmp_path, AdapterError, "is no PEFT adapter"),
    ]
    for path, kind, words in cases:
        with pytest.raises(kind, match=words):
            place.take(path)
    assert place.library.list() == ()
    assert [path.name for path in place.paths.adapters_dir.iterdir()] == [".trash"]


def test_an_adapter_whose_base_is_not_here_is_refused(place: Place, tmp_path: Path) -> None:
    gone = read_base_info(write_tiny_gguf(tmp_path / "gone.gguf", TinySpec(rope_base=123.0)))
    write_adapter(tmp_path / "x.gguf", tiny_lora(), gone, AdapterMetadata(base_fingerprint=gone.fingerprint))
    with pytest.raises(ModelError, match="is not on this machine"):
        place.take(tmp_path / "x.gguf")
    with pytest.raises(AdapterError, match="made for another base model"):
        place.take(tmp_path / "x.gguf", base="tiny")
    assert place.take(tmp_path / "x.gguf", base=str(tmp_path / "gone.gguf")).adapter.rank == 3


def test_a_file_that_changes_meanwhile_is_not_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign(tmp_path / "a.gguf")

    def check_and_change(*_: object) -> None:
        foreign(path, alpha=9.0)

    monkeypatch.setattr("localhyper.adapter_import.check_adapter", check_and_change)
    with pytest.raises(AdapterError, match="changed while it was read"):
        place.take(path)
    assert [path.name for path in place.paths.adapters_dir.iterdir()] == [".trash"]


@pytest.mark.parametrize(("alpha", "factor"), [(0.0, 1.0), (8.0, 4.0)])
def test_alpha_is_read_as_llama_cpp_reads_it(place: Place, tmp_path: Path, alpha: float, factor: float) -> None:
    """0 means: as it is. The file stays the same; whoever reads its matrices gets the factor in b."""
    path = foreign(tmp_path / "x.gguf", alpha=alpha, rank=2)
    made = place.take(path).adapter
    got = read_adapter(made.path)[0].targets["ffn_down"].b[0]
    assert np.array_equal(got, np.float32(factor) * gguf.GGUFReader(path).tensors[1].data)
    assert export_peft(made, place.registry, tmp_path / "out").folder.is_dir()
