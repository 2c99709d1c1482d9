"""The turn round a chunk for imported hypernetworks: known vocabularies, templates, and what llama.cpp makes of it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from localhyper.base_header import BaseHeader
from localhyper.engine import BaseModelInfo
from localhyper.errors import ModelError
from localhyper.export.published_turns import KNOWN, Turn, turn_texts
from localhyper.llama_engine import LlamaEngine
from tests.tiny_gguf import CHATML, TinySpec, tiny_weights

GEMMA, MISTRAL, QWEN = KNOWN
IDS = (  # of Doc-to-LoRA's own table
    ((2, 106, 1645, 110), (107, 108, 106, 2516, 108)),
    ((1, 733, 16289, 28793, 28705, 13, 13), (733, 28748, 16289, 28793)),
    ((151644, 8948, 198, 151645, 198, 151644, 872, 198), (151645, 198, 151644, 77091, 198)),
)


def header(
    path: Path, tokens: list[str], template: str = "", *, model: str = "gpt2", bos: int | None = None, **flags: bool
) -> BaseHeader:
    """A file with a vocabulary only, and the header of it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    if bos is not None:
        writer.add_bos_token_id(bos)
    for key, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    info = BaseModelInfo("toy", path, "llama", 1, 8, 8, 1, 1, 64, len(tokens), "F32", 1, "0" * 64)
    return BaseHeader(info, {}, 8, 8, template, ())


def vocabulary(pieces: dict[int, str]) -> list[str]:
    return [pieces.get(index, f"[{index}]") for index in range(max(pieces) + 1)]


@pytest.mark.parametrize("turn", KNOWN, ids=["gemma", "mistral", "qwen"])
def test_a_published_base_is_known_by_its_vocabulary(tmp_path: Path, turn: Turn) -> None:
    base = header(tmp_path / "v.gguf", vocabulary(dict(turn.pieces)), "{{ raise_exception('unused') }}")
    assert turn_texts(base) == (turn.prefix, turn.suffix)
    table = IDS[KNOWN.index(turn)]
    assert {token for side in table for token in side} == set(turn.pieces)
    for text, ids in zip((turn.prefix, turn.suffix), table, strict=True):
        spelt = "".join(turn.pieces[token] for token in ids)
        spelt = spelt.replace("▁", " ").replace("<0x0A>", "\n").replace("Ċ", "\n")
        assert spelt.replace(" ", "") == text.replace(" ", "")


def test_another_base_is_read_from_its_template(tmp_path: Path) -> None:
    base = header(tmp_path / "v.gguf", ["<s>", "a"], CHATML, bos=0, add_bos_token=True)
    prefix, suffix = turn_texts(base)
    assert prefix.startswith("<s><|im_start|>system\n<|im_end|>") and prefix.endswith("<|im_start|>user\n")
    assert suffix == "<|im_end|>\n<|im_start|>assistant\n"
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    no_system += "{{ bos_token }}U: {{ messages[0].content }} A:"
    assert turn_texts(header(tmp_path / "n.gguf", ["<s>"], no_system, bos=0, add_bos_token=True)) == ("<s>U: ", " A:")
    # A SentencePiece tokenizer puts the space before a text itself, and a first token by default.
    assert turn_texts(header(tmp_path / "s.gguf", ["<s>"], no_system, model="llama", bos=0)) == ("<s>U: ", "A:")
    assert turn_texts(header(tmp_path / "e.gguf", ["<s>"], model="llama", bos=0)) == ("<s>", "")
    assert turn_texts(header(tmp_path / "w.gguf", ["<s>"], bos=0)) == ("", "")
    for bad in ("no message", "{{ messages[1].content }}{{ 'x' * 20000 }}", "{{ messages[0"):
        with pytest.raises(ModelError):
            turn_texts(header(tmp_path / "b.gguf", ["<s>"], bad))


@pytest.mark.native
def test_the_default_models_tokenizer_splits_the_chat_markup_as_the_table_says(default_model_path: Path) -> None:
    engine = LlamaEngine.load(default_model_path)
    try:
        for text, ids in zip((QWEN.prefix, QWEN.suffix), IDS[2], strict=True):
            # Other ids than Qwen's, and perhaps two for a word; but nothing runs over a border of the table.
            one_by_one = [engine.tokenize(QWEN.pieces[token].replace("Ċ", "\n"), special=True) for token in ids]
            assert engine.tokenize(text, special=True).tolist() == np.concatenate(one_by_one).tolist()
    finally:
        engine.close()


def sentencepiece_model(path: Path, spec: TinySpec, pieces: list[str], *, add_space: bool) -> Path:
    """A base model with a SentencePiece vocabulary: bytes, characters and whole pieces with the steps to them."""
    control = ["<unk>", "<s>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    steps = {piece[:end] for piece in pieces for end in range(1, len(piece) + 1)} | set("".join(pieces))
    rest = sorted(steps, key=lambda piece: (-len(piece), piece))
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *rest]
    weights = tiny_weights(spec)
    weights["token_embd.weight"] = np.resize(weights["token_embd.weight"], (len(tokens), spec.hidden))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name("spm")
    writer.add_block_count(spec.blocks)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.heads_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) if token in steps else 0.0 for token in tokens])
    writer.add_token_types(
        [2 if t == "<unk>" else 3 if t in control else 6 if t.startswith("<0x") else 1 for t in tokens]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(add_space)
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.native
@pytest.mark.parametrize(("turn", "ids", "add_space"), [(GEMMA, IDS[0], False), (MISTRAL, IDS[1], True)])
def test_llama_splits_the_published_turns_as_the_table_says(
    tmp_path: Path, turn: Turn, ids: tuple[tuple[int, ...], tuple[int, ...]], add_space: bool
) -> None:
    whole = [piece for piece in turn.pieces.values() if not piece.startswith("<")]
    path = sentencepiece_model(tmp_path / "spm.gguf", TinySpec(), whole, add_space=add_space)
    tokens = gguf.GGUFReader(path).get_field("tokenizer.ggml.tokens")
    assert tokens is not None
    names = tokens.contents()
    engine = LlamaEngine.load(path)
    try:
        for text, wanted in zip((turn.prefix, turn.suffix), ids, strict=True):
            got = [names[token] for token in engine.tokenize(text, special=True)]
            assert got == [turn.pieces[token] for token in wanted]
    finally:
        engine.close()
