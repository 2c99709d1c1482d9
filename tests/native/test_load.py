"""Loading and closing: what is refused before native code sees it, and that nothing is ever printed."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localhyper import llama_engine
from localhyper.engine import AdapterUse, CaptureSpec, ChatMessage, EngineConfig, Sampling
from localhyper.errors import ConfigError, ModelError
from localhyper.gguf_adapter import AdapterMetadata, write_adapter
from localhyper.llama_engine import LlamaEngine
from localhyper.llama_native import NativeModel, system_info
from tests.tiny_gguf import TinySpec, tiny_lora, write_tiny_gguf

pytestmark = pytest.mark.native
CONFIG = EngineConfig(n_ctx=256, threads=1, threads_batch=1)


def test_nothing_is_written_to_the_file_descriptors(
    tiny_model_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with LlamaEngine.load(tiny_model_path, CONFIG) as engine:
        ids = engine.tokenize("some text")
        engine.encode(ids, CaptureSpec((0, 1)))
        list(engine.generate([ChatMessage("user", "hi")], Sampling(max_tokens=3)))
        path = tmp_path / "a.gguf"
        write_adapter(path, tiny_lora(), engine.info, AdapterMetadata("a"))
        engine.set_adapters([AdapterUse(path)])
        engine.logits(ids)
    assert capfd.readouterr() == ("", "")


def test_native_lines_go_to_the_logger(tiny_model_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "localhyper.llama"), LlamaEngine.load(tiny_model_path, CONFIG) as engine:
        engine.logits(engine.tokenize("x"))
    assert any("tiny-llama" in record.message for record in caplog.records)
    assert {record.name for record in caplog.records} == {"localhyper.llama"}


def test_a_native_error_is_an_error_in_the_log(
    tiny_model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = NativeModel(tiny_model_path, 0)
    assert not model.load_adapter(tmp_path / "none.gguf")
    model.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "none.gguf" in caplog.records[0].message


def test_a_native_error_does_not_reach_stderr_where_no_logging_is_set_up(tiny_model_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from localhyper.llama_native import NativeModel;"
        "model = NativeModel(Path(sys.argv[1]), 0); assert not model.load_adapter(Path('none.gguf')); model.close()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tiny_model_path)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_ctrl_c_inside_a_log_line_is_not_lost(tiny_model_path: Path) -> None:
    class Interrupting(logging.Handler):
        left = 1

        def emit(self, record: logging.LogRecord) -> None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    logger, handler = logging.getLogger("localhyper.llama"), Interrupting()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(KeyboardInterrupt):
            LlamaEngine.load(tiny_model_path, CONFIG)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_closing_twice_is_harmless_and_a_closed_engine_says_so(tiny_model_path: Path) -> None:
    engine = LlamaEngine.load(tiny_model_path, CONFIG)
    engine.logits(engine.tokenize("x"))
    engine.close()
    engine.close()
    for use in (
        lambda: engine.tokenize("x"),
        lambda: engine.logits(np.zeros(1, np.int32)),
        lambda: engine.encode(np.zeros(1, np.int32), CaptureSpec((0,))),
        lambda: engine.generate([ChatMessage("user", "x")], Sampling()),
        lambda: engine.set_adapters([]),
    ):
        with pytest.raises(ModelError, match="is closed"):
            use()


def test_a_reply_does_not_outlive_its_engine(tiny_model_path: Path) -> None:
    engine = LlamaEngine.load(tiny_model_path, CONFIG)
    pieces = engine.generate([ChatMessage("user", "x")], Sampling(max_tokens=200, temperature=1.0))
    next(pieces)
    engine.close()
    with pytest.raises(RuntimeError):
        next(pieces)


def test_two_engines_live_side_by_side(tiny_model_path: Path, tmp_path: Path) -> None:
    other_path = write_tiny_gguf(tmp_path / "other.gguf", TinySpec(seed=5))
    with LlamaEngine.load(tiny_model_path, CONFIG) as one, LlamaEngine.load(other_path, CONFIG) as two:
        ids = one.tokenize("abc")
        first = one.logits(ids)
        assert not np.allclose(first, two.logits(ids))
        assert np.array_equal(one.logits(ids), first)


def test_too_little_memory_is_said_before_loading(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_engine, "available_memory", lambda: 50_000_000)
    with pytest.raises(ModelError, match="MB are free") as caught:
        LlamaEngine.load(tiny_model_path, CONFIG)
    assert "n_ctx" in caught.value.hint


def test_an_unknown_amount_of_memory_is_no_obstacle(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_engine, "available_memory", lambda: None)
    LlamaEngine.load(tiny_model_path, CONFIG).close()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("n_ctx", EngineConfig(n_ctx=-1)),
        ("n_ctx", EngineConfig(n_ctx=10)),
        ("kv_type", EngineConfig(kv_type="q2")),
        ("threads", EngineConfig(threads=-1)),
        ("threads_batch", EngineConfig(threads_batch=10000)),
        ("gpu_layers", EngineConfig(gpu_layers=-2)),
    ],
)
def test_impossible_configurations_are_refused(tiny_model_path: Path, name: str, config: EngineConfig) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` is"):
        LlamaEngine.load(tiny_model_path, config)


def test_the_window_is_the_models_unless_smaller_is_asked_for(tiny_model_path: Path) -> None:
    for asked, got in ((0, 1024), (256, 256), (300, 512), (100_000, 1024)):
        with LlamaEngine.load(tiny_model_path, replace(CONFIG, n_ctx=asked)) as engine:
            assert engine.n_ctx == got
            engine.logits(engine.tokenize("x"))


def test_damaged_files_are_refused_without_native_code(tiny_model_path: Path, tmp_path: Path) -> None:
    data = tiny_model_path.read_bytes()
    for name, content in (
        ("cut.gguf", data[:-100]),
        ("empty.gguf", b""),
        ("text.gguf", b"hello world, this is no model"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            LlamaEngine.load(tmp_path / name, CONFIG)


def test_system_info_tells_the_build() -> None:
    info = system_info()
    assert "CPU" in str(info["features"])
    assert isinstance(info["gpu_offload"], bool)
    assert info["mmap"] is True
