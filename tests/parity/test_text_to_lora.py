"""Published Text-to-LoRA checkpoints give the reference's numbers in torch, as a bundle, as adapters, in llama.cpp."""

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
transformers = pytest.importorskip("transformers", reason="transformers is in the [dev] extra")
peft = pytest.importorskip("peft", reason="peft is in the [dev] extra")

from localhyper.base_header import BaseHeader, read_base_header  # noqa: E402
from localhyper.cli import main as command  # noqa: E402
from localhyper.engine import AdapterUse, EngineConfig  # noqa: E402
from localhyper.export.checkpoint_file import open_checkpoint  # noqa: E402
from localhyper.export.import_checkpoint import main as import_checkpoint  # noqa: E402
from localhyper.export.published import TARGETS  # noqa: E402
from localhyper.export.published_task import load_task_network, read_config, read_task_run  # noqa: E402
from localhyper.export.text_to_lora import LoraPair, TextToLora, scaled  # noqa: E402
from localhyper.gguf_adapter import AdapterMetadata, read_adapter, unpermute_for_base, write_adapter  # noqa: E402
from localhyper.hypernet import OnnxHypernetwork  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.lora import LoraWeights  # noqa: E402
from localhyper.paths import Paths  # noqa: E402
from localhyper.peft_folder import TENSORS, PeftBase, write_peft_folder  # noqa: E402
from tests.parity.gguf_base import FIXTURES, write_reference_base  # noqa: E402
from tests.parity.hugging_face import reference_model  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),  # peft and transformers
]

RUNS = ("mistral_sft", "llama_sft_vq", "mistral_sft_shared", "mistral_recon_zscore")
TOLERANCE = 5e-6
LOGITS = 1e-4
SCALING = 16 / 8**0.5
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """One reference run, imported, and what the reference made of each of two embeddings."""

    name: str
    header: BaseHeader
    net: TextToLora
    scaling: float
    bundle: OnnxHypernetwork
    golden: tuple[dict[str, NDArray[Any]], ...]

    @property
    def family(self) -> str:
        return self.name.split("_")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        return self.net.config.modules

    def vector(self, index: int) -> FloatArray:
        found: FloatArray = self.golden[index]["task_emb"][0]
        return found

    def far(self, pairs: dict[str, tuple[FloatArray, FloatArray]], index: int, prefix: str = "") -> float:
        """Largest absolute difference of a and b, in the reference's layout, from a set of the goldens."""
        assert pairs.keys() == set(self.modules)
        return max(
            far(part, self.golden[index][f"{prefix}{side}.{module}"])
            for module, pair in pairs.items()
            for side, part in zip("AB", pair, strict=True)
        )

    def published(self, weights: LoraWeights) -> dict[str, tuple[FloatArray, FloatArray]]:
        """LoRA weights of ours in the reference's layout: scaling taken off, rows in Hugging Face's order."""
        return {module: self._published(module, weights) for module in self.modules}

    def _published(self, module: str, weights: LoraWeights) -> tuple[FloatArray, FloatArray]:
        target = weights.targets[TARGETS[module]]
        assert target.layers == tuple(range(self.header.info.block_count))
        info, b = self.header.info, target.b / np.float32(self.scaling)
        return target.a, unpermute_for_base(b, info.head_count, info.architecture) if module == "q_proj" else b


def far(got: Any, want: NDArray[Any]) -> float:
    assert tuple(got.shape) == want.shape
    return float(np.abs(np.asarray(got) - want).max())


