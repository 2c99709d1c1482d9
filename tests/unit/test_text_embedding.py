"""A description becomes a vector: by a tiny real embedder, or out of a file; whatever is wrong gets one clear line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from localhyper import text_embedding
from localhyper.bundle import EmbeddingSpec
from localhyper.description_tokens import tokenize
from localhyper.errors import Cancelled, ConfigError, LocalHyperError, ModelError
from localhyper.onnx_session import open_session, run_until_cancelled
from localhyper.progress import CancelToken
from localhyper.text_embedding import Embedded, Embedder, prepare_text, read_embedding
from tests.tiny_task import TinyEmbedder, state, write_embedder

SPEC = EmbeddingSpec(6, "owner/tiny-embedder", "first", full_stop=True)
SORT = [1, 3, 4, 5, 6, 11, 2]  # [CLS] sort the words alphabetically . [SEP]


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("Sort the words", "Sort the words."),
        ("  Sort the words.\n", "Sort the words."),
        ("Which one?", "Which one?"),
        ("Count to 3", "Count to 3"),
        ("Trier les mots français é", "Trier les mots français é."),
        ("並べ替え", "並べ替え."),
    ],
)
def test_a_full_stop_follows_a_last_letter_and_nothing_else(text: str, wanted: str) -> None:
    assert prepare_text(text, SPEC) == wanted
    assert prepare_text(text, EmbeddingSpec(6, prefix="Instruct: ")) == f"Instruct: {text.strip()}"


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_embedder_pools_the_states_that_its_graph_gives(tmp_path: Path, pooling: str) -> None:
    embedder = Embedder.open(write_embedder(tmp_path), threads=1)
    made = embedder.embed(" sort the words alphabetically", EmbeddingSpec(6, "m", pooling, full_stop=True), 512)
    states = state(TinyEmbedder(), SORT)
    wanted = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[pooling]
    assert made.vector.dtype == np.float32 and made.tokens == len(SORT) and not made.truncated
    np.testing.assert_allclose(made.vector, wanted, atol=1e-6)


def test_embedder_takes_graphs_with_fewer_inputs_another_output_and_half_precision(tmp_path: Path) -> None:
    tiny = TinyEmbedder(inputs=("input_ids", "attention_mask"), output="states", dtype=TensorProto.FLOAT16)
    made = Embedder.open(write_embedder(tmp_path, tiny), threads=1).embed("sort the words alphabetically.", SPEC, 512)
    np.testing.assert_allclose(made.vector, state(tiny, SORT)[0], atol=1e-2)


def test_control_tokens_in_a_description_are_letters(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    file = write_embedder(tmp_path) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.save(str(file))
    assert tokenizer.encode("sort [SEP] words", add_special_tokens=False).ids[1] == 2, "as it is read elsewhere"
    ids = tokenize(file, "sort [SEP] words", 512).ids
    assert ids[0] == 1 and ids[-1] == 2 and 2 not in ids[1:-1] and len(ids) > 4


def test_a_long_text_is_cut_and_the_tokenizers_own_limits_do_not_count(tmp_path: Path) -> None:
    embedder = Embedder.open(write_embedder(tmp_path), threads=1)  # its file says: cut after 4, pad to 64
    for words, tokens, truncated in ((3, 6, False), (13, 16, False), (14, 16, True), (10_000, 16, True)):
        made = embedder.embed("sort " * words, SPEC, 16)
        assert (made.tokens, made.truncated) == (tokens, truncated)
        assert np.isfinite(made.vector).all()


def refused(call: Callable[[], object], kind: type[LocalHyperError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in caught.value.message and caught.value.hint
    assert len(caught.value.message) < 700
    return caught.value.message


def embed(folder: Path, text: str = "sort the words alphabetically", max_tokens: int = 512) -> Embedded:
    return Embedder.open(folder, threads=1).embed(text, SPEC, max_tokens)


def test_embedder_folders_that_are_damaged_are_refused(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "good")
    model, tokenizer = folder / "onnx" / "model.onnx", folder / "tokenizer.json"
    good = {path: path.read_bytes() for path in (model, tokenizer)}

    def message(path: Path, data: bytes | None) -> str:
        path.unlink() if data is None else path.write_bytes(data)
        try:
            return refused(lambda: embed(folder))
        finally:
            path.write_bytes(good[path])

    assert "no .onnx file" in message(model, None)
    assert "0 bytes" in message(model, b"")
    assert "not a readable ONNX file" in message(model, b"\xff" * 300)
    assert "has no graph" in message(model, b"\x08\x08")
    assert "ONNX" in message(model, good[model][:200])
    assert "cannot be read" in message(tokenizer, None)
    for data in (b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"version": "1.0", "model": {"type": "Unheard"}}'):
        assert "tokenizer.json` is no tokenizer" in message(tokenizer, data)
    (folder / "second.onnx").write_bytes(good[model])
    assert "2 .onnx files" in refused(lambda: embed(folder))


def test_an_embedder_whose_weights_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path)
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    onnx.external_data_helper.convert_model_to_external_data(model, location="../../secret.bin", size_threshold=0)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    assert "in other files" in refused(lambda: embed(folder))


@pytest.mark.parametrize(
    "tiny,wanted",
    [
        (TinyEmbedder(inputs=("input_ids", "pixel_values")), "pixel_values"),
        (TinyEmbedder(dtype=TensorProto.INT32), "none of which is `last_hidden_state`"),
    ],
)
def test_graphs_of_other_models_are_refused(tmp_path: Path, tiny: TinyEmbedder, wanted: str) -> None:
    assert wanted in refused(lambda: embed(write_embedder(tmp_path, tiny)))


@pytest.mark.parametrize(
    "tiny,wanted",
    [
        (TinyEmbedder(embedding=5), "wanted [1, 7, 6]"),
        (TinyEmbedder(gain=float("nan")), "not finite"),
        (TinyEmbedder(gain=0.0), "zero"),
    ],
)
def test_vectors_that_no_hypernetwork_can_read_are_refused(tmp_path: Path, tiny: TinyEmbedder, wanted: str) -> None:
    assert wanted in refused(lambda: embed(write_embedder(tmp_path, tiny)))


def test_a_text_that_needs_more_memory_than_there_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_embedder(tmp_path)
    monkeypatch.setattr(text_embedding, "available_memory", lambda: 100_000_000)
    assert embed(folder, "sort " * 700, 512).tokens == 512  # 16 heads: 42 MB
    message = refused(lambda: embed(folder, "sort " * 10_000, 8192))
    assert "needs about 10.7 GB of memory for 8,192 tokens, 0.1 GB are left" in message
    for text, enough in (('{"num_attention_heads": 2}', False), ('{"num_attention_heads": 2.5}', True), ("[", True)):
        (folder / "config.json").write_text(text)
        monkeypatch.setattr(text_embedding, "available_memory", lambda: 4 * 2 * 2.5 * 1000**2)
        if enough:
            assert "GB" in refused(lambda: embed(folder, "sort " * 2000, 1000))
        else:
            assert embed(folder, "sort " * 2000, 900).tokens == 900


def test_a_stop_ends_the_model_and_its_tokenizer(tmp_path: Path) -> None:
    folder, cancel = write_embedder(tmp_path), CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        tokenize(folder / "tokenizer.json", "sort", 16, cancel)
    with pytest.raises(Cancelled):
        Embedder.open(folder, threads=1).embed("sort", SPEC, 16, cancel)


def test_an_error_of_onnxruntime_is_one_line_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_embedder(tmp_path)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"sort":3', '"sort":99999'))
    assert "cannot be run" in refused(lambda: embed(folder))
    assert capfd.readouterr() == ("", "")


def endless(path: Path) -> Path:
    """A model that counts for years."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    turns = numpy_helper.from_array(np.array(1 << 40, np.int64), "turns")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "start"], ["sum_out"], body=body)],
        "endless",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, [1])],
        [one, turns],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_stop_is_heard_while_a_model_runs(tmp_path: Path) -> None:
    session, cancel = open_session(endless(tmp_path / "m.onnx"), "model", ModelError, threads=1), CancelToken()
    timer = threading.Timer(0.2, cancel.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        run_until_cancelled(session, ["sum_out"], {"start": np.zeros(1, np.float32)}, cancel)
    timer.join()


@pytest.mark.parametrize("row", [False, True])
def test_a_vector_by_hand_is_an_array_or_a_list_in_a_row_or_not(tmp_path: Path, row: bool) -> None:
    values = [0.5, -1.0, 2.0, 0.0]
    np.save(tmp_path / "v.npy", np.array([values] if row else values, np.float64))
    (tmp_path / "v.json").write_text(json.dumps([values] if row else values))
    for name in ("v.npy", "v.json"):
        vector = read_embedding(tmp_path / name, 4)
        assert vector.dtype == np.float32 and vector.tolist() == values


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "[[1, 2], [3, 4]]", '["1", "2", "3", "4"]', "[1, 2, 3, true]",
        "[1, 2, 3, NaN]", "[1, 2, 3, Infinity]", "[1, 2, 3, 1e39]", f"[1, 2, 3, {10**400}]", "[0, 0, 0, 0]",
        "[" * 50_000, '{"a": [1, 2, 3, 4]}',
    ],
)  # fmt: skip
def test_files_without_such_a_vector_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(text)
    assert "must hold 4 numbers" in refused(lambda: read_embedding(path, 4), ConfigError)


def test_hostile_arrays_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    assert "must hold" in refused(lambda: read_embedding(path, 4), ConfigError)
    np.save(path, np.array(["a", "b", "c", "d"]))
    assert "must hold" in refused(lambda: read_embedding(path, 4), ConfigError)
    with path.open("wb") as file:
        np.savez(file, a=np.ones(4))
    assert "must hold" in refused(lambda: read_embedding(path, 4), ConfigError)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "must hold" in refused(lambda: read_embedding(path, 4), ConfigError)
    path.write_bytes(b"\x93NUMPY")
    assert "must hold" in refused(lambda: read_embedding(path, 4), ConfigError)
    path.write_bytes(bytes(1 << 24))
    assert "more than" in refused(lambda: read_embedding(path, 4), ConfigError)
    assert "does not exist" in refused(lambda: read_embedding(tmp_path / "none.npy", 4), ConfigError)
    assert "must hold" in refused(lambda: read_embedding(tmp_path, 4), ConfigError)
