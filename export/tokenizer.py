"""The base model's tokenizer, rebuilt from its GGUF file, so that training needs no llama.cpp.

A test holds it equal to llama.cpp's. Only byte-level BPE with single digits (`smollm`) and GPT-2's pre-tokenizer are
known.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from localhyper.errors import ModelError
from localhyper.export.base_file import open_base

CONTROL_TOKEN = 3
# llama.cpp's `smollm` pre-tokenizer: digits one by one, then GPT-2's pattern.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def load_tokenizer(path: Path) -> Tokenizer:
    """Tokenizer of a GGUF base model.

    Raises:
        ModelError: Not a GGUF file, or a pre-tokenizer that training does not know.
    """
    reader = open_base(path)

    def field(name: str) -> object:
        entry = reader.fields.get(f"tokenizer.ggml.{name}")
        return entry.contents() if entry is not None else None

    if field("model") != "gpt2" or field("pre") not in ("smollm", "gpt-2"):
        raise ModelError(f"training knows the pre-tokenizers 'smollm' and 'gpt-2', got {field('pre')!r}")
    tokens, merges, types = field("tokens"), field("merges"), field("token_type")
    assert isinstance(tokens, list) and isinstance(merges, list) and isinstance(types, list)
    vocab = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if field("pre") == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *steps,
            pre_tokenizers.Split(Regex(GPT2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind == CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens(control)
    return tokenizer
