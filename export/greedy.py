"""Greedy replies of the base model to many requests at once, in PyTorch: where a GPU is, faster than one by one.

Keys and values of a group are kept between tokens, in rows as wide as its longest prompt and reply.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from localhyper.export.prompts import PromptFormat
from localhyper.export.torch_base import TorchBase


class KeyValueCache:
    """Keys and values of a group of rows, each at its own length.

    Padding on the right of a prompt is written too, but lies after all that a row's last token may look at, until a
    token of the reply takes its place.
    """

    def __init__(self, base: TorchBase, rows: int, width: int) -> None:
        self.base = base
        weight = base.get_buffer("token_embd_weight")
        size = (base.shape.blocks, rows, base.shape.kv_heads, width, base.shape.head_size)
        self.keys, self.values = weight.new_zeros(size), weight.new_zeros(size)
        self._sharing = base.shape.heads // base.shape.kv_heads
        self._rows, self._columns = (torch.arange(n, device=weight.device) for n in (rows, width))

    def prefill(self, ids: Tensor) -> Tensor:
        """Read prompts [rows, tokens], right-padded; the stream after the last block [rows, tokens, hidden]."""
        tokens = ids.shape[1]
        seen = self._columns[:tokens] <= self._columns[:tokens, None]
        return self._run(ids, self._columns[None, :tokens], seen.repeat(self._sharing, 1), tokens)

    def step(self, ids: Tensor, places: Tensor, seen: int) -> Tensor:
        """Read one token a row, ids and places [rows]; the stream [rows, hidden]. No place is `seen` or beyond."""
        mask = self._columns[None, :seen] <= places[:, None]
        return self._run(ids[:, None], places[:, None], mask[:, None, None], seen)[:, 0]

    def _run(self, ids: Tensor, places: Tensor, mask: Tensor, seen: int) -> Tensor:
        def attend(block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[block][self._rows[:, None], :, places] = k.transpose(1, 2)
            self.values[block][self._rows[:, None], :, places] = v.transpose(1, 2)
            # Heads that share keys are as good as more tokens that look at them: nothing is copied for each head.
            shared = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
            kept = self.keys[block, :, :, :seen], self.values[block, :, :, :seen]
            return F.scaled_dot_product_attention(shared, *kept, attn_mask=mask).reshape(q.shape)

        x, _ = self.base.run(self.base.embed(ids), 0, self.base.shape.blocks, attend=attend, places=places)
        return x


@torch.no_grad()
def greedy_group(base: TorchBase, prompts: Sequence[Sequence[int]], end: int, max_tokens: int) -> list[list[int]]:
    """Continue prompts (token ids) by up to `max_tokens` most likely tokens; `end` and what follows is left out."""
    device = base.cos.device
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows, done = torch.arange(len(prompts), device=device), torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache = KeyValueCache(base, len(prompts), longest + max_tokens)
    x = cache.prefill(ids.to(device))[rows, starts - 1]
    made: list[Tensor] = []
    while True:
        made.append(base.logits(x).argmax(-1))
        done |= made[-1] == end
        if len(made) == max_tokens or bool(done.all()):
            break
        x = cache.step(made[-1], starts + len(made) - 1, longest + len(made))
    replies = torch.stack(made, 1).tolist()
    return [reply[: reply.index(end)] if end in reply else reply for reply in replies]


def greedy_replies(
    base: TorchBase,
    tokenizer: Tokenizer,
    prompts: PromptFormat,
    requests: Sequence[str],
    max_tokens: int,
    longest: int,
    group: int = 256,
) -> list[str]:
    """The greedy reply to each request, "" for one of more than `longest` tokens; groups are of like length."""
    encoded = [
        one.ids for one in tokenizer.encode_batch([prompts.render(r) for r in requests], add_special_tokens=False)
    ]
    fitting = sorted((i for i, ids in enumerate(encoded) if len(ids) <= longest), key=lambda i: len(encoded[i]))
    end = tokenizer.token_to_id(prompts.end_of_turn)
    assert end is not None  # it comes from the same file
    replies = [""] * len(requests)
    for first in range(0, len(fitting), group):
        chosen = fitting[first : first + group]
        made = greedy_group(base, [encoded[i] for i in chosen], end, max_tokens)
        for i, ids in zip(chosen, made, strict=True):
            replies[i] = tokenizer.decode(ids).strip()
    return replies
