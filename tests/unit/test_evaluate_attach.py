"""The adapters that the suites use: made by the shipped pipeline from a real, tiny ONNX bundle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from localhyper.errors import Cancelled, HypernetworkError
from localhyper.evaluate import needle
from localhyper.evaluate.columns import attach_maker, make_document
from localhyper.gguf_adapter import read_adapter
from localhyper.hypernet import OnnxHypernetwork
from localhyper.progress import CancelToken
from tests.fakes import FakeEngine, fake_info
from tests.scripted_engine import ScriptedEngine
from tests.tiny_onnx import TinyBundle, write

TEXT = " ".join(f"word{number % 17}" for number in range(60))


def test_an_adapter_is_what_attach_makes_of_this_document(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("eval")
    network, engine = OnnxHypernetwork.load(write(root / "tiny.onnx", TinyBundle()), threads=1), ScriptedEngine()
    make = attach_maker(engine, network, 3, CancelToken())
    for name in ("one", "two", "other"):
        (root / name).mkdir()
    one, two = make(make_document("T", TEXT), root / "one"), make(make_document("T", TEXT), root / "two")
    other = make(make_document("T", TEXT + " and more"), root / "other")
    weights, metadata = read_adapter(one)
    assert one.is_relative_to(root / "one") and two.is_relative_to(root / "two")
    assert (metadata.source_tokens, metadata.hypernetwork_name, metadata.rank) == (60, "tiny", 3)
    assert metadata.source_sha256 == make_document("", TEXT).sha256
    assert np.array_equal(weights.targets["ffn_down"].a, read_adapter(two)[0].targets["ffn_down"].a)
    assert not np.array_equal(weights.targets["ffn_down"].a, read_adapter(other)[0].targets["ffn_down"].a)


def test_a_stop_reaches_the_pipeline(tmp_path_factory: pytest.TempPathFactory) -> None:
    root, cancel = tmp_path_factory.mktemp("eval"), CancelToken()
    network = OnnxHypernetwork.load(write(root / "tiny.onnx", TinyBundle()), threads=1)
    cancel.cancel()
    with pytest.raises(Cancelled):
        attach_maker(ScriptedEngine(), network, 3, cancel)(make_document("T", TEXT), root)


def test_needle_runs_from_text_to_reply_through_the_pipeline(tmp_path_factory: pytest.TempPathFactory) -> None:
    info = fake_info(blocks=4, hidden=8, ffn=12, context=1024)
    bundle = TinyBundle(fingerprint=info.fingerprint, chunk_tokens=64)
    network = OnnxHypernetwork.load(write(tmp_path_factory.mktemp("eval") / "tiny.onnx", bundle), threads=1)
    engine = FakeEngine(["no idea"], info=info, n_ctx=1024)
    result = needle.run(needle.NeedleOptions(tokens=200, cases=3, rank=4), engine, network)
    assert [scores.exact.value for scores in result.columns] == [0.0] * 4
    assert len(engine.encoded) >= 9  # three documents of 200 tokens in chunks of 64, each made once
    assert result.run.hypernetwork_sha256 == network.info.sha256
    assert engine.adapters == ()


def test_a_hypernetwork_for_another_base_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    network = OnnxHypernetwork.load(write(tmp_path_factory.mktemp("eval") / "tiny.onnx", TinyBundle()), threads=1)
    with pytest.raises(HypernetworkError):
        needle.run(needle.NeedleOptions(tokens=200, cases=2), FakeEngine(n_ctx=1024), network)


def test_a_long_document_answers_by_chunk_in_one_column_and_as_a_whole_in_the_other(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    info = fake_info(blocks=4, hidden=8, ffn=12, context=1024)
    bundle = TinyBundle(fingerprint=info.fingerprint, chunk_tokens=64)
    network = OnnxHypernetwork.load(write(tmp_path_factory.mktemp("eval") / "tiny.onnx", bundle), threads=1)
    engine = FakeEngine(lambda messages: " ".join(use.path.name for use in engine.adapters), info=info, n_ctx=1024)
    options = needle.NeedleOptions(tokens=200, cases=3, rank=4, columns=("adapter", "whole", "shuffled"))
    result = needle.run(options, engine, network)
    replies = {name: [case.reply for case in result.cases if case.column == name] for name in options.columns}
    assert all(reply[:-5].isdigit() for reply in replies["adapter"]), replies  # 00002.gguf
    assert all(reply.startswith("evaluated-") for reply in replies["whole"])
    assert len({case.attach for case in result.cases if case.case == 0 and case.column != "shuffled"}) == 1
    without = needle.run(replace(options, chunk_rank=0), engine, network)
    assert all(case.reply.startswith("evaluated-") for case in without.cases)
