"""An embedder run by onnxruntime gives the vector that its own transformer gives in torch, token by token alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is in the [train] extra")
pytest.importorskip("onnxscript", reason="onnxscript is in the [train] extra")
pytest.importorskip("onnxruntime", reason="onnxruntime is in the [cpu] extra")
transformers = pytest.importorskip("transformers", reason="transformers is in the [dev] extra")

from localhyper.bundle import EmbeddingSpec  # noqa: E402
from localhyper.text_embedding import Embedder  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.torch, pytest.mark.slow]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "sort", "the", "word", "##s", "alpha", "##bet", "##ically", ".", "in"]
TEXT = "  Sort the WORDS alphabetically in Latin\n"
IDS = [2, 4, 5, 6, 7, 8, 9, 10, 12, 1, 11, 3]  # as BERT's word pieces are cut, with the full stop
HIDDEN = 32


class _States(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is what importorskip gives
    """Takes the inputs by position, which the exporter names."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, types: Any) -> Any:
        """Token ids, mask and types [batch, tokens] to states [batch, tokens, hidden]."""
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state


def write_bert(folder: Path) -> Any:
    """A small BERT with random weights, exported with its tokenizer as a hub repository holds them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False).float().eval()
    (folder / "onnx").mkdir(parents=True)
    tokens = torch.export.Dim("tokens", min=2, max=64)
    example = torch.ones((1, 7), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13's exporter calls its own deprecated functions
        torch.onnx.export(
            _States(model),
            (example, example.clone(), example * 0),  # one tensor given twice would become one input
            folder / "onnx" / "model.onnx",
            input_names=["input_ids", "attention_mask", "token_type_ids"],
            output_names=["last_hidden_state"],
            dynamic_shapes=({1: tokens},) * 3,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config.to_json_file(folder / "config.json")
    return model


def test_a_bert_gives_the_same_vector_in_torch_and_onnxruntime(tmp_path: Path) -> None:
    model, embedder = write_bert(tmp_path), Embedder.open(tmp_path, threads=1)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
    for pooling, wanted in (("first", states[0]), ("last", states[-1]), ("mean", states.mean(0))):
        spec = EmbeddingSpec(HIDDEN, "owner/bert", pooling, full_stop=True)
        made = embedder.embed(TEXT, spec, 64)
        assert (made.tokens, made.truncated) == (len(IDS), False)
        assert np.abs(made.vector - wanted).max() <= 5e-6
    cut = embedder.embed(TEXT, EmbeddingSpec(HIDDEN, "owner/bert", "first", full_stop=True), 6)
    with torch.no_grad():
        ids = torch.tensor([[*IDS[:5], 3]])
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
    assert (cut.tokens, cut.truncated) == (6, True) and np.abs(cut.vector - states[0]).max() <= 5e-6