@pytest.fixture(scope="module", params=RUNS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The reference's own files through the command."""
    name, folder = str(request.param), tmp_path_factory.mktemp(request.param)
    run_folder, target = FIXTURES / "t2l" / name, folder / "bundle.onnx"
    base = write_reference_base(f"base_{name.split('_')[0]}", folder / "base.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCALHYPER_HOME", str(folder / "home"))
        assert import_checkpoint([str(run_folder), "--base", str(base), "--output", str(target)]) == 0
    header, run = read_base_header(base), read_task_run(run_folder / "hypermod.pt")
    with open_checkpoint(run.weights) as checkpoint:
        net = load_task_network(checkpoint, read_config(checkpoint, run, header))
    golden = []
    for index in (0, 1):
        with np.load(run_folder / f"golden_{index}.npz", allow_pickle=False) as file:
            golden.append({key: file[key] for key in file.files})
    return Reference(name, header, net, run.settings.scaling, OnnxHypernetwork.load(target), tuple(golden))


def arrays(pairs: dict[str, LoraPair]) -> dict[str, tuple[FloatArray, FloatArray]]:
    return {module: (pair.a.numpy(), pair.b.numpy()) for module, pair in pairs.items()}


@pytest.mark.parametrize("index", [0, 1])
def test_torch_gives_the_references_matrices_and_not_those_of_swapped_modules(reference: Reference, index: int) -> None:
    golden = reference.golden[index]
    assert list(reference.modules) == golden["module_order"].tolist()
    assert golden["module_index"].tolist() == [0, 1]
    with torch.no_grad():
        vector = scaled(torch.from_numpy(reference.vector(index)) * 0.03)  # of any length
        raw = reference.net.raw(vector)
        task = reference.net.task_encoder(vector[None])
        final = reference.net.finish(raw)
    assert far(task, golden["encoded_task_emb"]) <= TOLERANCE
    assert reference.far(arrays(raw), index, "raw_") <= TOLERANCE
    assert reference.far(arrays(final), index) <= TOLERANCE
    assert reference.far(arrays(final), index, "alt_") > 100 * TOLERANCE


@pytest.mark.parametrize("index", [0, 1])
def test_bundle_gives_the_references_matrices(reference: Reference, index: int) -> None:
    assert reference.scaling == pytest.approx(float(reference.golden[index]["scaling"])) == pytest.approx(SCALING)
    made = reference.bundle.from_embedding(reference.vector(index))
    assert reference.far(reference.published(made), index) <= TOLERANCE
    assert reference.far(reference.published(made), index, "alt_") > 100 * TOLERANCE


def test_bundle_takes_a_vector_of_any_length(reference: Reference) -> None:
    for factor in (1e-30, 1e-4, 1.0, 1e4, 1e30):  # also where squares overflow
        made = reference.bundle.from_embedding(reference.vector(1) * np.float32(factor))
        assert reference.far(reference.published(made), 1) <= TOLERANCE


@pytest.mark.parametrize("index", [0, 1])
def test_adapter_file_holds_the_references_matrices(reference: Reference, index: int, tmp_path: Path) -> None:
    made = reference.bundle.from_embedding(reference.vector(index))
    write_adapter(tmp_path / "a.gguf", made, reference.header.info, AdapterMetadata(), "f32")
    back, _ = read_adapter(tmp_path / "a.gguf")
    assert reference.far(reference.published(back), index) <= TOLERANCE


@pytest.mark.parametrize("index", [0, 1])
def test_peft_folder_gives_the_references_files_and_logits(reference: Reference, index: int, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    info, golden = reference.header.info, reference.golden[index]
    made, base = (
        reference.bundle.from_embedding(reference.vector(index)),
        PeftBase("base", info.architecture, info.head_count),
    )
    write_peft_folder(tmp_path / "out", made, base, AdapterMetadata())
    if index == 0:
        got = load_file(tmp_path / "out" / TENSORS)
        want = load_file(FIXTURES / "t2l" / reference.name / "generated_lora" / TENSORS)
        assert got.keys() == want.keys()
        for key, values in want.items():  # the scaling is in our B, theirs stands in the configuration
            factor = np.float32(reference.scaling if ".lora_B." in key else 1.0)
            assert far(got[key] / factor, values) <= TOLERANCE
    model = reference_model(f"base_{reference.family}")
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "out")
    with torch.no_grad():
        logits = adapted(torch.from_numpy(golden["prompt_ids"])).logits
        adapted = adapted.unload()
        plain = model(torch.from_numpy(golden["prompt_ids"])).logits
    assert far(plain, golden["logits_base"]) <= LOGITS
    assert far(logits, golden["logits_adapted"]) <= LOGITS
    assert far(plain, golden["logits_adapted"]) > 1.0, "the adapter must change something for this to mean anything"


@pytest.mark.native
def test_llama_gives_the_references_logits(reference: Reference, tmp_path: Path) -> None:
    settings = EngineConfig(n_ctx=64, kv_type="f32", flash_attention=False)
    engine = LlamaEngine.load(reference.header.info.path, settings)
    try:
        for index in (0, 1):
            golden, path = reference.golden[index], tmp_path / f"{index}.gguf"
            made = reference.bundle.from_embedding(reference.vector(index))
            write_adapter(path, made, reference.header.info, AdapterMetadata(), "f32")
            ids = golden["prompt_ids"][0].astype(np.int32)
            engine.set_adapters([])
            assert far(engine.logits(ids), golden["logits_base"][0]) <= LOGITS
            engine.set_adapters([AdapterUse(path)])
            logits = engine.logits(ids)
            assert far(logits, golden["logits_adapted"][0]) <= LOGITS
            assert np.array_equal(logits.argmax(-1), golden["logits_adapted"][0].argmax(-1))
    finally:
        engine.close()


@pytest.mark.parametrize("index", [0, 1])
def test_the_command_gives_the_references_matrices(
    reference: Reference, index: int, tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.create().config_file.write_text('[adapter]\ndtype = "f32"\n')
    np.save(tmp_path / "vector.npy", reference.vector(index))
    models = ["--base", str(reference.header.info.path), "--hypernet", str(reference.bundle.info.path)]
    assert command(["attach", "--task", "A task.", "--embedding", str(tmp_path / "vector.npy"), *models, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    weights, metadata = read_adapter(Path(row["path"]))
    assert reference.far(reference.published(weights), index) <= TOLERANCE
    assert (row["kind"], row["rank"], metadata.base_fingerprint) == ("task", 8, reference.header.info.fingerprint)


def test_bundle_says_where_it_comes_from_and_what_it_reads(reference: Reference) -> None:
    info = reference.bundle.info
    assert info.embedding is not None and not info.capture.taps and not info.capture.ffn_blocks
    assert (info.kind, info.rank, info.chunk_tokens, info.embedding.size) == ("task", 8, 8192, 1024)
    assert (info.embedding.model, info.embedding.pooling) == ("Alibaba-NLP/gte-large-en-v1.5", "first")
    assert info.embedding.full_stop and not info.embedding.prefix
    assert info.targets == {name: tuple(range(info.base_block_count)) for name in ("attn_q", "attn_v")}
    assert info.base_fingerprint == reference.header.info.fingerprint
    source: Any = info.card["source"]
    assert source["file"] == f"{reference.name}/hypermod.pt" and len(source["sha256"]) == 64
    assert info.card["base_model_name_or_path"] == f"base_{reference.family}"
    assert str(FIXTURES).encode() not in info.path.read_bytes()
