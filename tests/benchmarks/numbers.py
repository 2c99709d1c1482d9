"""`python -m tests.benchmarks.numbers`: what f16, q8_0 and q5_0 change in the logits of a real adapter, against f32.

Attaches a sample document, exports the adapter in each type, and reads its questions with their answers, on the
quantized base model and on its float32 copy. A quantized base rounds its activations, so that the smallest change comes
out as a larger one: the row `f32 @ 1.000001` shows how large. Needs the default base model on this machine.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from localhyper.adapter_export import export_gguf
from localhyper.config import Config, with_value
from localhyper.demo import sample_path, sample_questions
from localhyper.engine import AdapterUse, ChatMessage, Engine, EngineConfig
from localhyper.errors import LocalHyperError
from localhyper.gguf_writer import Dtype
from localhyper.jobs import JobRequest
from localhyper.llama_engine import LlamaEngine
from localhyper.paths import get_paths
from localhyper.registry import load_registry
from localhyper.workbench import Workbench
from tests.parity.f32_base import write_f32_copy
from tests.tiny_gguf import FloatArray

SAMPLE = "harbour-office"
TYPES: tuple[Dtype, ...] = ("f32", "f16", "q8_0", "q5_0")
EXACT = EngineConfig(flash_attention=False, kv_type="f32")


def main() -> int:
    """Print the table; the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="localhyper-numbers-") as folder:
            _measure(Path(folder))
    except LocalHyperError as error:
        print(f"error: {error.message}", error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


def _measure(folder: Path) -> None:
    base = load_registry().find_base(Config().base.name)  # may lie in the user's home; what is made here does not
    config = with_value(Config(), "adapter.dtype", "f32")
    with Workbench(get_paths(folder).create(), config, base=str(base)) as bench:
        document = bench.read(JobRequest(source=str(sample_path(SAMPLE))))
        adapter = bench.made_whole(bench.attach(document, bench.options()).result.adapter)
    files = {dtype: export_gguf(adapter, folder / f"{dtype}.gguf", dtype) for dtype in TYPES}
    write_f32_copy(base, folder / "base-f32.gguf")
    print("| base | numbers | size, MB | largest change of a logit | RMS change ÷ RMS effect | same likeliest token |")
    print("|---|---|---|---|---|---|")
    for path, settings in ((base, EngineConfig()), (folder / "base-f32.gguf", EXACT)):
        with LlamaEngine.load(path, settings) as engine:
            _rows(engine, files)


def _rows(engine: LlamaEngine, files: Mapping[Dtype, Path]) -> None:
    plain, whole = _logits(engine, []), _logits(engine, [AdapterUse(files["f32"])])
    cases = {dtype: AdapterUse(files[dtype]) for dtype in TYPES[1:]}
    floor = AdapterUse(files["f32"], 1.000001)
    for name, use in (("f32 @ 1.000001", floor), *cases.items()):
        logits = _logits(engine, [use])
        change, size = logits - whole, use.path.stat().st_size / 1e6
        share = _rms(change) / _rms(whole - plain)
        same = np.mean(logits.argmax(-1) == whole.argmax(-1))
        print(
            f"| {engine.info.quantization} | {name} | {size:.2f} | {np.abs(change).max():.3f} "
            f"| {100 * share:.2f} % | {100 * same:.1f} % of {len(logits)} |"
        )


def _logits(engine: LlamaEngine, adapters: list[AdapterUse]) -> FloatArray:
    """Logits of all tokens of all questions and answers, each in a context of its own: float32 [tokens, vocabulary]."""
    engine.set_adapters(adapters)
    return np.concatenate(
        [engine.logits(_ids(engine, item.question, item.answer)) for item in sample_questions(SAMPLE)]
    )


def _ids(engine: Engine, question: str, answer: str) -> np.ndarray:
    return engine.tokenize(engine.render([ChatMessage("user", question)]) + answer, special=True)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


if __name__ == "__main__":
    sys.exit(main())
