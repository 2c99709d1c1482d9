"""torch = llama.cpp for LoRA on every module of a block: rows trained on the torch base need no other order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")

from torch import Tensor  # noqa: E402

from localhyper.base_header import read_base_info  # noqa: E402
from localhyper.engine import AdapterUse, EngineConfig  # noqa: E402
from localhyper.export.lora_files import read_lora, write_lora, write_task_adapter  # noqa: E402
from localhyper.export.task_hypernetwork import TaskConfig, module_widths  # noqa: E402
from localhyper.export.task_objectives import block_adapter  # noqa: E402
from localhyper.export.text_to_lora import LoraPair  # noqa: E402
from localhyper.export.torch_base import TorchBase  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from tests.parity.task_ground import SPEC  # noqa: E402
from tests.tiny_gguf import write_tiny_gguf  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.native, pytest.mark.torch]

ALL = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TINY = TaskConfig(hidden=32, ffn=48, keys=16, blocks=4, taps=(1,), modules=ALL, rank=4, width=16, latent=16)


def random_pairs(config: TaskConfig, size: float) -> dict[str, LoraPair]:
    """Pairs without a task axis."""
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    for name in config.modules:
        inputs, outputs = module_widths(config)[name]
        shapes = (config.blocks, config.rank, inputs), (config.blocks, outputs, config.rank)
        pairs[name] = LoraPair(*(torch.randn(shape, generator=generator) * size for shape in shapes))
    return pairs


def compare(path: Path, config: TaskConfig, adapter: Path, ids: list[int], size: float) -> tuple[float, float]:
    """Largest difference of logits between torch and llama.cpp, and how far the adapter moved them."""
    pairs = random_pairs(config, size)
    write_task_adapter(adapter, "parity", pairs, config, read_base_info(path), "f32")
    base = TorchBase(path)
    lora = block_adapter(
        {name: LoraPair(pair.a[None], pair.b[None]) for name, pair in pairs.items()}, 2.0, torch.float32
    )
    with torch.no_grad():
        x = base.embed(torch.tensor([ids]))
        plain, adapted = (base.logits(base.run(x, 0, config.blocks, lora=given)[0])[0].numpy() for given in ({}, lora))
    with LlamaEngine.load(path, EngineConfig(n_ctx=256, flash_attention=False, kv_type="f32")) as engine:
        engine.set_adapters([AdapterUse(adapter)])
        got = engine.logits(np.array(ids, np.int32))
    return float(np.abs(got - adapted).max()), float(np.abs(adapted - plain).max())


def test_every_module_of_a_tiny_base(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "base.gguf", SPEC)
    difference, moved = compare(path, TINY, tmp_path / "adapter.gguf", list(range(3, 40)), 0.2)
    assert difference <= 1e-3 and moved > 0.5


@pytest.mark.slow
def test_queries_values_and_mlp_of_the_default_base(f32_model: Path, tmp_path: Path) -> None:
    config = TaskConfig(rank=4)
    difference, moved = compare(f32_model, config, tmp_path / "adapter.gguf", list(range(1000, 1040)), 0.02)
    assert difference <= 5e-2 and moved > 1.0


def test_one_document_stands_for_all_rows_and_several_have_their_own(tmp_path: Path) -> None:
    base = TorchBase(write_tiny_gguf(tmp_path / "base.gguf", SPEC))
    one, two = random_pairs(TINY, 0.2), {n: LoraPair(-p.a, p.b * 2) for n, p in random_pairs(TINY, 0.1).items()}
    both = {name: LoraPair(*(torch.stack(s) for s in zip(one[name], two[name], strict=True))) for name in one}
    ids = torch.arange(3, 43).view(4, 10)

    def run(pairs: dict[str, LoraPair], rows: Tensor) -> Tensor:
        lora = block_adapter(pairs, 2.0, torch.float32)
        with torch.no_grad():
            return base.run(base.embed(rows), 0, 4, lora=lora)[0]

    alone = {name: LoraPair(pair.a[None], pair.b[None]) for name, pair in one.items()}
    other = {name: LoraPair(pair.a[None], pair.b[None]) for name, pair in two.items()}
    together = run(both, ids)
    assert torch.allclose(together[:2], run(alone, ids[:2]), atol=1e-4)
    assert torch.allclose(together[2:], run(other, ids[2:]), atol=1e-4)
    assert not torch.allclose(together[2:], run(alone, ids[2:]), atol=1e-1)


def test_a_lora_file_gives_back_what_was_written(tmp_path: Path) -> None:
    pairs = random_pairs(TINY, 0.2)
    write_lora(tmp_path, "a task / with a name", pairs)
    found = read_lora(tmp_path / "a_task_with_a_name.safetensors", TINY)
    assert all(torch.equal(found[name].a, pairs[name].a) and torch.equal(found[name].b, pairs[name].b) for name in ALL)
