"""Joining a bundle for wholes and one for single chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="onnx is in the [train] extra")

from localhyper.errors import HypernetworkError
from localhyper.export.companion import join, main
from localhyper.hypernet import OnnxHypernetwork
from tests.tiny_onnx import TinyBundle, write


def test_the_joined_bundle_is_the_old_one_with_the_other_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "whole.onnx", TinyBundle())
    chunk = write(tmp_path / "chunk.onnx", TinyBundle(gain=0.2, metadata={"name": "other"}))
    out = tmp_path / "pair" / "whole.onnx"
    assert main([str(whole), str(chunk), "--cut-tokens", "9", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    network = OnnxHypernetwork.load(out, threads=1)
    assert (network.info.name, network.alone.info.name) == ("tiny", "other")
    assert (network.info.cut_sizes(), network.alone.info.cut_sizes()) == ((9, 16), (16,))
    assert (out.parent / "chunk.onnx").read_bytes() == chunk.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([str(whole), str(tmp_path / "none.onnx"), "--out", str(out)])
    assert ended.value.code and "does not exist" in capsys.readouterr().err


def test_what_does_not_go_together_leaves_nothing(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.onnx", TinyBundle())
    other = write(tmp_path / "other.onnx", TinyBundle(chunk_tokens=8))
    out = tmp_path / "pair" / "whole.onnx"
    with pytest.raises(HypernetworkError, match="does not go with"):
        join(whole, other, out)
    with pytest.raises(HypernetworkError, match=r"chunks of 17 tokens, .* takes 1 to 16"):
        join(whole, write(tmp_path / "chunk.onnx"), out, 17)
    assert not out.parent.exists()
    with pytest.raises(HypernetworkError, match="would replace"):
        join(whole, other, tmp_path / "other.onnx")
