"""Adapters of strangers on their way in: damaged headers, absurd claims, random bytes: one line, nothing left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from localhyper.adapter_import import ImportOptions, import_adapter
from localhyper.base_header import read_base_info
from localhyper.database import Database
from localhyper.errors import AdapterError, LocalHyperError
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.library import Library
from localhyper.paths import Paths
from localhyper.registry import load_registry
from localhyper.safetensors_file import SafetensorsError, read_safetensors
from tests.peft_files import PREFIX, pair, raw_file, write_peft
from tests.tiny_gguf import down_pair, tiny_lora, write_raw_adapter, write_tiny_gguf

A, B = (f"{PREFIX}.0.mlp.down_proj.lora_{half}.weight" for half in "AB")


def row(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


DATA = b"\x00" * 16
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "eight bytes": (b"\x00" * 8, "8 bytes"),
    "header longer than the file": (b"\xff" * 16, "claims"),
    "header of two gigabytes": ((1 << 31).to_bytes(8, "little") + b"{}" + DATA, "claims"),
    "header of nothing": ((0).to_bytes(8, "little") + b"{}" + DATA, "claims 0"),
    "no JSON": ((4).to_bytes(8, "little") + b"{{{{" + DATA, "no JSON"),
    "no UTF-8": ((4).to_bytes(8, "little") + b"\xff\xfe{}" + DATA, "no JSON"),
    "a list": (raw_file([], DATA), "no JSON object"),  # type: ignore[arg-type]
    "deep": ((400_000).to_bytes(8, "little") + b"[" * 400_000, "no JSON"),
    "a number of many digits": ((6_000).to_bytes(8, "little") + b'{"x":' + b"9" * 5_995, "no JSON"),
    "twice": (
        (len(b'{"x":1,"x":2}')).to_bytes(8, "little") + b'{"x":1,"x":2}' + DATA,
        "twice",
    ),
    "too many tensors": (raw_file({f"t{number}": 0 for number in range(40_000)}, DATA), "40000 tensors"),
    "row is a number": (raw_file({"x": 1}, DATA), "not described"),
    "row lacks offsets": (raw_file({"x": {"dtype": "F32", "shape": [2]}}, DATA), "not described"),
    "unknown dtype": (raw_file({"x": row("F8_E4M3")}, DATA), "stored as `F8_E4M3`"),
    "dtype of a list": (raw_file({"x": row(["F32"])}, DATA), "stored as"),
    "negative shape": (raw_file({"x": row(shape=(-2, -2))}, DATA), "no sound shape"),
    "fractional shape": (raw_file({"x": row(shape=(2.0, 2))}, DATA), "no sound shape"),
    "boolean shape": (raw_file({"x": row(shape=(True, 4))}, DATA), "no sound shape"),
    "shape beyond any file": (raw_file({"x": row(shape=(1 << 40, 1 << 40))}, DATA), "no sound shape"),
    "many dimensions": (raw_file({"x": row(shape=[1] * 1000)}, DATA), "no sound shape"),
    "shape and bytes differ": (raw_file({"x": row(shape=(3, 2))}, DATA), r"takes 16 bytes"),
    "three offsets": (raw_file({"x": row(offsets=(0, 16, 32))}, DATA), "no sound shape"),
    "backwards": (raw_file({"x": row(offsets=(16, 0))}, DATA), "takes -16 bytes"),
    "overlap": (raw_file({"x": row(), "y": row()}, DATA), "begins at byte 0 of the data, wanted 16"),
    "gap": (raw_file({"x": row(offsets=(4, 20))}, b"\x00" * 20), "begins at byte 4"),
    "cut off": (raw_file({"x": row()}, DATA[:-1]), "cut off"),
    "more than it says": (raw_file({"x": row()}, DATA + b"\x00"), "cut off or damaged"),
    "long name": (raw_file({"x" * 600: row()}, DATA), "600 characters"),
    "metadata is a list": (raw_file({"__metadata__": [], "x": row()}, DATA), "not made of texts"),
    "metadata holds numbers": (raw_file({"__metadata__": {"a": 1}, "x": row()}, DATA), "not made of texts"),
    "name that steers a terminal": (raw_file({"\x1b[2J\nx": row("X")}, DATA), r"tensor `\?\[2J\?x`"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_tensor_file_is_one_line(tmp_path: Path, case: str) -> None:
    data, words = FILES[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorsError, match=words) as caught:
        read_safetensors(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_sparse_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(SafetensorsError, match="wanted 9 to"):
        read_safetensors(path)


class Door:
    """The way in, with one base model."""

    def __init__(self, root: Path, paths: Paths) -> None:
        self.base = write_tiny_gguf(root / "base.gguf")
        self.paths = paths.create()
        self.library = Library(Database(self.paths.library_db), self.paths.adapters_dir)
        self.registry = load_registry(self.paths)

    def take(self, path: Path) -> None:
        import_adapter(path, self.library, self.registry, ImportOptions(default_base=str(self.base)))

    @property
    def clean(self) -> bool:
        """Nothing in the library, and no file."""
        return not self.library.list() and [p.name for p in self.paths.adapters_dir.iterdir()] == [".trash"]


@pytest.fixture
def door(tmp_path: Path, paths: Paths) -> Door:
    return Door(tmp_path, paths)


def refused(door: Door, path: Path, words: str) -> None:
    with pytest.raises(LocalHyperError, match=words) as caught:
        door.take(path)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    assert door.clean


def keyed(path: Path, base: Path, add: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A sound adapter with keys of its own."""
    return write_raw_adapter(path, down_pair(2), add)


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (lambda w: w.add_uint64("localhyper.source_tokens", (1 << 64) - 1), "impossible numbers"),
        (lambda w: w.add_float64("localhyper.energy_kept", float("nan")), "impossible numbers"),
        (lambda w: w.add_float64("localhyper.energy_kept", -1.0), "impossible numbers"),
        (lambda w: w.add_string("localhyper.source_tokens", "many"), r"wrong `localhyper\.source_tokens`"),
        (lambda w: w.add_string("localhyper.base_fingerprint", "x\x1b[2J"), "not on this machine"),
        (lambda w: w.add_array("adapter.alora.invocation_tokens", [1]), "activated LoRA"),
        (lambda w: w.add_float32("adapter.lora.alpha", float("inf")), "wanted a finite float32"),
    ],
)
def test_absurd_keys_of_a_gguf_adapter_are_refused(
    door: Door, tmp_path: Path, add: Callable[[gguf.GGUFWriter], None], words: str
) -> None:
    refused(door, keyed(tmp_path / "x.gguf", door.base, add), words)


