"""Text-to-LoRA runs that adapt every module: torch and llama.cpp agree, whatever order of rows the GGUF base has.

The reference runs adapt queries and values only, on bases whose queries are reordered. Keys are reordered by another
number of heads, and Gemma's files are not reordered at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("onnxscript", reason="onnxscript is in the [train] extra")
pytest.importorskip("onnxruntime", reason="onnxruntime is in the [cpu] extra")
pytest.importorskip("yaml", reason="pyyaml is in the [train] extra")
transformers = pytest.importorskip("transformers", reason="transformers is in the [dev] extra")

from localhyper.base_header import BaseHeader, read_base_header  # noqa: E402
from localhyper.engine import AdapterUse, EngineConfig  # noqa: E402
from localhyper.export.import_checkpoint import main as import_checkpoint  # noqa: E402
from localhyper.export.published import TARGETS  # noqa: E402
from localhyper.export.text_to_lora import TextToLora, TextToLoraConfig, scaled  # noqa: E402
from localhyper.gguf_adapter import AdapterMetadata, write_adapter  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from tests.parity.gguf_base import FIXTURES, write_reference_base  # noqa: E402
from tests.published_files import write_checkpoint  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.torch, pytest.mark.native, pytest.mark.slow]

CLASSES = {"base_llama": "Llama", "base_mistral": "Mistral", "base_gemma2": "Gemma2"}
# ggml computes Gemma's GELU through a table in half precision.
LOGITS = {"base_llama": 1e-4, "base_mistral": 1e-4, "base_gemma2": 1e-2}
# As a set may be iterated: not sorted, keys before queries.
MODULES = ("k_proj", "down_proj", "v_proj", "q_proj", "up_proj", "o_proj", "gate_proj")
RANK, ALPHA, EMBEDDING = 3, 6, 12
IDS = np.array([5, 40, 9, 200, 31, 77, 8, 150], np.int32)


@dataclass(frozen=True)
class Case:
    """A base model, a run on it that adapts everything, and one description's vector."""

    base: str
    header: BaseHeader
    net: TextToLora
    bundle: OnnxHypernetwork
    vector: NDArray[np.float32]


def write_run(folder: Path, net: TextToLora, base: str) -> Path:
    """A run's folder as its trainer leaves it; lists of modules in an order of their own."""
    tensors = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    write_checkpoint(folder / "hypermod.pt", tensors, {})
    args = {"model_dir": base, "training_task": "sft", "encoder_type": "linear", "emb_model": "owner/model"}
    (folder / "args.yaml").write_text(
        "".join(f"{key}: {value}\n" for key, value in args.items()) + "save_freq: 1e100\n"
    )
    lora = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": True, "target_modules": sorted(MODULES)}
    (folder / "adapter_config.json").write_text(json.dumps({**lora, "base_model_name_or_path": base}))
    return folder


@pytest.fixture(scope="module", params=list(CLASSES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    base, folder = str(request.param), tmp_path_factory.mktemp(request.param)
    header = read_base_header(write_reference_base(base, folder / "base.gguf"))
    shapes = [header.shapes[f"blk.0.{TARGETS[module]}.weight"] for module in MODULES]
    config = TextToLoraConfig(
        blocks=header.info.block_count,
        modules=MODULES,
        inputs=tuple(shape[0] for shape in shapes),
        outputs=tuple(shape[1] for shape in shapes),
        rank=RANK,
        embedding=EMBEDDING,
        latent=16,
        head_input=16,
        head_bias=MODULES,
    )
    torch.manual_seed(4)
    net = TextToLora(config).requires_grad_(False).eval()
    run, target = write_run(folder / "run", net, base), folder / "bundle.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALHYPER_HOME", str(folder / "home"))
        assert import_checkpoint([str(run), "--base", str(header.info.path), "--output", str(target)]) == 0
    vector = np.random.default_rng(2).standard_normal(EMBEDDING).astype(np.float32)
    return Case(base, header, net, OnnxHypernetwork.load(target), vector)


def torch_logits(case: Case) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits of transformers' model without and with scaling · B A added to its matrices, float32 [tokens, vocab]."""
    from safetensors.torch import load_file

    config = json.loads((FIXTURES / f"{case.base}.json").read_text(encoding="utf-8"))
    settings = getattr(transformers, f"{CLASSES[case.base]}Config")(**{**config, "attn_implementation": "eager"})
    model: Any = getattr(transformers, f"{CLASSES[case.base]}ForCausalLM")(settings).float().eval()
    model.load_state_dict(load_file(FIXTURES / f"{case.base}.safetensors"), strict=False)
    ids = torch.from_numpy(IDS.astype(np.int64))[None]
    with torch.no_grad():
        plain = model(ids).logits[0].numpy()
        for module, pair in case.net(scaled(torch.from_numpy(case.vector))).items():
            for block, layer in enumerate(model.model.layers):
                part = layer.mlp if module in ("gate_proj", "up_proj", "down_proj") else layer.self_attn
                getattr(part, module).weight += ALPHA / RANK**0.5 * pair.b[block] @ pair.a[block]
        return plain, model(ids).logits[0].numpy()


def test_every_module_is_adapted_alike_in_torch_and_llama(case: Case, tmp_path: Path) -> None:
    plain, wanted = torch_logits(case)
    assert np.abs(plain - wanted).max() > 0.5, "the adapter must change something for this to mean anything"
    made = case.bundle.from_embedding(case.vector)
    assert set(made.targets) == set(TARGETS.values())
    write_adapter(tmp_path / "a.gguf", made, case.header.info, AdapterMetadata(), "f32")
    settings = EngineConfig(n_ctx=64, kv_type="f32", flash_attention=False)
    engine = LlamaEngine.load(case.header.info.path, settings)
    try:
        assert np.abs(engine.logits(IDS) - plain).max() <= LOGITS[case.base]
        engine.set_adapters([AdapterUse(tmp_path / "a.gguf")])
        assert np.abs(engine.logits(IDS) - wanted).max() <= LOGITS[case.base]
    finally:
        engine.close()
