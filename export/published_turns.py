"""The text round a chunk that a published hypernetwork was trained with: a user's turn after an empty system turn.

For the three published base models it is known token by token and recognised by the vocabulary; for others it is taken
from the chat template in the base model's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localhyper.base_header import BaseHeader
from localhyper.chat_template import ChatTemplate
from localhyper.engine import ChatMessage
from localhyper.errors import ModelError
from localhyper.gguf_header import GgufHeader, read_header

_MARK = "localhyper:the-chunk"  # stands for the chunk in a rendered template; no template holds it
MAX_TEXT = 10_000  # most characters a bundle may put before or after a chunk


@dataclass(frozen=True)
class Turn:
    """What stands round a chunk.

    Attributes:
        prefix: Text before it, with the beginning-of-text token where the model wants one.
        suffix: Text after it: the turn ended, the assistant's opened.
        pieces: Token id to the vocabulary's spelling, for all tokens of both; how a known turn is recognised.
    """

    prefix: str
    suffix: str
    pieces: Mapping[int, str]


# Doc-to-LoRA's own token ids. A tokenizer with a space before every text adds the one that `▁[` begins with.
KNOWN = (
    Turn(  # google/gemma-2-2b-it
        "<bos><start_of_turn>user\n\n\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        {
            2: "<bos>",
            106: "<start_of_turn>",
            1645: "user",
            110: "\n\n\n",
            107: "<end_of_turn>",
            108: "\n",
            2516: "model",
        },
    ),
    Turn(  # mistralai/Mistral-7B-Instruct-v0.2
        "<s>[INST] \n\n",
        "[/INST]",
        {1: "<s>", 733: "▁[", 16289: "INST", 28793: "]", 28705: "▁", 13: "<0x0A>", 28748: "/"},
    ),
    Turn(  # Qwen/Qwen3-4B-Instruct-2507, and every model of its tokenizer
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        {151644: "<|im_start|>", 8948: "system", 198: "Ċ", 151645: "<|im_end|>", 872: "user", 77091: "assistant"},
    ),
)


def turn_texts(base: BaseHeader) -> tuple[str, str]:
    """Prefix and suffix of a chunk for a base model; empty but for the first token where it has no chat template.

    Raises:
        ModelError: The chat template is broken.
    """
    header = read_header(base.info.path)
    tokens = header.strings("tokenizer.ggml.tokens")
    for turn in KNOWN:
        if all(token < len(tokens) and tokens[token] == text for token, text in turn.pieces.items()):
            return turn.prefix, turn.suffix
    bos = _bos(header, tokens)
    prefix, suffix = _rendered(base, bos) if base.chat_template.strip() else ("", "")
    if bos and _adds_bos(header) and not prefix.startswith(bos):
        prefix = bos + prefix
    return prefix, suffix.removeprefix(" ") if _adds_space(header) else suffix


def _rendered(base: BaseHeader, bos: str) -> tuple[str, str]:
    template, user = ChatTemplate(base.chat_template, base.info.name, bos), ChatMessage("user", _MARK)
    try:
        text = template.render([ChatMessage("system", ""), user])
    except ModelError:  # some templates know no system turn
        text = template.render([user])
    prefix, mark, suffix = text.partition(_MARK)
    if not mark or max(len(prefix), len(suffix)) > MAX_TEXT:
        raise ModelError(f"the chat template of `{base.info.name}` does not show the message", "use another file of it")
    return prefix, suffix


def _bos(header: GgufHeader, tokens: tuple[str, ...]) -> str:
    number = header.metadata.get("tokenizer.ggml.bos_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else ""


def _adds_bos(header: GgufHeader) -> bool:
    """As llama.cpp: what the file says, else whether it is a SentencePiece tokenizer."""
    says = header.metadata.get("tokenizer.ggml.add_bos_token")
    return says if isinstance(says, bool) else header.text("tokenizer.ggml.model") == "llama"


def _adds_space(header: GgufHeader) -> bool:
    if header.text("tokenizer.ggml.model") != "llama":
        return False
    says = header.metadata.get("tokenizer.ggml.add_space_prefix")
    return says if isinstance(says, bool) else True
