"""The output matrix of real little files: tied and of its own, in blocks and at once, and files that have none."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper import output_head
from localhyper.errors import ModelError
from localhyper.output_head import OutputHead

RNG = np.random.default_rng(1)
HIDDEN, VOCABULARY = 64, 300
ROWS = RNG.normal(0.3, 2.0, (VOCABULARY, HIDDEN)).astype(np.float32)


def write(path: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32, **tensors: np.ndarray) -> Path:
    """A file with nothing but tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, array in tensors.items():
        data = array if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(array, kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def normalised(rows: np.ndarray) -> np.ndarray:
    """Mean 0, variance 1."""
    rows = rows - rows.mean(1, keepdims=True)
    return np.asarray(rows / np.sqrt(rows.var(1, keepdims=True) + 1e-5))


@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("rows", [64, 1000])
def test_residuals_are_those_of_the_whole_matrix_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, rows: int
) -> None:
    monkeypatch.setattr(output_head, "ROWS", rows)
    monkeypatch.setattr(output_head, "KEPT_BYTES", kept)
    head = OutputHead.open(write(tmp_path / "m.gguf", token_embd=ROWS))
    likely = RNG.dirichlet(np.ones(VOCABULARY), 5).astype(np.float32)
    wanted = np.array([0, 63, 64, 299, 7], np.int32)
    lacking = np.eye(VOCABULARY, dtype=np.float32)[wanted] - likely
    before = likely.copy()
    for _ in range(2):
        np.testing.assert_allclose(head.missing(wanted, likely), lacking @ normalised(ROWS), rtol=1e-4, atol=1e-4)
    assert np.array_equal(before, likely)
    assert (head.hidden, head.vocabulary) == (HIDDEN, VOCABULARY)


def test_a_matrix_of_its_own_goes_before_the_embeddings(tmp_path: Path) -> None:
    head = OutputHead.open(write(tmp_path / "m.gguf", token_embd=ROWS, output=ROWS[::-1].copy()))
    ((start, rows),) = head.blocks()
    assert start == 0 and np.allclose(rows, normalised(ROWS[::-1]), atol=1e-4)


def test_turned_rows_are_as_long_as_before_and_told_apart(tmp_path: Path) -> None:
    common = ROWS + 5 * RNG.normal(size=HIDDEN).astype(np.float32)  # a direction that all tokens share
    head = OutputHead.open(write(tmp_path / "m.gguf", token_embd=common))
    rows, turn = normalised(common), head.turn(0.3)
    turned = rows @ turn
    assert np.isclose(np.square(turned).sum(), np.square(rows).sum(), rtol=1e-3)

    def alike(x: np.ndarray) -> float:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return float((unit @ unit.T).mean())

    assert alike(turned) < alike(rows) / 2
    np.testing.assert_allclose(turn, turn.T, atol=1e-4)


def test_quantized_rows_are_read_as_gguf_dequantizes_them(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    head = OutputHead.open(write(tmp_path / "m.gguf", kind, token_embd=ROWS))
    ((_, rows),) = head.blocks()
    wanted = gguf.quants.dequantize(gguf.quants.quantize(ROWS, kind), kind)
    np.testing.assert_allclose(rows, normalised(wanted), atol=1e-5)


def test_files_without_a_usable_matrix_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no output matrix"):
        OutputHead.open(write(tmp_path / "a.gguf", other=ROWS))
    with pytest.raises(ModelError, match="is unusable"):
        OutputHead.open(tmp_path / "none.gguf")
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="is unusable"):
        OutputHead.open(tmp_path / "junk.gguf")
    bad = ROWS.copy()
    bad[3, 3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        OutputHead.open(write(tmp_path / "nan.gguf", token_embd=bad)).turn(0.3)
