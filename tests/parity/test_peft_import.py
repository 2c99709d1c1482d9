"""Adapters that the `peft` library saved, imported: llama.cpp gives PEFT's logits, and the way back PEFT's tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
peft = pytest.importorskip("peft", reason="peft is in the [dev] extra")

from safetensors.numpy import load_file  # noqa: E402

from localhyper.adapter_export import export_peft  # noqa: E402
from localhyper.adapter_import import ImportOptions, import_adapter  # noqa: E402
from localhyper.adapter_merge import MergeSource, merge_adapters, store_merged  # noqa: E402
from localhyper.database import Database  # noqa: E402
from localhyper.engine import AdapterUse, EngineConfig  # noqa: E402
from localhyper.gguf_adapter import read_adapter  # noqa: E402
from localhyper.library import AdapterInfo, Library  # noqa: E402
from localhyper.llama_engine import LlamaEngine  # noqa: E402
from localhyper.paths import Paths  # noqa: E402
from localhyper.registry import Registry, load_registry  # noqa: E402
from tests.parity.hugging_face import FloatArray, logits, tiny_hugging_face  # noqa: E402
from tests.tiny_gguf import TinySpec, write_tiny_gguf  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.torch,
    pytest.mark.native,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

IDS = np.array([1, 40, 70, 99, 103, 40, 12, 200, 201, 5, 40, 70], np.int32)
EXACT = EngineConfig(n_ctx=64, threads=1, threads_batch=1, flash_attention=False, kv_type="f32")
# llama.cpp looks GELU up in a table of half precision: the Gemma base alone is 3e-4 off, without any adapter.
LIMITS = {"llama": 1e-5, "qwen3": 1e-5, "gemma2": 1e-3}
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
T2L = Path(__file__).parent / "fixtures" / "t2l_generated_lora"

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": SEVEN},
    "rslora": {"r": 4, "lora_alpha": 4, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": SEVEN,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(up|down)_proj": 6},
        "alpha_pattern": {"model.layers.0.mlp.down_proj": 3, "v_proj": 16},
    },
    "some blocks": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "k_proj", "down_proj"],
        "layers_to_transform": [1, 2],
    },
    "pattern of modules": {"r": 3, "lora_alpha": 3, "target_modules": r".*layers\.[02]\.self_attn\.(q|o)_proj"},
}


class Place:
    """A library and a tiny base model of one architecture."""

    def __init__(self, root: Path, paths: Paths, architecture: str) -> None:
        self.spec = TinySpec(architecture, blocks=3)
        self.base = write_tiny_gguf(paths.create().models_dir / "tiny.gguf", self.spec)
        self.library = Library(Database(paths.library_db), paths.adapters_dir)
        self.registry: Registry = load_registry(paths)
        self.root = root

    def saved(self, name: str, seed: int = 0, **config: Any) -> tuple[Path, FloatArray]:
        """A folder as PEFT saves it, with b drawn at random, and the logits that PEFT gives with it."""
        torch.manual_seed(seed)
        made = peft.LoraConfig(task_type="CAUSAL_LM", **config)
        model = peft.get_peft_model(tiny_hugging_face(self.spec), made).eval()
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_B" in key:
                    value.normal_(0, 0.3)
        model.save_pretrained(self.root / name)
        return self.root / name, logits(model, IDS)

    def take(self, path: Path) -> AdapterInfo:
        return import_adapter(path, self.library, self.registry, ImportOptions(default_base=str(self.base))).adapter


def relative(got: FloatArray, wanted: FloatArray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_gives_pefts_logits(tmp_path: Path, paths: Paths, architecture: str, variant: str) -> None:
    place = Place(tmp_path, paths, architecture)
    folder, wanted = place.saved("trained", **VARIANTS[variant])
    made = place.take(folder)
    with LlamaEngine.load(place.base, EXACT) as engine:
        plain = engine.logits(IDS)
        engine.set_adapters([AdapterUse(made.path)])
        got = engine.logits(IDS)
    assert relative(plain, wanted) > 0.05, "the adapter must matter for this test to mean anything"
    assert relative(got, wanted) < LIMITS[architecture]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_what_comes_back_out_is_what_went_in(tmp_path: Path, paths: Paths, architecture: str) -> None:
    """PEFT's factor is in b afterwards; a has not changed at all, and PEFT reads the result."""
    place = Place(tmp_path, paths, architecture)
    folder, wanted = place.saved("trained", r=4, lora_alpha=8, use_rslora=True, target_modules=SEVEN)
    back = export_peft(place.take(folder), place.registry, tmp_path / "back").folder
    before, after = (load_file(where / "adapter_model.safetensors") for where in (folder, back))
    assert before.keys() == after.keys()
    for name, array in before.items():
        factor = np.float32(4.0) if "lora_B" in name else np.float32(1.0)  # 8 / √4
        assert np.array_equal(after[name].astype(np.float32), array * factor)
    got = logits(peft.PeftModel.from_pretrained(tiny_hugging_face(place.spec), back), IDS)
    assert relative(got, wanted) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_a_merge_gives_the_logits_of_the_set(tmp_path: Path, paths: Paths, architecture: str) -> None:
    place = Place(tmp_path, paths, architecture)
    scales = (1.0, -0.5, 0.75)
    variants = [VARIANTS[name] for name in ("plain", "patterns", "some blocks")]
    rows = [place.take(place.saved(f"a{n}", seed=n, **config)[0]) for n, config in enumerate(variants)]
    sources = [MergeSource(row.name, row.path, scale, row) for row, scale in zip(rows, scales, strict=True)]
    merged = store_merged(place.library, merge_adapters(sources, 0), sources, "all", "f32")
    with LlamaEngine.load(place.base, EXACT) as engine:
        plain = engine.logits(IDS)
        engine.set_adapters([AdapterUse(source.path, source.scale) for source in sources])
        wanted = engine.logits(IDS)
        engine.set_adapters([AdapterUse(merged.path)])
        got = engine.logits(IDS)
    assert np.abs(wanted - plain).max() > 0.3, "the adapters must matter for this test to mean anything"
    assert np.abs(got - wanted).max() <= 1e-3


