"""Figures as the Markdown page `docs/benchmarks.md`. Knows no measurement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from localhyper.bundle import BundleInfo
from localhyper.engine import BaseModelInfo
from tests.benchmarks.figures import Comparison, Figures, SizeRow, Timing
from tests.benchmarks.machine import Machine

BUSY = 0.5  # load per core from which a run was not alone


def page(
    figures: Figures, machine: Machine, base: BaseModelInfo, bundle: BundleInfo, rounds: int, command: str, day: str
) -> str:
    """The whole page."""
    parts = [
        "# Benchmarks",
        f"Written by `{command}` on {day}; do not edit. Both sides of every ratio were measured in turns in this one "
        f"run ({rounds} rounds after one to warm up); a ratio is median over median, with the lowest and highest ratio "
        "of a single round in brackets. What was compared with what: [below](#what-is-measured).",
        _machine(machine, base, bundle),
        "## Ratios",
        _table(("what", "ratio", "first", "second", "wanted"), map(_comparison, figures.comparisons)),
        "## Times",
        _table(("what", "median", "lowest to highest", "wanted"), map(_timing, figures.timings)),
        "## Where the time of an attach goes",
        _stages(figures.stages),
        "## Size of a document's adapters",
        _table(
            ("document tokens", "chunks", "their files", "the whole: rank", "file", "energy kept"),
            map(_size, figures.sizes),
        ),
        *(f"Note: {note}." for note in figures.notes),
        _EXPLANATION,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(machine: Machine, base: BaseModelInfo, bundle: BundleInfo) -> str:
    lines = [
        f"- {machine.processor}; cores: {machine.cores} physical, {machine.logical_cores} logical; "
        f"{machine.memory_gib:.0f} GiB memory, {machine.system}; CPU only",
        "- " + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        f"- base model {base.name}, {base.quantization}, {base.parameter_count / 1e6:.0f} M parameters",
        f"- hypernetwork {bundle.name} ({bundle.sha256[:12]}), chunks of {bundle.cut_sizes()[0]} tokens",
        f"- load average at the start {machine.load:.1f}"
        + (": **other work was running, so times are too long** and ratios rough" if _busy(machine) else ""),
    ]
    return "\n".join(lines)


def _busy(machine: Machine) -> bool:
    return machine.load > BUSY * machine.cores


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _comparison(made: Comparison) -> list[str]:
    low, high = made.spread
    sides = [
        f"{name} {_number(median(values))} {made.unit}"
        for name, values in ((made.first, made.first_values), (made.second, made.second_values))
    ]
    return [made.title, f"**{made.ratio:.2f}** [{low:.2f}, {high:.2f}]", *sides, made.goal]


def _timing(made: Timing) -> list[str]:
    spread = f"{_number(min(made.values))} to {_number(max(made.values))} {made.unit}"
    return [made.title, f"**{_number(median(made.values))} {made.unit}**", spread, made.goal]


def _size(row: SizeRow) -> list[str]:
    chunks, whole = (f"{size / 1e6:.2f} MB" for size in (row.chunk_bytes, row.size_bytes))
    return [str(row.tokens), str(row.chunks), chunks, str(row.rank), whole, f"{row.energy_kept:.3f}"]


def _stages(stages: dict[int, dict[str, float]]) -> str:
    names = list(next(iter(stages.values()), {}))
    rows = [[str(tokens), *(f"{by_stage[name]:.3f} s" for name in names)] for tokens, by_stage in stages.items()]
    return _table(("document tokens", *names), rows)


def _number(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


_EXPLANATION = """## What is measured

- **attach ÷ plain prefill**: a document from text to stored adapters, those of its chunks with their search keys
  (chunk, encode, hypernetwork, whiten, cut to rank, write), over llama.cpp's prefill of one prompt with as many tokens,
  from an empty cache, same threads.
- **its adapter as a whole**: what the first export, merge or `--whole` adds: the text read once more, in longer chunks,
  summed, cut to the rank budget and written.
- **first token**: from the question to the first token, from an empty cache. In the one case the prompt is document and
  question, in the other the question alone: its chunk is looked for, that adapter loaded and set (llama.cpp's new graph
  after the change included).
- **check, load and set**: header and shape checks, llama.cpp's load, making the adapter act; a fresh file each time.
- **decode**: tokens a second after the first token, sampled replies to the same prompts, prefill not counted.
- **hypernetwork**: the bundle in onnxruntime over the same sizes in torch, one full chunk, same number of threads.
- **energy kept**: share of the generated update's squared norm that the rank budget keeps, in the input metric."""
