"""Damaged and hostile bundle files: one clear line each, before onnxruntime sees them where possible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from localhyper.bundle import read_bundle
from localhyper.errors import HypernetworkError
from localhyper.hypernet import OnnxHypernetwork
from localhyper.onnx_wire import WireError, outline
from tests.tiny_onnx import TinyBundle, build, describe, write


def one_line(path: Path) -> str:
    """The message of the error that loading `path` must raise."""
    with pytest.raises(HypernetworkError) as caught:
        OnnxHypernetwork.load(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    assert not caught.value.message.endswith(".")
    return caught.value.message


def test_files_that_are_no_bundles(tmp_path: Path) -> None:
    assert "does not exist" in one_line(tmp_path / "none.onnx")
    assert "not a file" in one_line(tmp_path)
    path = tmp_path / "x.onnx"
    path.write_bytes(b"")
    assert "empty" in one_line(path)
    path.write_bytes(b"GIF89a not an onnx file at all" * 50)
    assert "not a readable ONNX file" in one_line(path)
    path.write_bytes(b"\xff" * 4096)
    assert "not a readable ONNX file" in one_line(path)
    model = build(TinyBundle())
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    assert "without a `localhyper` description" in one_line(path)
    model = build(TinyBundle())
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString())
    assert "no graph" in one_line(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "tiny.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for size in (1, 7, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        one_line(path)


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph"])
def test_weights_in_other_files_are_refused(tmp_path: Path, where: str) -> None:
    model = build(TinyBundle())
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    constant = helper.make_node("Constant", [], ["unused"], value=tensor)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(constant)
    else:
        branch = helper.make_graph([constant], "branch", [], [])
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    path = tmp_path / "external.onnx"
    path.write_bytes(model.SerializeToString())
    assert "keeps weights in other files" in one_line(path)


def test_a_location_without_the_external_flag_is_refused_too(tmp_path: Path) -> None:
    model = build(TinyBundle())
    model.graph.initializer[0].external_data.add(key="location", value="../other")
    path = tmp_path / "external.onnx"
    path.write_bytes(model.SerializeToString())
    assert "keeps weights in other files" in one_line(path)


BASE = describe(TinyBundle())["base"]
BAD_FIELDS: list[tuple[str, dict[str, object], str]] = [
    ("newer format", {"format": 99}, "bundle format 99"),
    ("format as text", {"format": "1"}, "`format` must be a whole number"),
    ("boolean number", {"chunk_tokens": True}, "`chunk_tokens`"),
    ("no tokens", {"chunk_tokens": 0}, "`chunk_tokens`"),
    ("huge chunk", {"chunk_tokens": 10**9}, "`chunk_tokens`"),
    ("negative cut", {"cut_tokens": -1}, "`cut_tokens`"),
    ("huge cut", {"cut_tokens": 10**9}, "`cut_tokens`"),
    ("negative rank", {"rank": -1}, "`rank`"),
    ("unknown kind", {"kind": "video"}, "one of document, task, image"),
    ("name as number", {"name": 3}, "`name` must be text"),
    ("long name", {"name": "x" * 500}, "`name` must be text of at most 200"),
    ("no base", {"base": None}, "`base` must be an object"),
    ("short fingerprint", {"base": {**BASE, "fingerprint": "abc"}}, "64 hex digits"),  # type: ignore[dict-item]
    ("many blocks", {"base": {**BASE, "block_count": 10**6}}, "`base.block_count`"),  # type: ignore[dict-item]
    ("tap too high", {"taps": [0, 99]}, "`taps`"),
    ("taps twice", {"taps": [2, 2]}, "`taps`"),
    ("taps down", {"taps": [2, 0]}, "`taps`"),
    ("tap as text", {"taps": ["0"]}, "`taps`"),
    ("no captures", {"taps": [], "ffn_blocks": []}, "at least one tap"),
    ("block too high", {"ffn_blocks": [4]}, "`ffn_blocks`"),
    ("no targets", {"targets": {}}, "at least one module"),
    ("target without blocks", {"targets": {"ffn_down": []}}, "at least one module"),
    ("target block too high", {"targets": {"ffn_down": [9]}}, "`targets.ffn_down`"),
    ("target name with a path", {"targets": {"../x": [1]}}, "module names"),
    ("card as list", {"card": []}, "`card` must be an object"),
    ("reads_prefix as number", {"reads_prefix": 1}, "`reads_prefix` must be true or false"),
    ("reads_examples as text", {"reads_examples": "yes"}, "`reads_examples` must be true or false"),
    ("prefix as list", {"prefix": []}, "`prefix` must be text"),
]


@pytest.mark.parametrize(("metadata", "message"), [row[1:] for row in BAD_FIELDS], ids=[row[0] for row in BAD_FIELDS])
def test_a_wrong_field_is_named(tmp_path: Path, metadata: dict[str, object], message: str) -> None:
    assert message in one_line(write(tmp_path / "bad.onnx", TinyBundle(metadata=metadata)))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "[" * 100_000, '"x"', "\udcff".encode("utf-8", "replace").decode()]
)
def test_a_description_that_is_no_object(tmp_path: Path, text: str) -> None:
    model = build(TinyBundle())
    helper.set_model_props(model, {"localhyper": text})
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    assert "description" in one_line(path)


def test_an_operator_nobody_knows_is_one_line(tmp_path: Path) -> None:
    model = build(TinyBundle())
    model.graph.node.append(helper.make_node("RunShell", ["ffn"], ["z"], domain="evil"))
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    assert "cannot be loaded" in one_line(path)


def test_deep_nesting_is_refused() -> None:
    graph = b""
    for _ in range(200):
        attribute = b"\x32" + _length(graph) + graph
        node = b"\x2a" + _length(attribute) + attribute
        graph = b"\x0a" + _length(node) + node
    with pytest.raises(WireError, match="nested"):
        outline(memoryview(b"\x3a" + _length(graph) + graph))


def _length(data: bytes) -> bytes:
    out, left = b"", len(data)
    while left > 0x7F:
        out, left = out + bytes([left & 0x7F | 0x80]), left >> 7
    return out + bytes([left])


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_flipped_byte_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    whole = bytearray(build(TinyBundle()).SerializeToString())
    whole[at % len(whole)] = value
    path = tmp_path_factory.mktemp("flip") / "x.onnx"
    path.write_bytes(bytes(whole))
    try:
        info = read_bundle(path)
    except HypernetworkError:
        return
    assert json.dumps(list(info.targets))
