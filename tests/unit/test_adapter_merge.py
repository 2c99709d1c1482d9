"""Several adapters as one: the sum, what a budget keeps, provenance, the text of all sources, what cannot be summed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.adapter_export import export_merged_gguf, export_merged_peft
from localhyper.adapter_merge import Merged, MergeSource, merge_adapters, store_merged
from localhyper.base_header import read_base_info
from localhyper.database import Database
from localhyper.errors import AdapterError, LibraryError
from localhyper.gguf_adapter import AdapterMetadata, read_adapter, read_metadata, write_adapter
from localhyper.library import AdapterInfo, Library, Passage
from localhyper.lora import TOKENS, LoraTarget, LoraWeights, Metric
from localhyper.paths import Paths
from localhyper.registry import load_registry
from tests.tiny_gguf import TinySpec, lora_deltas, tiny_lora, write_tiny_gguf


class Place:
    """A library over a tiny base model."""

    def __init__(self, root: Path, paths: Paths) -> None:
        self.paths = paths.create()
        self.base = read_base_info(write_tiny_gguf(self.paths.models_dir / "tiny.gguf"))
        self.library = Library(Database(self.paths.library_db), self.paths.adapters_dir)
        self.root = root

    def put(self, name: str, weights: LoraWeights, text: tuple[str, ...] = (), **row: object) -> AdapterInfo:
        """An adapter with a text of one passage each chunk."""
        key = hashlib.sha256(name.encode()).hexdigest()
        path = self.library.file_for(name, key)
        write_adapter(path, weights, self.base, AdapterMetadata(name=name), "f32")
        info = AdapterInfo(
            name, path, key, f"The {name}", "txt", "", "aa", "tiny-llama", self.base.fingerprint, "net", "cc",
            weights.rank, 1.0, 10, len(text), path.stat().st_size, "2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        starts = [sum(map(len, text[:number])) for number in range(len(text))]
        passages = [
            Passage(number, words, starts[number], starts[number] + len(words)) for number, words in enumerate(text)
        ]
        return self.library.add(replace(info, **row), passages)  # type: ignore[arg-type]

    def source(self, name: str, scale: float = 1.0) -> MergeSource:
        info = self.library.get(name)
        return MergeSource(info.name, info.path, scale, info)


@pytest.fixture
def place(tmp_path: Path, paths: Paths) -> Place:
    found = Place(tmp_path, paths)
    down = tiny_lora(rank=3)
    full = tiny_lora(rank=4, seed=2, modules=("ffn_down", "attn_q")).targets
    half = {name: LoraTarget((1,), target.a[1:], target.b[1:]) for name, target in full.items()}
    found.put("lease", down, ("The rent is due. ", "Notice takes a month."))
    found.put("rules", LoraWeights(half), ("No dogs in the yard.",))
    return found


def total(parts: list[tuple[LoraWeights, float]]) -> dict[str, np.ndarray]:
    wanted: dict[str, np.ndarray] = {}
    for weights, scale in parts:
        for name, delta in lora_deltas(weights, scale).items():
            wanted[name] = wanted.get(name, 0) + delta
    return wanted


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_the_sum_is_exact_where_the_budget_allows(place: Place, scale: float) -> None:
    sources = [place.source("lease"), place.source("rules", scale)]
    parts = [(read_adapter(source.path)[0], source.scale) for source in sources]
    for budget in (0, 7):
        merged = merge_adapters(sources, budget, base=place.base)
        assert (merged.full_rank, merged.energy_kept, merged.weights.rank) == (5, 1.0, 7)  # blocks of 3 and 7
        got, wanted = lora_deltas(merged.weights), total(parts)
        assert got.keys() == wanted.keys()
        assert all(np.allclose(got[name], wanted[name], atol=1e-5) for name in wanted)


def test_a_budget_keeps_the_best_and_says_how_much(place: Place) -> None:
    sources = [place.source("lease"), place.source("rules")]
    kept = [merge_adapters(sources, rank).energy_kept for rank in (1, 3, 4)]
    assert 0 < kept[0] < kept[1] < kept[2] < 1
    assert merge_adapters(sources, 5).energy_kept == 1.0, "blocks of ranks 3 and 7 share two budgets of 5"
    exact = lora_deltas(merge_adapters(sources, 0).weights)
    cut = lora_deltas(merge_adapters(sources, 3).weights)
    lost = sum(float(np.square(exact[name] - cut[name]).sum()) for name in exact)
    everything = sum(float(np.square(exact[name]).sum()) for name in exact)
    assert 1 - lost / everything == pytest.approx(kept[1], abs=1e-4)


def test_a_metric_is_used_where_it_fits(place: Place) -> None:
    """All weight on one input direction: that one is kept, whatever else goes."""
    sources = [place.source("lease"), place.source("rules")]
    basis = np.zeros((2, 96, 1), np.float32)
    basis[:, 5] = 1
    metric = Metric(basis, np.full((2, 1), 1e6, np.float32))
    exact = lora_deltas(merge_adapters(sources, 0).weights)["blk.1.ffn_down.weight"][:, 5]
    plain = lora_deltas(merge_adapters(sources, 1).weights)["blk.1.ffn_down.weight"][:, 5]
    measured = merge_adapters(sources, 1, metrics={"ffn_down": metric, "attn_k": metric})
    found = lora_deltas(measured.weights)["blk.1.ffn_down.weight"][:, 5]
    assert np.abs(found - exact).max() < 0.01 < np.abs(plain - exact).max()
    narrow = Metric(basis[:1], metric.excess[:1])
    assert (
        merge_adapters(sources, 1, metrics={"ffn_down": narrow}).energy_kept == merge_adapters(sources, 1).energy_kept
    )


def test_the_row_and_the_file_say_where_it_comes_from(place: Place) -> None:
    sources = [place.source("lease"), place.source("rules", -0.5)]
    merged = merge_adapters(sources, 0)
    made = store_merged(place.library, merged, sources, "both", "f32")
    assert (made.name, made.kind, made.title, made.tokens, made.chunks) == (
        "both",
        "merge",
        "The lease + The rules",
        20,
        3,
    )
    assert (made.hypernet_name, made.base_name, made.rank, made.usable) == ("net", "tiny-llama", 5, True)
    metadata = read_metadata(made.path)
    assert metadata.base_fingerprint == place.base.fingerprint
    assert json.loads(metadata.merged_from) == [
        {"name": source.name, "scale": source.scale, "sha256": hashlib.sha256(source.path.read_bytes()).hexdigest()}
        for source in sources
    ]
    assert [note.split(",")[0] for note in made.notes] == ["merged from `lease` at 1", "merged from `rules` at -0.5"]
    again = store_merged(place.library, merge_adapters(sources[::-1], 0), sources[::-1], "other", "f32")
    assert again == made, "the same sum is one row, whatever its order"
    with pytest.raises(LibraryError, match="`lease` already"):
        store_merged(place.library, merged, sources, "lease", "f16")


@pytest.mark.parametrize("values", [("", ""), (TOKENS, ""), (TOKENS, TOKENS)])
def test_a_sum_says_tokens_where_a_part_does(place: Place, values: tuple[str, str]) -> None:
    sources = [place.source("lease"), place.source("rules")]
    for source, said in zip(sources, values, strict=True):
        write_adapter(source.path, tiny_lora(rank=3), place.base, AdapterMetadata(values=said), "f32")
    made = store_merged(place.library, merge_adapters(sources, 0), sources, "both")
    assert read_metadata(made.path).values == max(values)


def test_quotes_find_the_text_of_every_source(place: Place) -> None:
    sources = [place.source("lease"), place.source("rules")]
    made = store_merged(place.library, merge_adapters(sources, 0), sources, "both")
    pieces = place.library.passages(made.id)
    text = "".join(piece.text for piece in pieces)
    assert text == "The rent is due. Notice takes a month.No dogs in the yard."
    assert all(text[piece.start : piece.end] == piece.text for piece in pieces)
    assert [piece.chunk for piece in pieces] == [0, 1, 2]
    assert made.document_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert place.library.search_passages("dogs", [made.id])[0].chunk == 2


def test_what_cannot_be_summed_is_one_line(place: Place, tmp_path: Path) -> None:
    other = read_base_info(write_tiny_gguf(tmp_path / "other.gguf", TinySpec(rope_base=500.0)))
    qwen = read_base_info(write_tiny_gguf(tmp_path / "qwen.gguf", TinySpec("qwen3")))
    files = {}
    for name, base in (("other", other), ("qwen", qwen)):
        files[name] = MergeSource(name, tmp_path / f"{name}-lora.gguf")
        write_adapter(files[name].path, tiny_lora(), base, AdapterMetadata(base_fingerprint=base.fingerprint))
    lease = place.source("lease")
    cases = {
        "different base models": [lease, files["other"]],
        "different architectures": [lease, files["qwen"]],
        "given twice": [lease, place.source("lease", 2.0)],
        "scale 0": [place.source("lease", 0.0)],
        "wanted 1 to 64": [],
        "not finite": [place.source("lease", 1e39)],
    }
    for words, sources in cases.items():
        with pytest.raises(AdapterError, match=words):
            merge_adapters(sources, 0)


def test_files_from_elsewhere_are_summed_when_their_shapes_agree(place: Place, tmp_path: Path) -> None:
    """A foreign file knows no fingerprint: architecture, shapes, and the base where it is here."""
    write_adapter(tmp_path / "x.gguf", tiny_lora(seed=9), place.base, AdapterMetadata(name="x"), "f32")
    sources = [place.source("lease"), MergeSource("x", tmp_path / "x.gguf")]
    merged = merge_adapters(sources, 0, base=place.base)
    made = store_merged(place.library, merged, sources, "mixed")
    assert (made.hypernet_name, made.tokens, made.title) == ("", 10, "The lease + x")
    wide = read_base_info(write_tiny_gguf(tmp_path / "wide.gguf", TinySpec(ffn=128)))
    write_adapter(tmp_path / "wide-lora.gguf", tiny_lora(TinySpec(ffn=128)), wide, AdapterMetadata())
    with pytest.raises(AdapterError, match="cannot merge `ffn_down`: widths"):
        merge_adapters([place.source("lease"), MergeSource("wide", tmp_path / "wide-lora.gguf")], 0)


def test_a_merge_is_exported_without_the_library(place: Place, tmp_path: Path) -> None:
    sources = [place.source("lease"), place.source("rules")]
    merged = merge_adapters(sources, 0)
    file = export_merged_gguf(merged, sources, tmp_path / "both.gguf", "q8_0")
    assert read_metadata(file).name == "both"
    assert "Q8_0" in {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    with pytest.raises(LibraryError, match="exists already"):
        export_merged_gguf(merged, sources, file, "f16")
    registry = load_registry(place.paths)
    folder = export_merged_peft(merged, sources, registry, tmp_path).folder
    assert folder == tmp_path / "merged-peft"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 7
    assert len(place.library.list()) == 2


def test_a_sum_wider_than_a_file_takes_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localhyper.adapter_merge.MAX_RANK", 6)
    with pytest.raises(AdapterError, match="the sum has rank 7"):
        merge_adapters([place.source("lease"), place.source("rules")], 0)


def test_one_adapter_at_a_strength_is_a_merge_too(place: Place) -> None:
    found: Merged = merge_adapters([place.source("lease", 0.25)], 0)
    before = read_adapter(place.source("lease").path)[0].targets["ffn_down"]
    assert np.array_equal(found.weights.targets["ffn_down"].b, before.b * np.float32(0.25))