GOLDEN = {
    "q_proj.A": "47f0be61e0650d9f58c24bf34dc49027711ce9678f64085434efd9403ac9a10a",
    "q_proj.B": "65f35098140021ab98bc23bd8574608f642126d208c730ea846d089497835440",
    "v_proj.A": "7db7578c94fb3fd6eacd35b4478b0240d2cca878d653caa16284f1685394e56e",
    "v_proj.B": "9aae70fe067e01ba8af6e249c4304ace585d9da265a080ac491770750235aa3a",
}
T2L_SCALING = 5.656854249492381  # alpha 16 / √8


def test_a_folder_that_text_to_lora_wrote_is_its_golden_adapter(tmp_path: Path, paths: Paths) -> None:
    """The folder's tensors are the reference's own (by digest); imported, they are those times its scaling."""
    raw = load_file(T2L / "adapter_model.safetensors")
    spec = TinySpec(blocks=3, heads_kv=1, ffn=128)
    base = write_tiny_gguf(tmp_path / "base.gguf", spec)
    library = Library(Database(paths.create().library_db), paths.adapters_dir)
    made = import_adapter(T2L, library, load_registry(paths), ImportOptions(default_base=str(base))).adapter
    assert (made.kind, made.rank) == ("peft", 8)
    assert "made for `base_llama`" in made.notes[-1]
    found = read_adapter(made.path)[0].targets
    for module, part, heads in (("attn_q", "q_proj", 4), ("attn_v", "v_proj", 0)):
        a, b = (
            np.stack([raw[f"base_model.model.model.layers.{i}.self_attn.{part}.lora_{half}.weight"] for i in range(3)])
            for half in "AB"
        )
        for half, array in (("A", a), ("B", b)):
            assert hashlib.sha256(array.tobytes()).hexdigest() == GOLDEN[f"{part}.{half}"]
        assert np.array_equal(found[module].a, a)
        rows = in_pairs(b.shape[1], spec.head_width) if heads else np.arange(b.shape[1])
        assert np.abs(found[module].b - T2L_SCALING * b[:, rows].astype(np.float64)).max() < 1e-6


def in_pairs(rows: int, width: int) -> np.ndarray:
    """Which of transformers' rows each row of a llama GGUF is: a head's halves become pairs."""
    head, inner = np.arange(rows) // width * width, np.arange(rows) % width
    order: np.ndarray = head + inner // 2 + inner % 2 * (width // 2)
    return order