def test_texts_that_steer_a_terminal_or_a_path_are_made_harmless(door: Door, tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_string("localhyper.name", "../../evil")
        writer.add_string("localhyper.source_title", "\x1b]0;title\x07" + "x" * 5000)
        writer.add_string("localhyper.source_kind", "pdf\n\x1b[2J" + "y" * 5000)
        writer.add_string("localhyper.hypernetwork_sha256", "z" * 5000)
        writer.add_string("localhyper.made_at", "\u202e" * 500)

    door.take(keyed(tmp_path / "x.gguf", door.base, add))
    (made,) = door.library.list()
    assert made.path.parent == door.paths.adapters_dir
    assert made.name == "evil"
    for text in (made.title, made.kind, made.hypernet_sha256, made.made_at, made.origin, *made.notes):
        assert text.isprintable()
        assert len(text) <= 1000
    assert len(made.kind) <= 40
    json.dumps([made.energy_kept, made.tokens], allow_nan=False)


@pytest.mark.parametrize("value", ["-5", "1e400", "99999999999999999999", "x", "nan"])
@pytest.mark.parametrize("name", ["source_tokens", "energy_kept"])
def test_absurd_texts_in_a_peft_header_are_refused(door: Door, tmp_path: Path, name: str, value: str) -> None:
    from safetensors.numpy import save

    folder = write_peft(tmp_path / "x")
    (folder / "adapter_model.safetensors").write_bytes(save(pair(), {f"localhyper.{name}": value}))
    refused(door, folder, "impossible numbers|has a wrong")


def test_a_name_out_of_the_folder_in_a_peft_header_is_harmless(door: Door, tmp_path: Path) -> None:
    from safetensors.numpy import save

    folder = write_peft(tmp_path / "x")
    texts = {"localhyper.name": "/etc/passwd", "localhyper.source_kind": "\x1b[31m" * 100}
    (folder / "adapter_model.safetensors").write_bytes(save(pair(), texts))
    door.take(folder)
    (made,) = door.library.list()
    assert made.path.parent == door.paths.adapters_dir
    assert made.kind.isprintable()


def test_things_that_are_no_files_are_refused(door: Door, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(door, tmp_path / "pipe.gguf", "does not exist")
    folder = write_peft(tmp_path / "x")
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")
    refused(door, folder, "has no `adapter_model")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")
    refused(door, folder, "has no `adapter_model|cannot be read")
    refused(door, Path("/dev/null"), "does not exist|no LoRA|unusable")


def damaged(data: bytes, random: np.random.Generator, within: int) -> bytes:
    found = bytearray(data)
    for place in random.integers(0, min(within, len(found)), 1 + random.integers(0, 4)):
        found[place] = random.integers(0, 256)
    return bytes(found[: random.integers(1, len(found) + 1)] if random.random() < 0.2 else found)


def test_random_damage_of_a_peft_folder_ends_in_a_row_or_one_line(door: Door, tmp_path: Path) -> None:
    folder, random = write_peft(tmp_path / "x"), np.random.default_rng(7)
    files = {file: file.read_bytes() for file in folder.iterdir()}
    refusals = 0
    for number in range(150):
        for file, data in files.items():
            other = file.name.endswith("json") == bool(number % 2)
            file.write_bytes(damaged(data, random, 400) if other else data)
        try:
            door.take(folder)
        except LocalHyperError as error:
            refusals += 1
            assert error.message.isprintable()
    assert refusals > 60


def test_random_damage_of_a_gguf_adapter_ends_in_a_row_or_one_line(door: Door, tmp_path: Path) -> None:
    path, random = tmp_path / "x.gguf", np.random.default_rng(8)
    base = read_base_info(door.base)
    write_adapter(path, tiny_lora(), base, AdapterMetadata(name="x", base_fingerprint=base.fingerprint))
    data = path.read_bytes()
    refusals = 0
    for _ in range(150):
        path.write_bytes(damaged(data, random, 2500))
        try:
            door.take(path)
        except LocalHyperError as error:
            refusals += 1
            assert error.message.isprintable()
    assert refusals > 20


def test_a_full_disk_leaves_neither_row_nor_file(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = read_base_info(door.base)
    write_adapter(tmp_path / "x.gguf", tiny_lora(), base, AdapterMetadata(name="x"))
    folder = write_peft(tmp_path / "x")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for path in (tmp_path / "x.gguf", folder):
        refused(door, path, "No space left")
    with pytest.raises(AdapterError):
        door.take(tmp_path / "nothing.gguf")
